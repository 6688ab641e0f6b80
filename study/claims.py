"""A claim marks a trial in training: who trains it, and how far it is. One trial, one claim."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from study.records import write_atomically

SILENT_S = 900.0
"""A claim from another host that has not been renewed for this long is dead."""


class Claim(BaseModel):
    """Who trains a trial."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    born: float
    """When the process started: a process id alone may be another's by now."""
    epoch: int = 0
    epochs: int = 0
    validation_accuracy: float | None = None


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
        except (FileNotFoundError, ValidationError):
            return None

    def alive(self, identity: str) -> Claim | None:
        """A trial's claim if its owner still lives."""
        claim = self.read(identity)
        if claim is None:
            return None
        if claim.host == socket.gethostname():
            try:
                return claim if psutil.Process(claim.pid).create_time() == claim.born else None
            except psutil.NoSuchProcess:
                return None
        try:
            age = time.time() - self.path(identity).stat().st_mtime
        except FileNotFoundError:
            return None
        return claim if age < SILENT_S else None

    @contextmanager
    def hold(self, identity: str, epochs: int) -> Iterator["Holder"]:
        """Claim a trial for as long as the context lasts.

        Raises:
            ClaimedElsewhere: another live process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(identity)
        claim = Claim(host=socket.gethostname(), pid=os.getpid(), born=psutil.Process().create_time(), epochs=epochs)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(claim.model_dump_json())
        except FileExistsError:
            owner = self.alive(identity)
            if owner is not None and (owner.host, owner.pid) != (claim.host, claim.pid):
                raise ClaimedElsewhere(f"{identity} is being trained by process {owner.pid} on {owner.host}") from None
            write_atomically(path, claim.model_dump_json().encode())
        try:
            yield Holder(path, claim)
        finally:
            path.unlink(missing_ok=True)


class Holder:
    """A claim that is held."""

    def __init__(self, path: Path, claim: Claim) -> None:
        self._path, self._claim = path, claim

    def renew(self, epoch: int, validation_accuracy: float | None) -> None:
        """Say how far the trial is, which also shows that its owner lives."""
        self._claim = self._claim.model_copy(update={"epoch": epoch, "validation_accuracy": validation_accuracy})
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(self._claim.model_dump()), encoding="utf-8")
        temporary.replace(self._path)
