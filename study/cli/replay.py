"""The command that trains a record's trial again: replay."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dh2l.wording import counted
from study.cli.console import INTERRUPTED, err, out, print_json
from study.cli.options import (
    DATA,
    RESULTS,
    DataOption,
    JsonOption,
    PluginOption,
    ResultsOption,
    check_device,
    load_plugins,
)
from study.records.paths import Places

if TYPE_CHECKING:
    from study.execution.replay import Replay

DIFFERENT = 1
"""Exit code of a replay that gave other numbers."""


def replay(
    identity: Annotated[
        str, typer.Argument(metavar="ID", help="A trial's identity, or enough of it to be unique.")
    ],
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: the record's.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="A torch device; default: of the record's kind.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a record's trial again, from the record alone, and compare. Writes nothing."""
    places = Places.of(results, data)
    load_plugins(plugin)
    check_device(device)

    from study.cli.progress import epoch_line
    from study.execution import replay as replays

    record, path = replays.replayable(identity, places)
    if not as_json:
        out.print(f"replaying {record.identity}")
    try:
        found = replays.replay(
            record,
            path,
            places,
            device=device,
            threads=threads,
            note=lambda config, epoch: None if as_json else out.print(epoch_line(config, epoch)),
        )
    except KeyboardInterrupt:
        err.print("interrupted; nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json({"agrees": found.agrees, **asdict(found)})
    else:
        _print(found)
    if not found.agrees:
        raise typer.Exit(DIFFERENT)


def _print(found: "Replay") -> None:
    if found.agrees:
        out.print(
            "[green]agrees[/green] bit for bit: every number, epoch, prediction and vector "
            f"({found.state})"
        )
    elif not found.differences:
        out.print(f"[yellow]agrees in part[/yellow]: the record's own numbers do ({found.state})")
    else:
        out.print(f"[red]differs[/red] in {counted(len(found.differences), 'place')}:")
        for difference in found.differences:
            note = f" ({difference.note})" if difference.note else ""
            out.print(
                escape(f"  {difference.what}: {difference.recorded} → {difference.replayed}{note}")
            )
        out.print(
            "what is known to be different about the two runs:"
            if found.circumstances
            else NOTHING_KNOWN
        )
        for change in found.circumstances:
            out.print(escape(f"  {change.what}: {change.recorded} → {change.replayed}"))
    if found.unread:
        out.print(f"[yellow]not compared:[/yellow] {escape(found.unread)}")


NOTHING_KNOWN = (
    "commit, versions, processor, device and threads are the same; what is left are uncommitted "
    "changes, a record that was altered, or on a GPU a trial without deterministic: true"
)
