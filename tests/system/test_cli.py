"""The command line: what a user's mistakes lead to, what is printed, and what is imported for
it.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from study_fixtures import (
    SMALL,
    CommandLine,
    clean_environment,
    command,
    done,
    unfinished,
    write_study,
)

from dh2l.config.train_config import TrainConfig
from dh2l.data import prepare, read_manifest
from dh2l.io.document import Document
from study.cli.console import out as console
from study.cli.progress import RunProgress, duration
from study.execution.tally import Outlook, Tally
from study.records.leases import Claims
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.plan import Plan, make_plan
from study.spec.study_file import StudyFile, find_study, shipped_studies

ONE_EPOCH = SMALL.replace("epochs: 2", "epochs: 1")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, SMALL)


def plan_of(study: Path, places: Places) -> Plan:
    return make_plan(StudyFile(study), lambda name: read_manifest(name, places.data))


def file_all(study: Path, places: Places) -> list[TrainConfig]:
    """File a finished record of each trial: 90 percent under seed 0, 92 under seed 1."""
    configs = list(plan_of(study, places).choosing.values())
    for config in configs:
        RecordStore(places.trials).write(done(config, 90 + 2 * config.seed))
    return configs


# -- mistakes


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("metric: cosine", "metric: cosin", "7:5: unknown metric 'cosin'; did you mean 'cosine'?"),
        ("lambda_e: 0.1", "lambda_e: -0.1", "7:36: lambda_e is -0.1"),
        ("epochs: 2", "epoch: 2", "2:27: unknown config field 'epoch'; did you mean 'epochs'?"),
        (
            "seeds: [0, 1]",
            "seed: [0, 1]\nseeds: [0]",
            "8:1: unknown key 'seed'; did you mean 'seeds'?",
        ),
        ("[0, 1]", "[0, 1", "9:1: this is not valid YAML"),
        (
            "seeds: [0, 1]",
            "seeds: [0]\nseeds: [1]",
            "9:1: duplicate key 'seeds' in one mapping",
        ),
        ("dataset: digits", "dataset: mine", "2:10: the data set 'mine' is not prepared under "),
        ("model: resnet20", "model: resnet21", "4:26: unknown model 'resnet21'; did you mean "),
    ],
    ids=[
        "unknown metric",
        "negative λ",
        "unknown config field",
        "unknown key",
        "not YAML",
        "doubled key",
        "data not prepared",
        "unknown model",
    ],
)
@pytest.mark.parametrize(
    "verb", [["plan"], ["run", "--shard", "1/1"], ["table"]], ids=["plan", "run", "table"]
)
def test_a_mistake_in_a_study_is_one_sentence_with_its_place_and_exit_code_2(
    tmp_path: Path, cli: CommandLine, verb: list[str], old: str, new: str, sentence: str
) -> None:
    assert SMALL.count(old) == 1
    study = write_study(tmp_path, SMALL.replace(old, new))
    said = cli.mistake(verb[0], study, *verb[1:])
    assert said.startswith(f"{study}:{sentence}")
    assert not cli.places.results.exists()


def test_a_data_set_that_is_not_prepared_is_named_with_the_command_to_type(
    tmp_path: Path, cli: CommandLine
) -> None:
    study = write_study(tmp_path, SMALL.replace("dataset: digits", "dataset: cifar100"))
    assert cli.mistake("run", study).endswith("type: dh2l-study data prepare cifar100")


@pytest.mark.parametrize(
    "command", [["run", "--shard", "1/1"], ["run"], ["trial", "baseline"]], ids=" ".join
)
def test_a_results_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, cli: CommandLine, study: Path, command: list[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder", encoding="utf-8")
    words = [command[0], study, *command[1:]]
    for results in (file, file / "results"):
        said = cli.mistake(*words, results=results)
        assert said.startswith(f"the results folder {results} cannot be written (")
    assert file.read_text(encoding="utf-8") == "not a folder"


@pytest.mark.parametrize("command", ["plan", "status", "table"])
def test_reading_from_a_results_folder_that_cannot_exist_is_no_traceback(
    tmp_path: Path, cli: CommandLine, study: Path, command: str
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder", encoding="utf-8")
    for results in (file, file / "results"):
        code, out, error = cli(command, study, results=results)
        assert code in (0, 2)
        assert "Traceback" not in out + error


def test_syncing_mlflow_into_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, cli: CommandLine, study: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder", encoding="utf-8")
    assert "cannot be written" in cli.mistake("mlflow", "sync", study, results=file / "results")


def test_an_unknown_study_is_a_sentence_with_the_nearest_name(cli: CommandLine) -> None:
    assert cli.mistake("run", "quickstar").startswith(
        "unknown study 'quickstar'; did you mean 'quickstart'?"
    )


@pytest.mark.parametrize(
    "shard", ["0/2", "3/2", "1", "1/", "/2", "a/b", "-1/2", "1/0", "1.5/2", "²/3", "1/2/3"]
)
def test_a_bad_shard_is_a_sentence(cli: CommandLine, study: Path, shard: str) -> None:
    said = cli.mistake("run", study, f"--shard={shard}")
    assert said == f"--shard {shard!r} must read I/N with 1 ≤ I ≤ N, for instance --shard 1/4"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("epochs", "--set 'epochs' must have the form key=value"),
        ("epoch=2", "--set epoch: unknown config field 'epoch'; did you mean 'epochs'?"),
        ("epochs=0", "--set epochs: epochs is 0"),
        ("epochs=[1", "'[1' is not a valid YAML value"),
        ("seeds=[]", "--set seeds: seeds is []"),
        (
            "model=resnet32",
            "--set model: the study's rows, columns or axes set model, so it has no effect",
        ),
    ],
)
def test_a_bad_override_is_a_sentence(
    cli: CommandLine, study: Path, override: str, sentence: str
) -> None:
    said = cli.mistake("plan", study, "--set", override)
    assert said.startswith(sentence)


def test_an_unknown_or_ambiguous_trial_is_a_sentence(cli: CommandLine, study: Path) -> None:
    assert "unknown trial 'nonsense'" in cli.mistake("trial", study, "nonsense")
    assert "'digits' fits 4 trials" in cli.mistake("trial", study, "digits")


@pytest.mark.parametrize("name", ["../up", "Große", "", "downloads"])
def test_a_name_that_cannot_be_a_data_set_s_is_a_sentence(
    cli: CommandLine, tmp_path: Path, name: str
) -> None:
    said = cli.mistake(
        "data", "prepare", name, "--from", tmp_path, "--data", tmp_path / "data", placed=False
    )
    assert "cannot name a data set" in said


def test_the_ui_without_a_store_is_a_sentence(cli: CommandLine, tmp_path: Path) -> None:
    said = cli.mistake("ui", "--results", tmp_path / "results", placed=False)
    assert said.startswith("there is no MLflow store at ")


# -- damaged records


@pytest.mark.parametrize("damage", ["truncated", "edited"])
def test_a_damaged_record_is_warned_of_set_aside_by_a_run_and_never_averaged(
    tmp_path: Path, cli: CommandLine, damage: str
) -> None:
    study = write_study(tmp_path, ONE_EPOCH)
    first, *_ = file_all(study, cli.places)
    path = RecordStore(cli.places.trials).path(first.identity)
    raw = path.read_bytes()
    damaged = raw[:-100] if damage == "truncated" else raw.replace(b"0.9,", b"0.1,")
    assert damaged != raw
    path.write_bytes(damaged)

    for _ in range(2):
        code, out, error = cli("table", study)
        assert code == 0
        assert error.startswith(f"warning: the record {path} is left out: ")
        assert "| 92.00 (n=1), missing (1 of 2) |" in out
    assert path.read_bytes() == damaged

    _, out, error = cli("run", study, "--shard", "2/4")
    assert f"warning: the record {path} is left out: " in error
    assert "set aside in " in error
    assert "| 92.00 (n=1), missing (1 of 2) |" in out
    assert not path.exists()
    assert [file.read_bytes() for file in cli.places.set_aside.iterdir()] == [damaged]

    code, out, error = cli("run", study, "--shard", "1/4")
    assert (code, error) == (0, "")
    assert path.exists()
    assert "missing" not in out


def test_records_that_disagree_are_warned_of_with_both_names_and_neither_is_averaged(
    cli: CommandLine, study: Path
) -> None:
    first, *_ = file_all(study, cli.places)
    RecordStore(cli.places.trials / "machine-2").write(done(first, 91))
    code, out, error = cli("run", study, "--no-mlflow")
    assert code == 1
    assert error.count(f"{first.identity}.json") == 2
    assert "| 92.00 (n=1), conflict (1 of 2) |" in out
    assert len(list(cli.places.trials.rglob("*.json"))) == 5


# -- what is printed


def test_the_plan_is_valid_json(cli: CommandLine, study: Path) -> None:
    configs = file_all(study, cli.places)
    RecordStore(cli.places.trials).path(configs[3].identity).unlink()
    code, out, error = cli("plan", study, "--json")
    assert (code, error) == (0, "")
    plan = json.loads(out)
    assert (plan["study"], plan["combinations"], plan["counts"]) == (
        "small",
        4,
        {"planned": 1, "done": 3},
    )
    assert [trial["identity"] for trial in plan["trials"]] == [
        config.identity for config in configs
    ]
    assert [trial["state"] for trial in plan["trials"]] == ["done"] * 3 + ["planned"]
    assert plan["trials"][1]["config"] == configs[1].canonical()


def test_the_status_is_valid_json_with_what_runs_and_what_failed(
    cli: CommandLine, study: Path
) -> None:
    first, second, *_ = plan_of(study, cli.places).choosing.values()
    RecordStore(cli.places.trials).write(unfinished(second, "diverged"))
    with Claims(cli.places.claims).hold(first.identity, 2) as holder:
        holder.renew(1, 0.5)
        code, out, error = cli("status", study, "--json")
    assert (code, error) == (0, "")
    status = json.loads(out)
    assert status["counts"] == {"planned": 2, "running": 1, "diverged": 1}
    assert status["running"][first.identity]["pid"] == os.getpid()
    assert (
        status["running"][first.identity]["epoch"],
        status["running"][first.identity]["epochs"],
    ) == (1, 2)
    assert status["failures"][second.identity]["term"] == "energy"


def test_the_status_says_who_trains_and_why_a_trial_failed(cli: CommandLine, study: Path) -> None:
    first, second, *_ = plan_of(study, cli.places).choosing.values()
    RecordStore(cli.places.trials).write(unfinished(second, "failed"))
    with Claims(cli.places.claims).hold(first.identity, 2) as holder:
        holder.renew(1, 0.5)
        _, out, _ = cli("status", study)
    assert (
        f"running {first.identity}: epoch 1/2, validation 50.00% (process {os.getpid()} on " in out
    )
    assert f"failed {second.identity}: Failed: disk on fire" in out


def test_a_plan_and_a_table_train_nothing_and_write_nothing(cli: CommandLine, study: Path) -> None:
    for verb in ("plan", "status", "table"):
        assert cli(verb, study)[0] == 0
    assert not cli.places.results.exists()


def test_a_plan_says_how_many_trials_and_epochs_are_left(cli: CommandLine, study: Path) -> None:
    _, out, _ = cli("plan", study)
    assert "small: 4 trials in 2 cells.\n" in out
    assert "4 planned; `run` would train 4 trials (8 epochs)\n" in out


def test_a_plan_has_a_line_for_each_cell_and_on_request_for_each_trial(
    cli: CommandLine, study: Path
) -> None:
    configs = file_all(study, cli.places)
    RecordStore(cli.places.trials).path(configs[3].identity).unlink()
    _, heading, *cells = cli("plan", study)[1].splitlines()
    assert heading.split() == ["metric", "arm", "column", "candidates", "trials", "done", "others"]
    assert [line.split() for line in cells[:2]] == [
        ["baseline+l2", "digits", "1", "2", "2"],
        ["cosine", "E", "digits", "1", "2", "1"],
    ]
    assert configs[0].identity not in "".join(cells)
    listed = cli("plan", study, "--trials")[1].splitlines()
    assert [line.split() for line in listed[2:6]] == [
        [config.identity, state]
        for config, state in zip(configs, ["done"] * 3 + ["planned"], strict=True)
    ]


def test_a_complete_study_is_not_run_again_and_its_table_lies_where_the_run_says(
    cli: CommandLine, study: Path
) -> None:
    file_all(study, cli.places)
    code, out, error = cli("run", study, "--no-mlflow")
    assert (code, error) == (0, "")
    assert "Ray" not in out
    folder = cli.places.results / "tables" / "small"
    assert f"table:   {folder / 'table.md'} and cells.csv" in out
    assert f"records: {cli.places.trials}" in out
    assert (folder / "table.md").read_text(encoding="utf-8") in out
    assert "91.00 ± 1.41 (n=2)" in out


@pytest.mark.parametrize(
    "title", ["[red]Brackets[/red]", "An :x: and a :warning:", "Größe λ → ∞", "a" * 300]
)
def test_what_is_printed_is_the_text_as_it_is(tmp_path: Path, cli: CommandLine, title: str) -> None:
    study = write_study(
        tmp_path, SMALL.replace("title: A small study", f"title: {json.dumps(title)}")
    )
    assert cli("table", study)[1].startswith(f"# {title}\n")
    _, out, _ = cli("status", study, "--json", "--set", f"title={json.dumps(title)}")
    assert json.loads(out)["study"] == find_study(str(study), [f"title={json.dumps(title)}"]).name


def test_a_path_in_an_error_is_printed_as_it_is(tmp_path: Path, cli: CommandLine) -> None:
    folder = tmp_path / "[bold] :x: "
    folder.mkdir()
    study = write_study(folder, SMALL.replace("metric: cosine", "metric: cosin"))
    assert cli.mistake("plan", study).startswith(f"{study}:7:5: ")


def test_the_table_as_csv_has_a_line_per_cell(cli: CommandLine, study: Path) -> None:
    file_all(study, cli.places)
    _, out, _ = cli("table", study, "--csv")
    header, *lines = out.splitlines()
    assert header.startswith("row,arm,column,n,planned,accuracy,std,")
    assert [line.split(",")[:4] for line in lines] == [
        ["baseline+l2", "baseline+l2", "digits", "2"],
        ["cosine", "E", "digits", "2"],
    ]


def test_an_override_is_a_study_of_its_own_that_shares_trials(
    cli: CommandLine, study: Path
) -> None:
    file_all(study, cli.places)
    assert cli("run", study, "--set", "seeds=[0]", "--shard", "1/1")[0] == 0
    assert (cli.places.results / "tables" / "small@seeds=0" / "table.md").exists()


def test_the_shipped_studies_are_listed_first_those_that_anybody_can_run_and_nothing_is_cut(
    cli: CommandLine,
) -> None:
    _, out, _ = cli("list", placed=False)
    _, *lines, _ = out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["quickstart", "planted"]
    assert {line.split()[0] for line in lines} == set(shipped_studies())
    table2 = next(line for line in lines if line.startswith("table2 "))
    assert table2.split()[1:8] == ["540", "+", "200", "cifar100", "10.3", "billion", "images"]
    assert find_study("table2").study.title in table2
    listed = json.loads(cli("list", "--json", placed=False)[1])
    assert {entry["name"] for entry in listed} == set(shipped_studies())
    assert all(entry["title"] and entry["cost"] for entry in listed)


@pytest.mark.parametrize("name", ["mine", "mine.yaml"])
def test_a_study_file_to_start_from_is_planned_as_it_is_and_never_overwrites(
    tmp_path: Path, cli: CommandLine, name: str
) -> None:
    path = tmp_path / "mine.yaml"
    code, out, error = cli("init", tmp_path / name, placed=False)
    assert (code, error) == (0, "")
    assert out == f"{path}: edit it, then: dh2l-study plan {path}\n"
    assert cli("plan", path)[0] == 0
    assert find_study(str(path)).study.confirm is not None
    path.write_text("title: mine", encoding="utf-8")
    assert cli.mistake("init", tmp_path / name, placed=False).startswith(
        f"{path}: there is a file already; "
    )
    assert path.read_text(encoding="utf-8") == "title: mine"


def test_a_study_file_to_start_from_is_written_at_home_where_the_name_says_so(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli("init", "~/mine", placed=False)[0] == 0
    assert (tmp_path / "mine.yaml").exists()


def test_a_study_file_to_start_from_that_cannot_be_is_a_sentence(
    tmp_path: Path, cli: CommandLine
) -> None:
    assert cli.mistake("init", tmp_path / "quickstart", placed=False).startswith(
        "quickstart: a shipped study has "
    )
    (tmp_path / "file").write_text("", encoding="utf-8")
    said = cli.mistake("init", tmp_path / "file" / "mine", placed=False)
    assert said.startswith(f"{tmp_path / 'file' / 'mine.yaml'}: cannot be written (")


def test_the_schema_is_printed_as_json_that_the_shipped_studies_meet(cli: CommandLine) -> None:
    schema = json.loads(cli("schema", placed=False)[1])
    for path in shipped_studies().values():
        jsonschema.validate(Document(path, "a study").values, schema)


def test_data_are_prepared_listed_and_verified(tmp_path: Path, cli: CommandLine) -> None:
    data = tmp_path / "prepared"
    for words in (["prepare", "digits"], ["list"], ["verify", "digits"]):
        code, out, error = cli("data", *words, "--data", data, placed=False)
        assert (code, error) == (0, "")
        assert "digits: 1442 training and 355 test images of 8×8×1, classes 3 → 10" in out
    listed = cli("data", "list", "--data", data, placed=False)[1].splitlines()
    _, *others = [line.split()[0] for line in listed[1:]]
    assert others == ["planted", "cifar10", "cifar100", "cub200", "cars", "your"]
    (data / "digits" / "test_y.npy").write_bytes(b"damage")
    assert "test_y.npy" in cli.mistake("data", "verify", "digits", "--data", data, placed=False)


def test_the_digits_prepare_themselves(tmp_path: Path, cli: CommandLine, study: Path) -> None:
    cli.places = Places.of(tmp_path / "results", tmp_path / "fresh")
    assert cli("plan", study)[0] == 0
    assert prepare("digits", cli.places.data) == read_manifest("digits", cli.places.data)


# -- progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (59 * 60, "59 min"),
        (3600, "1 h 0 min"),
        (12000, "3 h 20 min"),
        (52 * 3600, "2 d 4 h"),
    ],
)
def test_a_duration_is_said_in_a_person_s_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_failure_s_message_is_shown_as_it_is(
    cli: CommandLine, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, *_ = configs = list(plan_of(study, cli.places).choosing.values())
    record = unfinished(config, "failed")
    assert record.failure is not None
    message = "no such file: [/tmp/x] [red] :x:"
    record = record.model_copy(
        update={"failure": record.failure.model_copy(update={"message": message})}
    )
    progress = RunProgress(console, Outlook(Tally(0, len(configs)), tuple(configs)))
    progress.on_trial_start(config)
    progress.on_trial_end(record)
    assert f"[1/4] failed {config.identity}: {message}\n" in capsys.readouterr().out


def test_a_trial_that_was_stopped_and_finished_later_is_counted_once(
    cli: CommandLine, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, *_ = configs = list(plan_of(study, cli.places).choosing.values())
    progress = RunProgress(console, Outlook(Tally(len(configs) - 1, 1), (config,)))
    for record in (unfinished(config, "stopped"), done(config, 90)):
        progress.on_trial_start(config)
        progress.on_trial_end(record)
    assert "\n[4/4] done " in capsys.readouterr().out


# -- imports


@pytest.mark.parametrize(
    ("words", "more"),
    [(["--help"], ["numpy", "pydantic"]), (["run", "--help"], ["numpy"]), (["list"], [])],
    ids=["help", "help of a command", "list"],
)
def test_help_and_list_import_no_heavy_library(words: list[str], more: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        "from study.cli import main\n"
        f"heavy = {['torch', 'ray', 'mlflow', 'pandas', 'sklearn', 'torchvision', *more]}\n"
        "atexit.register(lambda: print('IMPORTED', [name for name in heavy if name in "
        "sys.modules]))\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "IMPORTED []"
    assert len(ended.stdout.splitlines()) > 3


def test_python_m_study_is_the_command_line() -> None:
    ended = command("-h")
    assert ended.returncode == 0
    assert all(
        f"─ {group} ─" in ended.stdout for group in ("Train", "Look", "Take along", "Prepare")
    )
    assert "dh2l-study run quickstart" in ended.stdout
    for verb in (
        "list",
        "plan",
        "run",
        "trial",
        "replay",
        "status",
        "table",
        "data",
        "schema",
        "ui",
        "mlflow",
    ):
        assert f" {verb} " in ended.stdout


def test_the_version_is_the_package_s_and_shells_complete_the_names_of_studies(
    cli: CommandLine,
) -> None:
    assert cli("--version", placed=False) == (0, f"dh2l-study {version('dh2l-study')}\n", "")
    environment = clean_environment(
        _DH2L_STUDY_COMPLETE="complete_bash", COMP_WORDS="dh2l-study plan table1", COMP_CWORD="2"
    )
    program = Path(sys.executable).parent / "dh2l-study"
    ended = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["table1", "table1_paper"]


@pytest.mark.parametrize("words", [["run"], ["data", "list"], ["mlflow", "sync"]], ids=" ".join)
def test_every_command_has_the_short_option_for_help(cli: CommandLine, words: list[str]) -> None:
    code, out, _ = cli(*words, "-h", placed=False)
    assert code == 0
    assert "Usage: " in out


def test_a_reader_that_closes_its_end_leaves_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "study", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
