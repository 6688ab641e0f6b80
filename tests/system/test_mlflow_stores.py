"""MLflow stores that were moved, are damaged, or are none: records and tables do not care, and a
sync mends a view.
"""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import alembic.command
import mlflow.store
import pytest
import sqlalchemy
from alembic.config import Config
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.tracking.dbmodels.initial_models import Base
from mlflow_servers import free_port, wait_until
from study_fixtures import SMALL, CommandLine, clean_environment, command, done, write_study
from view_fixtures import file_record, view_of

from dh2l.data import read_manifest
from dh2l.errors import UserError
from study.records.paths import Places
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile
from study.tracking.database import move_damaged_aside, prepare
from study.tracking.uri import store_exists, store_file, store_name, tracking_uri


@pytest.fixture
def study(tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study, all of whose trials are done; the working folder is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = write_study(tmp_path, SMALL)
    for config in make_plan(
        StudyFile(file), lambda name: read_manifest(name, cli.places.data)
    ).choosing.values():
        file_record(cli.places, done(config, 90 + config.seed))
    return file


def files_in(folder: Path) -> dict[Path, int]:
    """The files in a folder, and when each was written."""
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


def tables(places: Places) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in places.table("small").iterdir()}


def parent(client: MlflowClient) -> Run:
    (experiment,) = (e for e in client.search_experiments() if e.name == "dh2l-study")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`dh2l.kind` = 'study'")
    return run


def not_complete(printed: str) -> str:
    """Return the reason why a run's view is not complete, as the run prints it once."""
    (line,) = re.findall(
        r"^MLflow: +not complete \((.+)\); later: .*mlflow sync .+$", printed, re.MULTILINE
    )
    return str(line)


def sync(study: Path, places: Places) -> "subprocess.CompletedProcess[str]":
    """In a process of its own, for MLflow keeps what it once opened: databases, and where a run's
    artifacts are.
    """
    return command("mlflow", "sync", study, "--results", places.results, "--data", places.data)


def test_results_that_were_moved_have_the_same_tables_train_nothing_and_open_their_artifacts(
    tmp_path: Path, cli: CommandLine, study: Path
) -> None:
    old, new = cli.places, Places.of(tmp_path / "élsewhere, moved" / "runs", cli.places.data)
    assert cli("run", study)[0] == 0
    records, before, view = (
        files_in(old.local / "trials"),
        tables(old),
        view_of(tracking_uri(old), "small", times=True),
    )
    new.local.parent.mkdir()
    old.local.rename(new.local)
    cli.places = new
    code, printed, error = cli("run", study)
    assert (code, error) == (0, "")
    assert "Ray" not in printed
    assert (files_in(new.local / "trials"), tables(new)) == (records, before)
    assert view_of(tracking_uri(new), "small", times=True) == view
    client = MlflowClient(tracking_uri=tracking_uri(new))
    run_id = parent(client).info.run_id
    opened = Path(client.download_artifacts(run_id, "table.md", str(tmp_path)))
    assert opened.read_text(encoding="utf-8") == before["table.md"]

    next((new.local / "trials").glob("*.json")).unlink()
    assert sync(study, new).returncode == 0
    (table,) = new.mlflow.rglob("table.md")
    assert table.read_text(encoding="utf-8") not in ("", before["table.md"])
    assert not old.local.exists()


def test_a_damaged_store_is_set_aside_by_a_run_and_by_a_sync_which_make_the_view_again(
    tmp_path: Path, cli: CommandLine, study: Path
) -> None:
    assert cli("run", study)[0] == 0
    store, view = store_file(cli.places), view_of(tracking_uri(cli.places), "small")
    truncated = store.read_bytes()[: store.stat().st_size // 2]
    for number, again in (
        (1, partial(cli, "run", study)),
        (2, partial(cli, "mlflow", "sync", study)),
    ):
        store.write_bytes(truncated)
        refused = cli.mistake(
            "ui", "--port", free_port(), "--results", cli.places.results, placed=False
        )
        assert re.search(
            r"is damaged \(.+\)\. Run `dh2l-study mlflow sync STUDY`: it moves the store aside and",
            refused,
        )
        code, _, error = again()
        aside = store.with_name(f"damaged-{number}.db")
        assert code == 0
        said = (
            f"warning: the MLflow store was damaged and has been moved to {aside}. The new store "
            "contains only"
        )
        assert " ".join(error.split()).startswith(said)
        assert aside.read_bytes() == truncated
        assert (
            view_of(f"sqlite:///{shutil.copy(store, tmp_path / f'{number}.db')}", "small") == view
        )


MAKING = """
import resource, signal, sys
from sqlalchemy.exc import OperationalError
from study.records.paths import Places
from study.tracking.database import prepare
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    prepare(Places.of(sys.argv[1], "data"))
except OperationalError:
    sys.exit(3)
"""


def making(places: Places, most_bytes: int) -> "subprocess.Popen[bytes]":
    """A process that prepares a store, and may write files of so many bytes."""
    words = [sys.executable, "-c", MAKING, str(places.results), str(most_bytes)]
    return subprocess.Popen(words, env=clean_environment(), cwd=places.local.parent)


def test_a_store_whose_making_is_killed_or_finds_no_room_is_made_anew(empty: Places) -> None:
    file = empty.mlflow / "making.db"
    with making(empty, 1 << 30) as process:
        wait_until(lambda: file.exists() and file.stat().st_size > 100_000)
        process.kill()
    assert not store_exists(empty)
    with making(empty, 100_000) as process:
        assert process.wait(timeout=180) == 3
    assert os.listdir(empty.mlflow) == []
    prepare(empty)
    assert os.listdir(empty.mlflow) == ["mlflow.db"]
    assert move_damaged_aside(empty) is None


def changed(store: Path, target: Path, *statements: str) -> Path:
    """A copy of a store, with changes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(store, target)
    with closing(sqlite3.connect(target)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return target


HALVES = {
    "tables of a later version": "UPDATE alembic_version SET version_num = '89d3d66ed43f'",
    "no version": "DELETE FROM alembic_version",
    "a table is missing": "DROP TABLE webhooks",
}


@pytest.mark.parametrize("half", HALVES.values(), ids=list(HALVES))
def test_half_a_store_as_earlier_versions_left_it_is_set_aside(
    empty: Places, empty_store: Path, half: str
) -> None:
    content = changed(empty_store, store_file(empty), half).read_bytes()
    assert move_damaged_aside(empty) == (aside := empty.mlflow / "damaged-1.db")
    assert aside.read_bytes() == content
    assert os.listdir(empty.mlflow) == [aside.name]


def test_a_store_of_an_older_mlflow_is_migrated_on_a_copy(empty: Places, older: bytes) -> None:
    empty.mlflow.mkdir(parents=True)
    store_file(empty).write_bytes(older)
    with making(empty, len(older)) as process:
        assert process.wait(timeout=180) == 3
    assert store_file(empty).read_bytes() == older
    assert move_damaged_aside(empty) is None
    assert os.listdir(empty.mlflow) == ["mlflow.db"]
    (kept,) = (
        e
        for e in MlflowClient(tracking_uri=tracking_uri(empty)).search_experiments()
        if e.experiment_id == "7"
    )
    assert kept.name == "of an older MLflow"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store of an older MLflow, with an experiment."""
    path = tmp_path_factory.mktemp("older") / "mlflow.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    config = Config()
    config.set_main_option(
        "script_location", str(Path(mlflow.store.__file__).parent / "db_migrations")
    )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "89d3d66ed43f")
        connection.execute(
            sqlalchemy.text(
                "INSERT INTO experiments (experiment_id, name, lifecycle_stage, artifact_location) "
                "VALUES (7, 'of an older MLflow', 'active', 'file:///somewhere')"
            )
        )
    engine.dispose()
    return path.read_bytes()


NEWER = "UPDATE alembic_version SET version_num = 'ffffffffffff'"


def test_a_store_of_a_newer_mlflow_is_left_alone_with_a_remedy_that_works(
    cli: CommandLine, study: Path, empty_store: Path, tmp_path: Path
) -> None:
    store = changed(empty_store, store_file(cli.places), NEWER)
    content = store.read_bytes()
    said = cli.mistake("mlflow", "sync", study)
    assert said.startswith(
        f"the MLflow store {store_name(cli.places)}: its schema ffffffffffff belongs to another "
        "version of MLflow;"
    )
    assert said.endswith(
        f"or move {store} away and run `dh2l-study mlflow sync STUDY`, which builds a new store "
        "from the records."
    )
    assert "move" in cli.mistake(
        "ui", "--port", free_port(), "--results", cli.places.results, placed=False
    )
    assert store.read_bytes() == content
    store.rename(tmp_path / "away.db")
    assert cli("mlflow", "sync", study)[0] == 0


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (NEWER, "Install that version, or set MLFLOW_TRACKING_URI to another store."),
        (HALVES["tables of a later version"], "run `mlflow db upgrade` with its address; "),
    ],
    ids=["newer", "older"],
)
def test_a_store_of_one_s_own_of_another_schema_is_left_alone(
    empty: Places,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    remedy: str,
) -> None:
    mine = changed(empty_store, tmp_path / "mine.db", change)
    content = mine.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mine}")
    with pytest.raises(UserError, match=remedy):
        prepare(empty)
    assert mine.read_bytes() == content
    assert not empty.mlflow.exists()


def test_a_store_of_one_s_own_is_made_whole_too(
    empty: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    prepare(empty)
    assert os.listdir(empty.mlflow) == []
    with closing(sqlite3.connect(tmp_path / "mine.db")) as database:
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite+pysqlite://",
    ],
)
def test_a_store_that_keeps_nothing_is_refused_before_anything_is_trained(
    cli: CommandLine, study: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for words in (("run", study), ("mlflow", "sync", study)):
        said = cli.mistake(*words)
        assert said.startswith("MLFLOW_TRACKING_URI: sqlite")
        assert (
            " is a database in memory; expected a file, e.g. sqlite:////home/me/mlflow.db. " in said
        )


def test_a_results_path_may_have_letters_that_mean_something_in_an_address(
    cli: CommandLine, study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "50%3Foff?mode=ro#é & more"
    cli.places = Places.of(folder / "results", cli.places.data)
    cli.places.mlflow.mkdir(parents=True)
    shutil.copytree(tmp_path / "results" / "trials", folder / "results" / "trials")
    before = {*tmp_path.iterdir()}
    for _ in range(2):
        assert cli("mlflow", "sync", study)[0::2] == (0, "")
    client = MlflowClient(tracking_uri=tracking_uri(cli.places))
    run = parent(client)
    opened = Path(client.download_artifacts(run.info.run_id, "table.md", str(tmp_path / "results")))
    (saved,) = cli.places.mlflow.rglob("table.md")
    assert opened.read_text(encoding="utf-8") == saved.read_text(encoding="utf-8")
    with closing(sqlite3.connect(store_file(cli.places))) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (7,)
    assert {*tmp_path.iterdir()} == before
    assert [*folder.iterdir()] == [cli.places.local]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with a table of some pages."""
    path = tmp_path_factory.mktemp("sound") / "sound.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE numbers (value TEXT)")
        database.executemany("INSERT INTO numbers VALUES (?)", [("x" * 100,)] * 1000)
    database.close()
    return path.read_bytes()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda sound: sound[: len(sound) // 2],
    "cut off within a page": lambda sound: sound[:5000],
    "garbage": lambda _: b"\xff" * 5000,
    "garbage within": lambda sound: sound[:8192] + b"\xff" * 4096 + sound[12288:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_whatever_is_damaged_is_set_aside_and_overwrites_nothing(
    empty: Places, sound: bytes, damage: Callable[[bytes], bytes]
) -> None:
    store = empty.mlflow / "mlflow.db"
    store.parent.mkdir(parents=True)
    for number in (1, 2):
        store.write_bytes(damage(sound))
        assert move_damaged_aside(empty) == (aside := store.with_name(f"damaged-{number}.db"))
        assert aside.read_bytes() == damage(sound)
    assert sorted(path.name for path in empty.mlflow.iterdir()) == ["damaged-1.db", "damaged-2.db"]


@pytest.mark.parametrize("content", ["sound", "nothing"])
def test_a_sound_store_stays_and_an_empty_file_becomes_one(
    empty: Places, empty_store: Path, content: str
) -> None:
    sound = empty_store.read_bytes()
    empty.mlflow.mkdir(parents=True)
    store_file(empty).write_bytes(sound if content == "sound" else b"")
    assert move_damaged_aside(empty) is None
    assert list(empty.mlflow.iterdir()) == [store_file(empty)]
    assert store_file(empty).stat().st_size == len(sound)
    if content == "sound":
        assert store_file(empty).read_bytes() == sound


def test_a_sound_store_that_another_program_writes_is_not_set_aside(
    cli: CommandLine, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.tracking.database.BUSY_TIMEOUT_S", 0.1)
    assert cli("run", study)[0] == 0
    with sqlite3.connect(cli.places.mlflow / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        assert cli.mistake("mlflow", "sync", study).endswith("database is locked")
        other.rollback()
    other.close()
    assert not list(cli.places.mlflow.glob("damaged*"))


def test_a_store_of_one_s_own_that_is_damaged_is_left_as_it_is(
    tmp_path: Path, cli: CommandLine, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.db"
    mine.write_bytes(b"\xff" * 5000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mine}")
    assert cli.mistake("mlflow", "sync", study).endswith("file is not a database")
    assert list(tmp_path.glob("*.db")) == [mine]
    assert mine.read_bytes() == b"\xff" * 5000


@pytest.mark.parametrize(
    "uri",
    [
        "nowhere://at-all",
        "runs.db",
        "http://[::1",
        "http://127.0.0.1:port",
        "http://127.0.0.1:FREE",
        "postgresql://me:a-password@127.0.0.1:port/runs",
        "postgresql://me:a-password@127.0.0.1:FREE/runs",
        "postgresql+nothing://me:a-password@127.0.0.1/runs",
    ],
)
def test_an_address_that_leads_to_no_store_is_a_sentence_for_a_sync_and_one_for_a_run_that_goes_on(
    cli: CommandLine, study: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := uri.replace("FREE", str(free_port())))
    sentence = cli.mistake("mlflow", "sync", study)
    assert sentence.startswith(f"the MLflow store {store_name(cli.places)} cannot be written: ")
    code, printed, error = cli("run", study)
    assert (code, error) == (0, "")
    assert "## " in printed
    assert not_complete(printed)
    assert "a-password" not in sentence + printed
    assert not list(Path.cwd().iterdir())
