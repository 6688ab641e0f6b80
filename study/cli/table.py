"""Command `table`."""

from contextlib import suppress
from typing import Annotated, Literal

import typer

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
from study.records.paths import Places


def table(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    kind: Annotated[
        Literal["auto", "terminal", "md"],
        typer.Option(
            "--format",
            help="terminal folds tables to its width; auto: terminal on one, md elsewhere.",
        ),
    ] = "auto",
    csv: Annotated[bool, typer.Option("--csv", help="Print the cells as CSV.")] = False,
) -> None:
    """Print the accuracy table of a study, complete or not, and save it with the results."""
    from study.cli.terminal_tables import print_page
    from study.reporting.page import save, to_markdown
    from study.reporting.tables import render
    from study.spec.study_file import claim_name
    from study.state.results import StudyResults

    load_plugins(plugin)
    places = Places.of(results, data)
    state = load_state(study, set_, places, check_arrays=True)
    page = render(StudyResults(state))
    if places.trials.exists():
        with suppress(OSError):  # read-only results can still be read
            claim_name(state.plan.file, places)
            save(page, places.table(state.plan.name))
    if csv:
        out.print(page.frame.to_csv(index=False), end="", markup=False)
    elif kind == "terminal" or (kind == "auto" and out.is_terminal):
        print_page(page)
    else:
        out.print(to_markdown(page), end="", markup=False)
