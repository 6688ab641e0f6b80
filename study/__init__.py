"""The study harness: from a study file through tracked trials to accuracy tables.

frame = study.frame("my_study.yaml")               # one row per cell of its table
curves = study.frame("my_study.yaml", of="epochs")  # one row per epoch of every trial
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from dh2l.atomic import AnyPath

Of = Literal["cells", "trials", "epochs"]
"""What a row of a frame is."""
Format = Literal["md", "latex", "csv", "html", "json", "parquet"]
"""Formats of an export."""


def frame(
    study: str | Path,
    of: Of = "cells",
    *,
    overrides: Sequence[str] = (),
    results: str | AnyPath = "results",
    data: str | Path = "data",
    plugins: Sequence[str | Path] = (),
) -> pd.DataFrame:
    """A study's results, complete or not, as a tidy frame; trains nothing.

    Args:
        study: a shipped study's name, or a file.
        of: what a row is: one of the `cells`, `trials` or `epochs`. The columns are those of
            `study.frames.cell_frame`, `trial_frame` and `epoch_frame`.
        overrides: changes of the study's values, each ``key=value`` as after ``--set``.
        results: folder of records and tables, or the URL of a place in an object store.
        data: folder of prepared data sets.
        plugins: users' code that the study needs, files or modules.

    Raises:
        UserError: a mistake in the study; data that are not prepared; an `of` that is none of the three.
    """
    import warnings

    from dh2l import plugins as users
    from dh2l.errors import UserError, unknown_name
    from study.frames import FRAMES
    from study.opening import open_study
    from study.places import Places

    if of not in FRAMES:
        raise UserError(unknown_name("frame", of, FRAMES))
    for plugin in plugins:
        users.load(str(plugin))

    def say(sentence: str) -> None:
        warnings.warn(sentence, stacklevel=4)

    places = Places.of(results, data)
    return FRAMES[of](open_study(str(study), list(overrides), places, note=lambda _: None, warn=say))
