"""The command that prints one record: show."""

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from study.cli.console import out, print_json, styled
from study.cli.options import DATA, RESULTS, JsonOption, PluginOption, ResultsOption, load_plugins
from study.records.paths import Places

if TYPE_CHECKING:
    import numpy as np

    from dh2l.io.files import AnyPath
    from study.records.record import Failure, Record

HASH = 12
"""Characters of a hash that are shown."""
SCORES = {
    "test_accuracy": "test",
    "test_super_accuracy": "super-class",
    "test_mistake_severity": "severity",
    "test_loss": "test loss",
    "validation_accuracy": "validation",
    "validation_loss": "validation loss",
}
"""Scores of an epoch, and the headings of their columns."""


def show(
    identity: Annotated[
        str, typer.Argument(metavar="ID", help="A trial's identity, or enough of it to be unique.")
    ],
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Print a trial's record: config, numbers, ends of its history, failure, and its files."""
    from study.records.lookup import find_record

    load_plugins(plugin)
    places = Places.of(results, DATA)
    record, path = find_record(identity, places)
    files = _files(record, path, places)
    if as_json:
        print_json({**record.model_dump(mode="json"), "files": files})
        return
    out.print(f"{record.identity}: {styled(record.state)}")
    _lines("trained", _circumstances(record))
    _grid("config that differs from the defaults", ["field", "value"], _config(record))
    if record.last is not None:
        _grid("numbers", *_numbers(record))
        _probabilities(record)
    _history(record, path)
    if record.failure is not None:
        _failure(record.failure)
    _lines("files", [f"{name}: {place}" for name, place in files.items()])


def _config(record: "Record") -> list[list[str]]:
    """Give the fields of a config whose values are not the defaults; those of a plugin always."""
    from dh2l.config.train_config import TrainConfig

    defaults = TrainConfig().model_dump(mode="json")
    fields = [
        key for key, value in record.config.items() if key not in defaults or value != defaults[key]
    ]
    return [[key, _value(key, record.config[key])] for key in fields]


def _value(key: str, value: Any) -> str:
    if key.endswith("_hash"):
        return str(value)[:HASH]
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _numbers(record: "Record") -> tuple[list[str], list[list[str]]]:
    """Give the header and the rows of the scores that there are."""
    named = {
        "last": record.last,
        "best on validation": record.best_validation,
        "best on test": record.best_test,
    }
    found = {
        f"{scores.epoch} ({name})": scores.model_dump()
        for name, scores in named.items()
        if scores is not None
    }
    there = [key for key in SCORES if any(values[key] is not None for values in found.values())]
    rows = [[name, *(_score(key, values[key]) for key in there)] for name, values in found.items()]
    return ["epoch", *(SCORES[key] for key in there)], rows


def _probabilities(record: "Record") -> None:
    """Print the measures of the predicted probabilities of each epoch that has them."""
    from study.analysis.quality import AHD, MEASURES, trial_measures

    epochs = {"last": record.last, "best on validation": record.best_validation}
    found = {
        f"{scores.epoch} ({name})": trial_measures(scores)
        for name, scores in epochs.items()
        if scores is not None
    }
    there = [
        measure
        for measure in (AHD, *MEASURES)
        if any(values[measure.name] is not None for values in found.values())
    ]
    if there:
        rows = [
            [name, *(_decimal(values[measure.name]) for measure in there)]
            for name, values in found.items()
        ]
        _grid("probabilities and decisions", ["epoch", *(m.heading for m in there)], rows)


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _score(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f}%" if key.endswith("accuracy") else f"{value:.4g}"


def _history(record: "Record", path: "AnyPath") -> None:
    from dh2l.errors import UserError
    from study.records.arrays import read_arrays

    if record.arrays_sha256 is None:
        return
    try:
        arrays = read_arrays(record, path)
    except UserError as error:
        _lines("history", [str(error)])
        return
    rows = [
        [name.removeprefix("history."), _number(values[0]), _number(values[-1])]
        for name, values in arrays.items()
        if name.startswith("history.")
        and name != "history.time"
        and values.ndim == 1
        and len(values)
    ]
    if rows:
        _grid("history", ["quantity", "first epoch", "last epoch"], rows)


def _number(value: "np.generic") -> str:
    return "" if math.isnan(value) else f"{float(value):.6g}"


def _circumstances(record: "Record") -> list[str]:
    from dh2l.wording import counted
    from study.cli.progress import duration

    then = record.provenance
    commit = then.commit[:10] if then.commit else "unknown"
    changed = ", with uncommitted changes" if then.dirty else ""
    hardware = ", ".join(
        str(value) for value in (then.hardware.get("cpu"), then.hardware.get("gpu")) if value
    )
    lines = [
        f"{then.started} to {then.finished}, {duration(then.duration_s)}; "
        f"{counted(then.retries, 'retry', 'retries')}",
        f"commit {commit}{changed}; {hardware or 'hardware unknown'}",
    ]
    for attempt in then.attempts:
        known = {
            key: attempt[key]
            for key in ("device", "threads", "first_epoch", "seconds")
            if key in attempt
        }
        words = ", ".join(
            f"{key.replace('_', ' ')} {_value(key, value)}" for key, value in known.items()
        )
        lines.append(f"attempt: {words}")
    if record.parameters is not None:
        lines.append(counted(record.parameters, "parameter"))
    return lines


def _failure(failure: "Failure") -> None:
    where = f" in epoch {failure.epoch}" if failure.epoch is not None else ""
    term = f", term {failure.term}" if failure.term else ""
    _lines(f"failure{where}{term}", [f"{failure.kind}: {failure.message}"])
    if failure.traceback:
        _lines("traceback", failure.traceback.rstrip("\n").splitlines())
    if failure.log:
        _lines("the log ends", list(failure.log))


def _files(record: "Record", path: "AnyPath", places: Places) -> dict[str, str]:
    """Give the files of a trial that are there."""
    from study.records.arrays import arrays_path

    its = {
        "record": path,
        "arrays": arrays_path(record, path),
        "log": places.log(record.identity),
        "checkpoints": places.checkpoint(record.identity),
    }
    found = {name: str(file) for name, file in its.items() if file.exists()}
    return found | _probabilities_file(record, places)


def _probabilities_file(record: "Record", places: Places) -> dict[str, str]:
    """Return the file of a record's predicted probabilities, marked where missing or damaged."""
    from dh2l.errors import UserError
    from study.records.store import RecordStore

    if record.probabilities_sha256 is None:
        return {}
    store = RecordStore(places.trials)
    file = store.probabilities_path(record)
    try:
        missing = store.read_probabilities(record) is None
    except UserError as error:
        return {"probabilities": str(error)}
    return {"probabilities": f"{file} is missing" if missing else str(file)}


def _grid(title: str, header: list[str], rows: list[list[str]]) -> None:
    from study.cli.terminal_tables import print_grid

    out.print()
    out.print(Text(title, style="bold"))
    print_grid(header, rows, keys=1)


def _lines(title: str, lines: list[str]) -> None:
    out.print()
    out.print(Text(title, style="bold"))
    for line in lines:
        out.print(line, markup=False)
