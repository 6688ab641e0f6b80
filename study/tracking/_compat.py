"""Private parts of MLflow on which this package relies.

All of them hold for MLflow 3.17.2. The tests of this module check one assumption each.
"""

import os
from typing import Any

from alembic.config import Config
from sqlalchemy.engine import Engine

SHARED_VIEW_TAG = "mlflow.sharedViewState."
"""Prefix of the experiment tags in which the UI keeps shared views."""
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes the UI open an experiment on its page for training runs."""


def set_artifact_root(uri: str) -> None:
    """Set the default artifact root of MLflow, unless it is set.

    Without one, MLflow creates an empty ./mlruns in the working directory.
    """
    os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", uri)


def dispose_engine(uri: str) -> None:
    """Close the connections to a database that MLflow keeps in this process."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.get(uri)
    if engine is not None:
        engine.dispose()


def create_engine(uri: str) -> Engine:
    """Return an engine with the settings that MLflow gives its own."""
    engine: Engine = _database_utils().create_sqlalchemy_engine(uri)
    return engine


def create_tables(engine: Engine) -> None:
    """Create the tables of MLflow in a database."""
    _database_utils()._initialize_tables(engine)


def migrate_tables(engine: Engine) -> None:
    """Migrate the tables of MLflow to the schema of the installed version."""
    _database_utils()._upgrade_db(engine)


def all_tables_exist(engine: Engine) -> bool:
    """Return whether a database has the tables that MLflow expects."""
    return bool(_database_utils()._all_tables_exist(engine))


def latest_schema() -> str:
    """Return the revision of the schema that the installed MLflow reads."""
    return str(_database_utils()._get_latest_schema_revision())


def alembic_config() -> Config:
    """Return the Alembic configuration of MLflow's migrations."""
    config: Config = _database_utils()._get_alembic_config("")
    return config


def _database_utils() -> Any:
    """Import the module with which MLflow sets up databases, which takes seconds."""
    from mlflow.store.db import utils

    return utils
