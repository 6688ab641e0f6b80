"""Assumptions about private parts of MLflow, one test each."""

import shutil
from pathlib import Path

import mlflow.server
import pytest
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow import MlflowClient
from sqlalchemy.engine import Engine

from study.tracking import _compat
from study.tracking.uri import sqlite_uri


def revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def ui_has(text: str) -> bool:
    """Return whether the program of the UI has a text."""
    build = Path(mlflow.server.__file__).parent / "js" / "build"
    return any(text in path.read_text(encoding="utf-8") for path in build.rglob("*.js"))


def test_created_tables_are_complete_and_of_the_latest_schema(tmp_path: Path) -> None:
    engine = _compat.create_engine(sqlite_uri(tmp_path / "new.db"))
    assert not _compat.all_tables_exist(engine)
    _compat.create_tables(engine)
    assert _compat.all_tables_exist(engine)
    assert revision(engine) == _compat.latest_schema()
    engine.dispose()


def test_a_migration_ends_at_the_latest_schema(tmp_path: Path, empty_store: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(empty_store, copy)
    engine = _compat.create_engine(sqlite_uri(copy))
    _compat.migrate_tables(engine)
    assert revision(engine) == _compat.latest_schema()
    engine.dispose()


def test_the_migrations_know_the_latest_schema_and_no_other() -> None:
    scripts = ScriptDirectory.from_config(_compat.alembic_config())
    assert scripts.get_revision(_compat.latest_schema()) is not None
    with pytest.raises(CommandError):
        scripts.get_revision("ffffffffffff")


def test_a_disposed_engine_reads_the_file_that_now_has_its_name(
    tmp_path: Path, empty_store: Path
) -> None:
    store = tmp_path / "store.db"
    shutil.copy(empty_store, store)
    client = MlflowClient(tracking_uri=sqlite_uri(store))
    client.create_experiment("of the moved store", artifact_location=tmp_path.as_uri())
    store.rename(tmp_path / "moved.db")
    shutil.copy(empty_store, store)
    _compat.dispose_engine(sqlite_uri(store))
    assert client.get_experiment_by_name("of the moved store") is None


def test_with_an_artifact_root_a_client_leaves_the_working_folder_empty(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "restored after the test")
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _compat.set_artifact_root((tmp_path / "artifacts").as_uri())
    store = tmp_path / "store.db"
    shutil.copy(empty_store, store)
    MlflowClient(tracking_uri=sqlite_uri(store)).search_experiments()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "text", [_compat.SHARED_VIEW_TAG, *_compat.EXPERIMENT_KIND, *_compat.EXPERIMENT_KIND.values()]
)
def test_the_ui_reads_the_tags_of_views_and_of_training_runs(text: str) -> None:
    assert ui_has(text)
