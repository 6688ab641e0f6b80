"""An MLflow server on PostgreSQL, down at the start, in the middle or at the end: no run waits, a
sync mends all.
"""

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_servers import DEADLINE_S, Server, mlflow_server, postgresql, wait_until
from study_fixtures import (
    SMALL,
    STOPPING,
    CommandLine,
    clean_environment,
    places_in,
    planned,
    write_study,
)
from view_fixtures import View, mixed_records, train, view_of

from study.records.paths import Places
from study.spec.plan import Plan
from study.state.load import read_state
from study.state.results import StudyResults
from study.tracking import live as live_view
from study.tracking.live import MAX_QUEUED, LiveView
from study.tracking.operations import sync_study
from study.tracking.uri import tracking_uri


@dataclass
class Watched:
    """A study of four hand-made trials and the live view of its run."""

    plan: Plan
    places: Places
    live: LiveView

    @classmethod
    def of(cls, folder: Path, name: str) -> "Watched":
        folder = folder / name
        folder.mkdir()
        plan, places = planned(folder, SMALL, name), places_in(folder)
        return cls(plan, places, LiveView(places, name))

    def train(self, first: int, last: int) -> None:
        """Its trials from the first to before the last."""
        for record in mixed_records(self.plan)[first:last]:
            train(self.live, self.places, self.plan, record)

    def close(self) -> None:
        self.live.close(StudyResults(read_state(self.plan, self.places)))

    def sync(self) -> None:
        sync_study(StudyResults(read_state(self.plan, self.places)), self.places)


@dataclass
class Outage:
    """Events while a server was there, killed, and there again."""

    server: Server
    calm: View
    studies: dict[str, Watched]
    run: tuple[int, str, str]
    run_file: Path
    run_places: Places


def shows(server: Server, study: str, trials: int) -> bool:
    """Return True if a server shows the ends of so many trials of a study."""
    client = MlflowClient(tracking_uri=server.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = (
        f"tags.`dh2l.study` = '{study}' AND tags.`dh2l.kind` = 'trial' AND attributes.status != "
        "'RUNNING'"
    )
    return len(client.search_runs(experiments, query)) >= trials


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Outage]:
    """One server, killed once: beneath a real run, and beneath the live views of hand-made ones."""
    folder = tmp_path_factory.mktemp("outage")
    with (
        pytest.MonkeyPatch.context() as patch,
        postgresql("a-password") as database,
        mlflow_server(folder, database) as server,
    ):
        patch.setattr(live_view, "FIRST_PAUSE_S", 0.5)
        patch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        file, places = write_study(folder, STOPPING, "real"), Places.of(folder / "real", digits)
        words = ["run", file, "--results", places.results, "--data", places.data]
        with subprocess.Popen(
            [sys.executable, "-m", "study", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(
                MLFLOW_TRACKING_URI=server.uri, MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="0"
            ),
        ) as process:
            try:
                before = {"calm": 4, "middle": 1, "ending": 3}  # trials; Ray takes longer to start
                studies = {name: Watched.of(folder, name) for name in before}
                for name, trials in before.items():
                    studies[name].train(0, trials)
                for name, trials in before.items():
                    wait_until(partial(shows, server, name, trials))
                studies["calm"].close()
                calm = view_of(server.uri, "calm")
                assert process.stdout is not None
                head = ""
                while not head.endswith("\n[1/3]"):
                    head += process.stdout.read(1) or pytest.fail(head)
                wait_until(partial(shows, server, "real", 1))
                server.kill()
                studies["ending"].train(3, 4)
                studies["ending"].close()
                studies["middle"].train(1, 2)
                wait_until(lambda: studies["middle"].live.problem != "")
                studies["start"] = Watched.of(folder, "start")
                studies["start"].train(0, 4)
                studies["start"].close()
                tail, error = process.communicate(timeout=DEADLINE_S)
            finally:
                process.kill()
        server.start()
        studies["middle"].train(2, 4)
        studies["middle"].close()
        yield Outage(server, calm, studies, (process.returncode, head + tail, error), file, places)


@pytest.mark.parametrize("name", ["start", "ending"])
def test_a_run_whose_server_was_down_says_so_and_a_sync_makes_what_an_undisturbed_run_shows(
    outage: Outage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", outage.server.uri)
    watched = outage.studies[name]
    assert "refused" in watched.live.problem
    watched.sync()
    assert view_of(outage.server.uri, name) == outage.calm
    once = view_of(outage.server.uri, name, times=True)
    watched.sync()
    assert view_of(outage.server.uri, name, times=True) == once


def test_a_server_that_came_back_in_the_middle_shows_what_an_undisturbed_run_shows(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", outage.server.uri)
    assert outage.studies["middle"].live.problem == ""
    assert view_of(outage.server.uri, "middle") == outage.calm
    once = view_of(outage.server.uri, "middle", times=True)
    outage.studies["middle"].sync()
    assert view_of(outage.server.uri, "middle", times=True) == once


def test_postgresql_behind_a_server_shows_what_the_local_sqlite_store_shows(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    calm = outage.studies["calm"]
    calm.sync()
    assert tracking_uri(calm.places).startswith("sqlite:///")
    assert view_of(tracking_uri(calm.places), "calm") == outage.calm


def test_an_undisturbed_view_has_every_run_and_how_it_ended(outage: Outage) -> None:
    assert sorted(kind for kind, _ in outage.calm) == [
        "cell",
        "cell",
        "study",
        "trial",
        "trial",
        "trial",
        "trial",
    ]
    ends = [run[0] for (kind, _), run in outage.calm.items() if kind == "trial"]
    assert sorted(ends) == ["FINISHED", "FINISHED", "FINISHED", "KILLED"]


def test_a_real_run_whose_server_is_killed_ends_with_its_table_and_how_to_complete_the_view(
    outage: Outage,
) -> None:
    code, printed, error = outage.run
    assert (code, error) == (0, ""), printed
    assert "lr=0.05 (of 3)" in printed
    assert len(list(outage.run_places.trials.rglob("*.json"))) == 3
    (line,) = re.findall(r"^MLflow: +(.+)$", printed, re.MULTILINE)
    assert line.startswith("not complete (")
    assert f"mlflow sync {outage.run_file} --results {outage.run_places.results} --data " in line


def test_a_sync_completes_the_view_of_a_real_run(
    outage: Outage, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", outage.server.uri)
    cli.places = outage.run_places
    code, printed, error = cli("mlflow", "sync", outage.run_file)
    assert (code, error) == (0, "")
    assert printed == f"real: 3 records, 1 cell; {outage.server.uri}\n"
    view = view_of(outage.server.uri, "real")
    assert [kind for kind, _ in view].count("trial") == 3
    ends = {run[0] for (kind, _), run in view.items() if kind == "trial"}
    assert ends == {"FINISHED", "KILLED"}
    (parent,) = (run for (kind, _), run in view.items() if kind == "study")
    assert parent[0] == "FINISHED"
    assert parent[4] == ["cells.csv", "table.md"]


def test_a_server_that_accepts_and_never_answers_holds_a_run_up_for_the_stated_time_alone(
    outage: Outage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "CLOSING_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        hung = Watched.of(tmp_path, "silent")
        hung.train(0, 4)
        for _ in range(2 * MAX_QUEUED):
            hung.live.on_trial_start(next(iter(hung.plan.choosing.values())))
        assert hung.live._queue.qsize() <= MAX_QUEUED
        closing = threading.Thread(target=hung.close, daemon=True)
        closing.start()
        closing.join(timeout=30)  # the first request alone waits longer
        assert not closing.is_alive()
        assert hung.live.problem.startswith("not done within 2 s")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", outage.server.uri)
    hung.sync()
    assert view_of(outage.server.uri, "silent") == outage.calm


def test_a_server_that_fails_is_let_alone_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many changes are to be shown, it is asked once, and once more by the last sync."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as broken:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = broken.accept()
                    asked.append(connection.getsockname())
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{broken.getsockname()[1]}")
        watched = Watched.of(tmp_path, "broken")
        watched.train(0, 4)
        watched.close()
        broken.shutdown(socket.SHUT_RDWR)
    assert watched.live.problem
    assert len(asked) == 2
