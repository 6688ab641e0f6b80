"""Checks and repairs of the MLflow store before MLflow opens it."""

import logging
from pathlib import Path

from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from study.records.paths import Places
from study.tracking import _compat
from study.tracking.migration import DamagedStore, create_if_missing, latest_schema, migrate
from study.tracking.uri import is_local, require_persistent_store, store_file, tracking_uri

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Schemes that MLflow opens as a database. MLflow retries for 90 s, whatever the error is."""
BUSY_TIMEOUT_S = 20
"""The longest wait for a SQLite database that another program has locked."""
ADDRESS_COLUMNS = {"experiments": "artifact_location", "runs": "artifact_uri"}
"""Tables and columns in which MLflow keeps absolute URIs of artifacts."""


def prepare(places: Places) -> None:
    """Create a missing store, and connect to a database once, so that errors surface at once.

    A local store with an older schema is migrated. If the results folder was moved, the artifact
    URIs are updated. The caller holds the writer lock.

    Raises:
        DamagedStore: the local store is damaged or incomplete.
        UserError: the store is in memory, or MLflow cannot read its schema.
        sqlalchemy.exc.SQLAlchemyError: the store cannot be opened or read.
        ImportError: the driver of the database is not installed.
        ValueError: the address is invalid.
    """
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised, and printed once
    require_persistent_store(places)
    uri = tracking_uri(places)
    if uri.partition(":")[0].partition("+")[0] not in DATABASES:
        return
    url, connect_args = make_url(uri), {}
    if url.get_backend_name() == "sqlite":
        create_if_missing(places, url)
        connect_args = {"timeout": BUSY_TIMEOUT_S}
    engine = create_engine(url, poolclass=NullPool, connect_args=connect_args)
    with engine.connect() as connection:
        if is_local():
            _require_sound(connection, places)
        revision = MigrationContext.configure(connection).get_current_revision()
    if revision != latest_schema() and (revision or is_local()):
        migrate(places, revision)
    if is_local():
        if not _compat.all_tables_exist(engine):
            raise DamagedStore(places, "tables are missing")
        with engine.begin() as connection:
            _update_addresses(connection, (places.mlflow / "artifacts").as_uri())


def move_damaged_aside(places: Places) -> Path | None:
    """Prepare the store; rename a damaged local one instead. The caller holds the writer lock.

    Returns:
        The new path of the damaged store; None if the store is sound.

    Raises:
        Exception: any error of `prepare` except `DamagedStore`.
    """
    try:
        prepare(places)
    except DamagedStore:
        target = _unused_path(places)
        store_file(places).replace(target)
        _compat.dispose_engine(tracking_uri(places))
        return target
    return None


def _unused_path(places: Places) -> Path:
    number = 1
    while (path := store_file(places).with_name(f"damaged-{number}.db")).exists():
        number += 1
    return path


def _require_sound(connection: Connection, places: Places) -> None:
    try:
        found = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
    except OperationalError:  # locked or forbidden, which says nothing about the content
        raise
    except DatabaseError as error:
        found = str(error.orig)
    if found != "ok":
        raise DamagedStore(places, found)


def _update_addresses(connection: Connection, root: str) -> None:
    """Replace the artifact URIs of a local store that was moved by URIs under its new root."""
    rows = connection.execute(text("SELECT DISTINCT artifact_location FROM experiments"))
    folder = "/mlflow/artifacts"  # its name in every local store
    for old in {str(row[0]) for row in rows} - {root}:
        if not (old.startswith("file://") and old.endswith(folder)):
            continue
        for table, column in ADDRESS_COLUMNS.items():
            change = f"UPDATE {table} SET {column} = :new || substr({column}, :end)"  # noqa: S608 constants
            where = f" WHERE {column} = :old OR substr({column}, 1, :end) = :old || '/'"
            values = {"new": root, "old": old, "end": len(old) + 1}
            connection.execute(text(change + where), values)
