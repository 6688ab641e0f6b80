"""No credential of the environment is in what commands leave, in their Ray's session, or in a
command line.
"""

import re
import shutil
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from cluster_fixtures import TINY, free_port
from study_fixtures import ROOT, clean_environment, write_study

SECRETS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_API_KEY"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("RAY_AUTH_TOKEN", "RAY_REDIS_PASSWORD", "HF_TOKEN", "WANDB_API_KEY", "UNHEARD_OF_SECRET"),
)
CANARY = "canary0of0"
STARTED_S = 150.0
"""How long a run or a server may take to come up on a busy machine."""
WORDS = [sys.executable, "-P", "-m", "study"]


def canaries(content: bytes) -> set[str]:
    return {found.decode() for found in re.findall(rf"{CANARY}\w+".encode(), content)}


def found_below(*folders: Path) -> dict[str, set[str]]:
    """The canaries in each file below some folders."""
    files = (
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    found = {
        str(path): canaries(path.read_bytes()) | canaries(str(path).encode()) for path in files
    }
    return {path: names for path, names in found.items() if names}


@dataclass
class Left:
    """A home, a working folder and folders of temporary files, and what was seen while commands ran
    there.
    """

    root: Path
    short: Path
    data: Path
    said: dict[str, str] = field(default_factory=dict)
    modes: set[int] = field(default_factory=set)
    logs: list[str] = field(default_factory=list)
    command_lines: str = ""

    @property
    def environment(self) -> dict[str, str]:
        given = {name: f"{CANARY}{name}" for name in SECRETS}
        places = {
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "RAY_TMPDIR": str(self.short),
        }
        return clean_environment(**given, **places, OMP_NUM_THREADS="1")

    def command(self, name: str, *words: str, **more: str) -> "subprocess.Popen[str]":
        where = ["--results", "results"] + (["--data", str(self.data)] if name != "ui" else [])
        with (self.root / f"said-{len(list(self.root.glob('said-*')))}").open(
            "w", encoding="utf-8"
        ) as said:
            return subprocess.Popen(
                [*WORDS, name, *words, *where],
                stdout=said,
                stderr=said,
                text=True,
                cwd=self.root / "working",
                env=self.environment | more,
            )

    def look(self) -> None:
        """Look at the session of the Ray that runs, and at the command lines of its processes."""
        (scratch,) = self.short.iterdir()
        self.modes.add(stat.S_IMODE(scratch.stat().st_mode))
        shutil.copytree(scratch, self.root / "session", ignore=ignore_sockets, symlinks=True)
        self.logs = [path.name for path in (self.root / "session").rglob("*.log")]


def ignore_sockets(folder: str, names: list[str]) -> list[str]:
    return [
        name for name in names if not (path := Path(folder, name)).is_file() and not path.is_dir()
    ]


def wait_for(what: str, process: "subprocess.Popen[str]", ready: "Iterator[bool]") -> None:
    deadline = time.monotonic() + STARTED_S
    for there in ready:
        if there:
            return
        assert process.poll() is None, f"the process ended before its {what}"
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.05)


def answers(address: str) -> Iterator[bool]:
    while True:
        try:
            with urllib.request.urlopen(address, timeout=60) as page:  # noqa: S310 our own server
                yield page.status == 200
        except OSError:
            yield False


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Left]:
    """Leave files of `run`, `ui`, `report` and `doctor` in a folder with a user's `study.py`."""
    root = tmp_path_factory.mktemp("canaries")
    for name in ("home", "tmp", "working"):
        (root / name).mkdir()
    (root / "working" / "study.py").write_text(
        "raise SystemExit('this is not the study of the driver')\n", "utf-8"
    )
    study = str(write_study(root / "working", TINY, "tiny"))
    with TemporaryDirectory(prefix="c", dir="/tmp") as short:
        seen = Left(root, Path(short), digits)
        run = seen.command("run", study)
        try:
            records = root / "working" / "results" / "trials"
            wait_for("record", run, (any(records.glob("*.json")) for _ in iter(int, 1)))
            seen.look()
            processes = [
                run_process := psutil.Process(run.pid),
                *run_process.children(recursive=True),
            ]
            seen.command_lines = " ".join(" ".join(process.cmdline()) for process in processes)
            assert run.wait(timeout=STARTED_S) == 0, (root / "said-0").read_text("utf-8")
        finally:
            run.kill()
            run.wait()
        server = seen.command("ui", "--port", str(port := free_port()))
        try:
            wait_for("page", server, answers(f"http://127.0.0.1:{port}"))
        finally:
            server.terminate()
            server.wait(timeout=60)
        assert seen.command("report", study).wait(timeout=STARTED_S) == 0
        with socket.create_server(("127.0.0.1", 0)) as closed:
            address = f"http://me:{CANARY}MLFLOW_TRACKING_URI@127.0.0.1:{closed.getsockname()[1]}"
        store = {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        assert seen.command("doctor", study, **store).wait(timeout=STARTED_S) in (0, 1)
        yield seen


def test_no_credential_is_in_what_commands_leave_or_say(left: Left) -> None:
    assert found_below(left.root, left.short) == {}
    doctor = (left.root / "said-3").read_text("utf-8")
    assert "127.0.0.1" in doctor
    assert len(list(left.root.glob("said-*"))) == 4


def test_no_credential_is_in_a_command_line(left: Left) -> None:
    assert "raylet" in left.command_lines
    assert canaries(left.command_lines.encode()) == set()


def test_rays_session_is_private_and_gone(left: Left) -> None:
    assert left.modes == {0o700}
    assert "runtime_env_agent.log" in left.logs
    assert list(left.short.iterdir()) == []
    assert not list((left.root / "tmp").glob("ray*"))


def test_a_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\0" + CANARY.encode() + b"HF_TOKEN\xff")
    assert found_below(tmp_path) == {str(tmp_path / "log"): {f"{CANARY}HF_TOKEN"}}


def test_every_secret_variable_that_the_documentation_names_is_looked_for() -> None:
    texts = [
        path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    ]
    named = set(
        re.findall(
            r"\b[A-Z][A-Z0-9]*_(?:[A-Z0-9]+_)*(?:KEY|SECRET|TOKEN|PASSWORD)\b", " ".join(texts)
        )
    )
    assert named <= {*SECRETS}
