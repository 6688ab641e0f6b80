"""The command that trains one trial: trial."""

from typing import Annotated

import typer
from rich.markup import escape

from dh2l.errors import UserError
from study.cli.console import SOME_FAILED, err, interrupted, out, styled, warn
from study.cli.options import (
    DATA,
    RESULTS,
    DataOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    check_device,
    load_plugins,
)
from study.records.paths import Places


def trial(
    study: StudyArgument,
    identity: Annotated[
        str, typer.Argument(metavar="ID", help="A trial's identity, or enough of it to be unique.")
    ],
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: 1, as under `run`.")
    ] = 1,
    device: Annotated[
        str | None, typer.Option(help="A torch device; default: the GPU where there is one.")
    ] = None,
) -> None:
    """Train one trial in this process, without Ray or MLflow. Leaves the same record as `run`."""
    places = Places.of(results, data)
    load_plugins(plugin)
    from study.state.load import open_study_to_run

    state = open_study_to_run(study, set_, places, warn=warn)
    config = state.plan.config(_find_trial(identity, list(state.states)))
    if state.states[config.identity] == "conflict":
        raise UserError(state.found.conflicts[config.identity])
    check_device(device)

    from study.cli.progress import epoch_line
    from study.execution.interrupts import Interrupt
    from study.execution.run import RunOptions, trial_options
    from study.execution.trial import run_to_completion, run_trial
    from study.records.store import RecordStore

    record = state.found.records.get(config.identity)
    if record is None or not record.settled:
        training = run_trial(
            config,
            places,
            device=device,
            threads=threads,
            options=trial_options(RunOptions(study), state),
        )
        try:
            with Interrupt(err.print) as asked:
                record = run_to_completion(
                    training,
                    lambda epoch: out.print(epoch_line(config, epoch)),
                    err.print,
                    lambda: asked.raised,
                )
        except KeyboardInterrupt:
            raise interrupted() from None
    if record.last is None:
        reason = record.failure.message if record.failure else "no reason is recorded"
        outcome = f"{styled(record.state)}: {escape(reason)}"
    else:
        outcome = f"{styled(record.state)}: test {100 * record.last.test_accuracy:.2f}%"
    filed = RecordStore(places.trials).place(record)
    path = filed if filed.exists() else state.found.paths.get(config.identity, filed)
    out.print(f"{outcome}\nrecord: {escape(str(path))}")
    if record.last is None:
        raise typer.Exit(SOME_FAILED)


def _find_trial(text: str, identities: list[str]) -> str:
    matches = [i for i in identities if text in i]
    if text in identities or len(matches) == 1:
        return text if text in identities else matches[0]
    if matches:
        raise UserError(
            f"{text!r} fits {len(matches)} trials, among them {matches[0]} and {matches[1]}; give "
            "more of it"
        )
    raise UserError(
        f"unknown trial {text!r}; `dh2l-study plan STUDY --trials` lists the study's trials"
    )
