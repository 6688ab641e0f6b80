"""Command `export`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dh2l.errors import UserError
from dh2l.io.files import write_atomically
from study.cli.console import out
from study.cli.options import (
    DATA,
    RESULTS,
    DataOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    load_plugins,
    load_state,
)
from study.formats import ExportFormat, FrameKind, LatexStyle
from study.records.paths import Places, expanded

if TYPE_CHECKING:
    from study.reporting.latex import Look


def export(
    study: StudyArgument,
    kind: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="Rendered tables: md, latex, html. Tidy frames: csv, json, parquet."
        ),
    ] = "md",
    of: Annotated[
        FrameKind, typer.Option("--of", help="Rows of a frame: cells, trials or epochs.")
    ] = "cells",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", parser=expanded, help="File; default: stdout."
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="One rendered table: accuracy, evidence, super-class, ahd, severity or "
            "probabilities; default: all.",
        ),
    ] = None,
    style: Annotated[
        LatexStyle,
        typer.Option(
            "--style",
            help="LaTeX: one column wide (tabular), both columns (wide), or with page breaks "
            "(longtable).",
        ),
    ] = "tabular",
    bold: Annotated[
        bool, typer.Option("--bold", help="LaTeX: print the best value of each column in bold.")
    ] = False,
    siunitx: Annotated[
        bool, typer.Option("--siunitx", help="LaTeX: align numbers with siunitx.")
    ] = False,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
) -> None:
    """Export the tables of a study, or the numbers behind them, for papers and notebooks."""
    from study.reporting.export import exported
    from study.reporting.latex import Look
    from study.state.results import StudyResults

    look = Look(style, bold=bold, siunitx=siunitx)
    _require_consistent(kind, of, output, table, look)
    load_plugins(plugin)
    evaluated = StudyResults(load_state(study, set_, Places.of(results, data), check_arrays=True))
    content = exported(evaluated, kind, of, table=table, look=look)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        write_atomically(output, content)
    except OSError as error:
        raise UserError(
            f"--output {output}: cannot be written ({error.strerror}). Pass another path."
        ) from None
    out.print(f"{output}: {len(content)} bytes", markup=False)


def _require_consistent(
    kind: ExportFormat, of: FrameKind, output: Path | None, table: str | None, look: "Look"
) -> None:
    """Check that the format has the other options.

    Raises:
        UserError: it does not.
    """
    from study.reporting.export import FRAME_FORMATS
    from study.reporting.latex import Look

    if of != "cells" and kind not in FRAME_FORMATS:
        *most, last = FRAME_FORMATS
        raise UserError(
            f"--format {kind} has no --of {of}; expected {', '.join(most)} or {last}. Pass one of "
            "them."
        )
    if look != Look() and kind != "latex":
        raise UserError(
            f"--format {kind} has no --style, --bold or --siunitx; expected latex. Use --format "
            "latex."
        )
    if table is not None and kind in FRAME_FORMATS:
        raise UserError(
            f"--format {kind} has no --table; expected md, latex or html. Use --of to choose a "
            "frame."
        )
    if kind == "parquet" and output is None:
        raise UserError(
            "--format parquet is binary; expected a file. Pass e.g. --output cells.parquet."
        )
