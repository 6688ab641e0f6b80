"""The MLflow store before MLflow opens it: whether a database is there and sound, and where its artifacts lie."""

from pathlib import Path

from sqlalchemy import Connection, create_engine, inspect, make_url, text
from sqlalchemy.pool import NullPool

from study.places import Places

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow opens as a database. It tries for a minute and a half, whatever is wrong with one."""
ADDRESSES = {"experiments": "artifact_location", "runs": "artifact_uri"}
"""Tables and columns in which MLflow keeps absolute addresses of artifacts."""


def prepare(places: Places) -> None:
    """Connect to a database once, so that what is down or damaged fails at once, and mend the local one's addresses.

    The caller holds the writer lock.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it cannot be opened or read.
        ImportError: its driver is not installed.
        ValueError: its address is none.
    """
    if places.tracking_uri.partition(":")[0].partition("+")[0] not in DATABASES:
        return
    url = make_url(places.tracking_uri)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return  # MLflow makes it, and its folder
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        tables = inspect(connection).get_table_names()
        if places.local_store and set(ADDRESSES) <= set(tables):
            _mend_addresses(connection, (places.mlflow / "artifacts").as_uri())


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
