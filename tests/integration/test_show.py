"""A record, printed: what the record says, and where its trial's files are."""

import json

import numpy as np
from study_fixtures import COMMIT, CommandLine, done, unfinished

from dh2l.config.train_config import TrainConfig
from study.records.arrays import arrays_path
from study.records.record import Failure, ProbabilityScores
from study.records.store import RecordStore

CONFIG = TrainConfig.parse(
    {"dataset": "digits", "epochs": 2, "metric": "cosine", "lambda_e": 0.1, "seed": 7}
)


def test_a_record_is_printed_with_its_config_numbers_history_and_files(cli: CommandLine) -> None:
    arrays = {
        "history.train_loss": np.array([2.5, 0.25]),
        "history.time": np.array([1.0, 2.0]),
        "predictions": np.ones(3),
    }
    store = RecordStore(cli.places.trials)
    record = store.write(done(CONFIG, 90, 88), arrays)
    code, printed, error = cli("show", "cosine-e0.1", "--results", cli.places.results, placed=False)
    assert (code, error) == (0, "")
    lines = [" ".join(line.replace("|", " ").split()) for line in printed.splitlines()]
    assert lines[0] == f"{CONFIG.identity}: done"
    assert {"lambda_e 0.1", "metric cosine", "seed 7", "epochs 2"} <= set(lines)
    assert not any(line.startswith(("momentum ", "lr ")) for line in lines)
    assert "2 (last) 90.00% 1 88.00% 1" in lines
    assert "train_loss 2.5 0.25" in lines
    assert f"commit {COMMIT[:10]}; a processor" in lines
    assert f"record: {store.path(CONFIG.identity)}" in lines
    assert any(line.startswith(f"arrays: {cli.places.trials / CONFIG.identity}.") for line in lines)
    shown = json.loads(
        cli("show", CONFIG.identity, "--json", "--results", cli.places.results, placed=False)[1]
    )
    assert shown.pop("files")["record"] == str(store.path(CONFIG.identity))
    assert shown == record.model_dump(mode="json")


def test_a_failure_is_printed_with_its_traceback_its_log_and_the_log_s_place(
    cli: CommandLine,
) -> None:
    failure = Failure(
        kind="ValueError",
        message="no [red] luck",
        epoch=1,
        traceback="a\nb.py, line 3\n",
        log=("said", "last"),
    )
    record = unfinished(CONFIG, "failed").model_copy(update={"failure": failure})
    RecordStore(cli.places.trials).write(record)
    log = cli.places.log(CONFIG.identity)
    log.parent.mkdir(parents=True)
    log.write_text("said\nlast\n", encoding="utf-8")
    _, printed, _ = cli("show", CONFIG.identity, "--results", cli.places.results, placed=False)
    assert "failure in epoch 1\nValueError: no [red] luck\n" in printed
    assert "traceback\na\nb.py, line 3\n" in printed
    assert "the log ends\nsaid\nlast\n" in printed
    assert f"log: {log}\n" in printed
    assert "numbers" not in printed


def test_arrays_that_are_lost_are_said_and_cost_nothing_else(cli: CommandLine) -> None:
    store = RecordStore(cli.places.trials)
    record = store.write(done(CONFIG, 90), {"history.train_loss": np.array([1.0])})
    arrays_path(record, store.path(CONFIG.identity)).unlink()
    code, printed, _ = cli("show", CONFIG.identity, "--results", cli.places.results, placed=False)
    assert code == 0
    assert "90.00%" in printed
    assert "cannot be read (No such file or directory)" in printed


def test_a_name_that_fits_no_record_is_a_sentence(cli: CommandLine) -> None:
    RecordStore(cli.places.trials).write(done(CONFIG, 90))
    said = cli.mistake("show", "cosin-e0.1", "--results", cli.places.results, placed=False)
    assert said.endswith(f"is of a trial 'cosin-e0.1'; near are: {CONFIG.identity}")


def test_probabilities_are_shown_with_their_measures_and_the_state_of_their_file(
    cli: CommandLine,
) -> None:
    measured = ProbabilityScores(
        nll=0.25,
        ece=0.0125,
        top5=None,
        ahd=0.125,
        level_accuracies=(0.95,),
        crm_accuracy=0.91,
        crm_ahd=0.1125,
        crm_mistake_severity=1.25,
    )
    record = done(CONFIG, 90)
    assert record.last is not None
    last = record.last.model_copy(update={"test_probabilities": measured})
    record = record.model_copy(update={"last": last, "best_validation": None})
    store = RecordStore(cli.places.trials)
    record = store.write(record, None, {"test.last": np.zeros((2, 3), np.float16)})
    file = store.probabilities_path(record)

    def shown() -> list[str]:
        words = ("show", CONFIG.identity, "--results", cli.places.results)
        printed = cli(*words, placed=False)[1]
        return [" ".join(line.replace("|", " ").split()) for line in printed.splitlines()]

    lines = shown()
    assert (
        "epoch AHD NLL ECE, % super-class summed, % CRM accuracy, % CRM AHD CRM severity" in lines
    )
    assert "2 (last) 0.125 0.25 1.25 95 91 0.1125 1.25" in lines
    assert f"probabilities: {file}" in lines
    file.write_bytes(file.read_bytes()[:50])
    assert f"probabilities: the probabilities {file} are damaged" in " ".join(shown())
    file.unlink()
    assert f"probabilities: {file} is missing" in shown()
