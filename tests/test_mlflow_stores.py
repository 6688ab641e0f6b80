"""MLflow stores that were moved, are damaged, or are none: records and tables do not care, and a sync mends a view."""

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_servers import free_port
from study_fixtures import SMALL, CommandLine, command, done, write_study
from view_fixtures import file_record, view_of

from dh2l.data import read_manifest
from study.places import Places
from study.plan import make_plan
from study.store import set_aside_damaged
from study.studyfile import StudyFile

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"  # MLflow's own queries
)


@pytest.fixture
def study(tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study, all of whose trials are done; the working folder is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = write_study(tmp_path, SMALL)
    for config in make_plan(StudyFile(file), lambda name: read_manifest(name, cli.places.data)).configs.values():
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
    """Why a run's view is not complete, as the run says once."""
    (line,) = re.findall(r"^MLflow: +not complete \((.+)\); later: .*mlflow sync .+$", printed, re.MULTILINE)
    return str(line)


def sync(study: Path, places: Places) -> "subprocess.CompletedProcess[str]":
    """In a process of its own, for MLflow keeps what it once opened: databases, and where a run's artifacts are."""
    return command("mlflow", "sync", study, "--results", places.results, "--data", places.data)


def test_results_that_were_moved_have_the_same_tables_train_nothing_and_open_their_artifacts(
    tmp_path: Path, cli: CommandLine, study: Path
) -> None:
    old, new = cli.places, Places.of(tmp_path / "élsewhere, moved" / "runs", cli.places.data)
    assert cli("run", study)[0] == 0
    records, before, view = files_in(old.local / "trials"), tables(old), view_of(old.tracking_uri, "small", times=True)
    new.local.parent.mkdir()
    old.local.rename(new.local)
    cli.places = new
    code, printed, error = cli("run", study)
    assert (code, error) == (0, "")
    assert "Ray" not in printed
    assert (files_in(new.local / "trials"), tables(new)) == (records, before)
    assert view_of(new.tracking_uri, "small", times=True) == view
    client = MlflowClient(tracking_uri=new.tracking_uri)
    run_id = parent(client).info.run_id
    opened = Path(client.download_artifacts(run_id, "table.md", str(tmp_path)))
    assert opened.read_text(encoding="utf-8") == before["table.md"]

    next((new.local / "trials").glob("*.json")).unlink()
    assert sync(study, new).returncode == 0
    (table,) = new.mlflow.rglob("table.md")
    assert table.read_text(encoding="utf-8") not in ("", before["table.md"])
    assert not old.local.exists()


def test_a_damaged_store_stops_no_run_and_a_sync_sets_it_aside_and_makes_the_view_again(
    tmp_path: Path, cli: CommandLine, study: Path
) -> None:
    assert cli("run", study)[0] == 0
    store, view = cli.places.mlflow / "mlflow.db", view_of(cli.places.tracking_uri, "small")
    truncated = store.read_bytes()[: store.stat().st_size // 2]
    store.write_bytes(truncated)
    code, printed, error = cli("run", study)
    assert (code, error) == (0, "")
    assert not_complete(printed).startswith(f"the MLflow store {cli.places.store_name} is damaged (")
    assert store.read_bytes() == truncated
    assert "is damaged (" in cli.mistake("ui", "--port", free_port(), "--results", cli.places.results, placed=False)

    synced = sync(study, cli.places)
    aside = cli.places.mlflow / "damaged-1.db"
    assert synced.returncode == 0
    assert synced.stderr.startswith(f"warning: the MLflow store was damaged and lies in {aside} now;")
    assert aside.read_bytes() == truncated
    assert view_of(f"sqlite:///{shutil.copy(store, tmp_path / 'copy.db')}", "small") == view


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
        assert set_aside_damaged(empty) == (aside := store.with_name(f"damaged-{number}.db"))
        assert aside.read_bytes() == damage(sound)
    assert sorted(path.name for path in empty.mlflow.iterdir()) == ["damaged-1.db", "damaged-2.db"]


@pytest.mark.parametrize("content", ["sound", "nothing"])
def test_a_sound_store_and_an_empty_file_stay(empty: Places, sound: bytes, content: str) -> None:
    store = empty.mlflow / "mlflow.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(sound if content == "sound" else b"")
    assert set_aside_damaged(empty) is None
    assert list(empty.mlflow.iterdir()) == [store]


def test_a_sound_store_that_another_program_writes_is_not_set_aside(
    cli: CommandLine, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.store.BUSY_S", 0.1)
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
    assert sentence.startswith(f"the MLflow store {cli.places.store_name} cannot be written: ")
    code, printed, error = cli("run", study)
    assert (code, error) == (0, "")
    assert "## " in printed
    assert not_complete(printed)
    assert "a-password" not in sentence + printed
    assert not list(Path.cwd().iterdir())
