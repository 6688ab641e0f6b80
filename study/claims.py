"""A claim marks a trial in training: who trains it, and how far it is. One trial, one claim."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

BEAT_S = 60.0
"""Seconds between two signs of life of a claim."""
SILENT_S = 15 * BEAT_S
"""A claim from another host that gave no sign of life for this long is dead."""
CLOCK_STEP_S = 5.0
"""By how much a process's birth may seem to move when the clock is set."""


class Claim(BaseModel):
    """Who trains a trial."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    born: float
    """When the process started: a process id alone may be another's by now."""
    token: str
    """Tells this claim from every other."""
    epoch: int = 0
    epochs: int = 0
    validation_accuracy: float | None = None
    config: dict[str, Any] = {}
    """The trial's config: a claim that outlives its owner says what was begun."""


class ClaimedElsewhere(Exception):
    """Another live process trains this trial."""


class Claims:
    """The claims below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: str) -> Path:
        """A trial's claim."""
        return self.folder / f"{identity}.json"

    def read(self, identity: str) -> Claim | None:
        """A trial's claim, dead or alive; None where there is none."""
        try:
            return Claim.model_validate_json(self.path(identity).read_bytes())
        except (OSError, ValidationError):
            return None

    def everyone(self) -> dict[str, Claim]:
        """All claims, dead or alive, by the identity of their trial."""
        claims = {path.stem: self.read(path.stem) for path in sorted(self.folder.glob("*.json"))}
        return {identity: claim for identity, claim in claims.items() if claim is not None}

    def alive(self, identity: str) -> Claim | None:
        """A trial's claim if its owner still lives."""
        claim = self.read(identity)
        if claim is None:
            return None
        if claim.host == socket.gethostname():
            try:
                owner = psutil.Process(claim.pid)
                same = abs(owner.create_time() - claim.born) < CLOCK_STEP_S
                return claim if same and owner.status() != psutil.STATUS_ZOMBIE else None
            except (psutil.NoSuchProcess, ValueError):  # ended, or a number that no process can have
                return None
        try:
            age = time.time() - self.path(identity).stat().st_mtime
        except OSError:
            return None
        return claim if age < SILENT_S else None

    @contextmanager
    def hold(self, identity: str, epochs: int, config: dict[str, Any] | None = None) -> Iterator["Holder"]:
        """Claim a trial for as long as the context lasts, and note its config.

        Raises:
            ClaimedElsewhere: another live process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path, process = self.path(identity), psutil.Process()
        claim = Claim(
            host=socket.gethostname(),
            pid=process.pid,
            born=process.create_time(),
            token=uuid4().hex,
            epochs=epochs,
            config=config or {},
        )
        with FileLock(self.folder / ".lock"):
            owner = self.alive(identity)
            if owner is not None and (owner.host, owner.pid) != (claim.host, claim.pid):
                raise ClaimedElsewhere(f"{identity} is being trained by process {owner.pid} on {owner.host}")
            holder = Holder(path, claim)
        stop = threading.Event()
        beat = threading.Thread(target=holder.beat, args=(stop,), name="claim", daemon=True)
        beat.start()
        try:
            yield holder
        finally:
            stop.set()
            beat.join()
            with FileLock(self.folder / ".lock"):
                now = self.read(identity)
                if now is not None and now.token == claim.token:
                    path.unlink(missing_ok=True)


class Holder:
    """A claim that is held."""

    def __init__(self, path: Path, claim: Claim) -> None:
        self._path, self._claim = path, claim
        self._write()

    def renew(self, epoch: int, validation_accuracy: float | None) -> None:
        """Say how far the trial is."""
        self._claim = self._claim.model_copy(update={"epoch": epoch, "validation_accuracy": validation_accuracy})
        with suppress(OSError):  # a full disk must not end a trial that only wanted to say how far it is
            self._write()

    def beat(self, stop: threading.Event) -> None:
        """Give a sign of life now and then, however long an epoch takes, until told to stop."""
        while not stop.wait(BEAT_S):
            with suppress(OSError):
                os.utime(self._path)

    def _write(self) -> None:
        temporary = self._path.with_suffix(f".{self._claim.token}")
        temporary.write_text(self._claim.model_dump_json(), encoding="utf-8")
        temporary.replace(self._path)
