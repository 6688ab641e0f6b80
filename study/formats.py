"""Names of frames and of export formats."""

from typing import Literal

FrameKind = Literal["cells", "trials", "epochs"]
"""The thing that a row of a frame describes."""
ExportFormat = Literal["md", "latex", "csv", "html", "json", "parquet"]
"""Formats of an export."""
LatexStyle = Literal["tabular", "wide", "longtable"]
"""Layout of a LaTeX table on the page."""
