"""The MLflow store before MLflow opens it: whether a database is there and sound, and where its artifacts lie."""

from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, make_url, text
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from dh2l.errors import UserError
from study.places import Places

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow opens as a database. It tries for a minute and a half, whatever is wrong with one."""
BUSY_S = 20
"""How long a SQLite database may be locked by another program."""
ADDRESSES = {"experiments": "artifact_location", "runs": "artifact_uri"}
"""Tables and columns in which MLflow keeps absolute addresses of artifacts."""


class DamagedStore(UserError):
    """The local store is no sound database."""


def prepare(places: Places) -> None:
    """Connect to a database once, so that what is down or damaged fails at once, and mend the local one's addresses.

    The caller holds the writer lock.

    Raises:
        DamagedStore: it is the local one, and damaged.
        sqlalchemy.exc.SQLAlchemyError: it cannot be opened or read.
        ImportError: its driver is not installed.
        ValueError: its address is none.
    """
    if places.tracking_uri.partition(":")[0].partition("+")[0] not in DATABASES:
        return
    url = make_url(places.tracking_uri)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return  # MLflow makes it, and its folder
    wait = {"timeout": BUSY_S} if url.get_backend_name() == "sqlite" else {}
    engine = create_engine(url, poolclass=NullPool, connect_args=wait)
    with engine.begin() as connection:
        if places.local_store:
            _require_sound(connection, places)
        tables = inspect(connection).get_table_names()
        if places.local_store and set(ADDRESSES) <= set(tables):
            _mend_addresses(connection, (places.mlflow / "artifacts").as_uri())


def set_aside_damaged(places: Places) -> Path | None:
    """Move a damaged local store out of the way, and say where to. The caller holds the writer lock.

    Raises:
        Exception: one of those of `prepare`, but for `DamagedStore`.
    """
    try:
        prepare(places)
    except DamagedStore:
        store, number = places.mlflow / "mlflow.db", 1
        while (target := store.with_name(f"damaged-{number}.db")).exists():
            number += 1
        store.replace(target)
        return target
    return None


def _require_sound(connection: Connection, places: Places) -> None:
    try:
        found = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
    except OperationalError:  # busy or forbidden, which says nothing of what is in it
        raise
    except DatabaseError as error:
        found = str(error.orig)
    if found != "ok":
        raise DamagedStore(
            f"the MLflow store {places.store_name} is damaged ({' '.join(found.split())}); it is a view: "
            "`dh2l-study mlflow sync STUDY` sets it aside and makes it again from the records"
        )


def _mend_addresses(connection: Connection, root: str) -> None:
    """Where the results folder was moved, let the artifacts that went with it be found, and new ones join them."""
    rows = connection.execute(text("SELECT DISTINCT artifact_location FROM experiments"))
    folder = "/mlflow/artifacts"  # what a local store calls it, wherever it lies
    for old in {str(row[0]) for row in rows} - {root}:
        if old.startswith("file://") and old.endswith(folder):
            for table, column in ADDRESSES.items():
                change = f"UPDATE {table} SET {column} = :new || substr({column}, :end)"  # noqa: S608 our own words
                where = f" WHERE {column} = :old OR substr({column}, 1, :end) = :old || '/'"
                connection.execute(text(change + where), {"new": root, "old": old, "end": len(old) + 1})
