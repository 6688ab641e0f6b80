"""Command `status`."""

from typing import TYPE_CHECKING

from rich.markup import escape

from study.cli.console import counts, out, print_json
from study.cli.options import (
    DATA,
    RESULTS,
    DataOption,
    JsonOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    load_plugins,
    load_state,
)
from study.records.paths import Places

if TYPE_CHECKING:
    from study.records.leases import Claim


def status(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of a study, its running trials, and its failures with their causes."""
    from study.execution.tally import tally_of
    from study.records.leases import Claims

    load_plugins(plugin)
    places = Places.of(results, data)
    state = load_state(study, set_, places)
    tally, leases = tally_of(state), Claims(places.claims)
    read = {i: leases.read(i) for i, its_state in state.states.items() if its_state == "running"}
    running = {i: lease for i, lease in read.items() if lease is not None}
    failures = {i: r.failure for i, r in state.found.records.items() if r.failure is not None}
    if as_json:
        print_json(
            {
                "study": state.plan.name,
                "counts": state.counts,
                "total": tally.total,
                "running": {i: lease.model_dump() for i, lease in running.items()},
                "failures": {i: failure.model_dump() for i, failure in failures.items()},
            }
        )
        return
    line = f"{state.plan.name}: {tally.over} of {tally} over; {counts(state)}"
    if tally.later:
        line += f", {tally.later} that depend on results"
    out.print(line)
    for identity, lease in running.items():
        out.print(f"  running {identity}: {_progress(lease)}")
    for identity, failure in failures.items():
        reason = escape(f"{failure.kind}: {failure.message}")
        out.print(f"  {state.states[identity]} {identity}: {reason}")
        if failure.log:
            log = escape(str(places.log(identity)))
            out.print(f"    last line of {log}: {escape(failure.log[-1])}")


def _progress(lease: "Claim") -> str:
    """Format the progress of a running trial, and the process that trains it."""
    epoch = f"epoch {lease.epoch}/{lease.epochs}"
    if lease.validation_accuracy is not None:
        epoch += f", validation {100 * lease.validation_accuracy:.2f}%"
    return f"{epoch} (process {lease.pid} on {escape(lease.host)})"
