"""Creation and migration of the database of an MLflow store."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL

from dh2l.errors import UserError
from dh2l.io.files import create_atomically
from study.records.paths import Places
from study.tracking import _compat
from study.tracking.uri import is_local, sqlite_uri, store_file, store_name

JOURNAL_SUFFIXES = ("-journal", "-wal", "-shm")
"""Suffixes of the files that SQLite keeps beside a database while writing it."""
ENVIRONMENT_ERRORS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
}
"""SQLite errors with causes outside the database: locks, permissions, disk, memory."""


class DamagedStore(UserError):
    """Damage to the local store.

    Args:
        places: the folders of the study.
        problem: the damage.
    """

    def __init__(self, places: Places, problem: str) -> None:
        super().__init__(
            f"the MLflow store {store_name(places)} is damaged ({' '.join(problem.split())}). Run "
            "`dh2l-study mlflow sync STUDY`: it moves the store aside and rebuilds it from the "
            "records."
        )


@lru_cache(maxsize=1)
def latest_schema() -> str:
    """Return the revision of the schema that the installed MLflow reads."""
    return _compat.latest_schema()


def create_if_missing(places: Places, url: URL) -> None:
    """Create a SQLite store under a temporary name, then rename it.

    A process that is killed meanwhile leaves no store, and never half of one.
    """
    store = Path(url.database or "")
    if str(store).startswith("file:"):
        return
    if store.exists() and (store.stat().st_size or not is_local()):
        return
    with _temporary_database(places) as temporary:
        _create_tables(temporary)
        if is_local():
            temporary.replace(store)
        else:  # another results folder may create it too, under another lock
            create_atomically(store, temporary.read_bytes())


def migrate(places: Places, revision: str | None) -> None:
    """Migrate a copy of the local store to the schema that MLflow reads, then replace the store.

    Args:
        places: the folders of the study.
        revision: the schema of the store, if it has one.

    Raises:
        DamagedStore: the copy cannot be migrated.
        UserError: the store has a newer schema, or is not the local one.
    """
    _require_migratable(places, revision)
    with _temporary_database(places) as temporary:
        with (
            closing(sqlite3.connect(store_file(places))) as old,
            closing(sqlite3.connect(temporary)) as new,
        ):
            old.backup(new)
        try:
            if revision is None:
                _create_tables(temporary)
            else:
                _migrate_tables(temporary)
        except Exception as error:
            if _has_external_cause(error):
                raise
            problem = f"its creation was interrupted: {getattr(error, 'orig', error)}"
            raise DamagedStore(places, problem) from None
        temporary.replace(store_file(places))


def _require_migratable(places: Places, revision: str | None) -> None:
    store = f"the MLflow store {store_name(places)}"
    if revision is not None and not _is_known(revision):
        remedy = "set MLFLOW_TRACKING_URI to another store"
        if is_local():
            remedy = (
                f"move {store_file(places)} away and run `dh2l-study mlflow sync STUDY`, "
                "which builds a new store from the records"
            )
        raise UserError(
            f"{store}: its schema {revision} belongs to another version of MLflow; expected "
            f"{latest_schema()}. Install that version, or {remedy}."
        )
    if not is_local():
        raise UserError(
            f"{store}: its schema {revision or '(none)'} is older than that of the installed "
            f"MLflow; expected {latest_schema()}. Back it up and run `mlflow db upgrade` with its "
            "address; if its creation was interrupted, delete it first."
        )


@contextmanager
def _temporary_database(places: Places) -> Iterator[Path]:
    """Yield the path of a new database, and remove it afterwards.

    A database that a killed process left is removed first.
    """
    file = places.mlflow / "making.db"
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_database(file)
    try:
        yield file
    finally:
        _remove_database(file)


def _remove_database(file: Path) -> None:
    for suffix in ("", *JOURNAL_SUFFIXES):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def _create_tables(database: Path) -> None:
    engine = _compat.create_engine(sqlite_uri(database))
    try:
        _compat.create_tables(engine)
    finally:
        engine.dispose()


def _migrate_tables(database: Path) -> None:
    engine = _compat.create_engine(sqlite_uri(database))
    try:
        _compat.migrate_tables(engine)
    finally:
        engine.dispose()


def _is_known(revision: str) -> bool:
    """Return whether the installed MLflow can migrate from a schema."""
    scripts = ScriptDirectory.from_config(_compat.alembic_config())
    try:
        return scripts.get_revision(revision) is not None
    except CommandError:
        return False


def _has_external_cause(error: Exception) -> bool:
    """Return whether an error comes from the machine, and not from the content of a database."""
    if isinstance(error, OSError):
        return True
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in ENVIRONMENT_ERRORS
