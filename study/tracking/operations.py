"""Operations on the MLflow store that commands offer."""

import json
from pathlib import Path

from study.records.paths import Places
from study.state.results import StudyResults
from study.tracking._compat import SHARED_VIEW_TAG
from study.tracking.database import prepare
from study.tracking.mlflow_view import VIEW_NAME_TAG, StudyView
from study.tracking.runs import (
    OnMessage,
    ignore_message,
    open_client,
    store_errors_as_user_errors,
    writer_lock,
)
from study.tracking.saved_views import link


def view_links(places: Places, on_message: OnMessage = ignore_message) -> dict[str, str]:
    """Return the addresses, within the UI, of the saved views of all studies.

    Args:
        places: the folders of the study.
        on_message: called before a wait.

    Raises:
        UserError: the store cannot be read.
    """
    with store_errors_as_user_errors(places, "read"):
        with writer_lock(places, on_message):
            prepare(places)
        experiments = open_client(places).search_experiments()
    links = {}
    for experiment in experiments:
        for tag, name in experiment.tags.items():
            if tag.startswith(VIEW_NAME_TAG):
                key = tag.removeprefix(VIEW_NAME_TAG)
                state = json.loads(experiment.tags[SHARED_VIEW_TAG + key])
                links[name] = link(experiment.experiment_id, key, state)
    return dict(sorted(links.items()))


def sync_study(
    results: StudyResults, places: Places, on_message: OnMessage = ignore_message
) -> None:
    """Build the whole view of a study from its records.

    Args:
        results: the evaluated study.
        places: the folders of the study.
        on_message: called before a wait, and after a repair.

    Raises:
        UserError: the store cannot be written.
    """
    with store_errors_as_user_errors(places, "written"):
        StudyView(places, results.plan.name, on_message=on_message).sync(results)


def log_report(results: StudyResults, places: Places, page: Path) -> None:
    """Log the report of a study to its run, which is created if it does not exist.

    Raises:
        UserError: the store cannot be written.
    """
    with store_errors_as_user_errors(places, "written"):
        StudyView(places, results.plan.name).report(results, page)


def probe(places: Places) -> None:
    """Create a run in the store, log to it, and delete it.

    Raises:
        UserError: the store cannot be written.
    """
    with store_errors_as_user_errors(places, "written"):
        with writer_lock(places, ignore_message):
            prepare(places)  # raises for a damaged store, which `StudyView` would move aside
        StudyView(places, "doctor").try_out()
