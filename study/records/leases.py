"""Leases: one process at a time trains a trial, without clocks or locks.

A lease is a file that only one process can create, with its owner and a counter. Whoever takes a
dead one over creates the next in its trial's row (``<identity>.json``, ``<identity>.1.json``, …),
which again only one process can, so no lock is needed on any file system. In an object store there
are no leases: there `--shard` divides the trials.
"""

import glob
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from dh2l.io.files import AnyPath, create_atomically, read, write_atomically
from dh2l.system.processes import is_running, machine_id, start_time

BEAT_S = 10.0
"""Seconds between two signs of life of a claim."""
STILL_S = 90.0
"""A claim of another machine whose counter stands still for this long, by the reader's clock, is
dead."""
LARGEST = 1 << 24
"""Bytes of a claim, which has some thousands."""
_NUMBER = re.compile(r"\.(\d+)$")


class Claim(BaseModel):
    """Owner of a trial in training."""

    model_config = ConfigDict(frozen=True)

    host: str
    """The machine's name, for people."""
    machine: str
    """What tells this running system and its process ids from every other."""
    pid: int
    born: float
    """When the process started, in seconds after the machine did: a process id alone may be
    another's by now."""
    token: str
    """Tells this claim from every other."""
    beats: int = 0
    """Counts signs of life: no clock is compared with another machine's."""
    retries: int = 0
    """How many processes have died that trained the trial before."""
    released: bool = False
    """Given up by its owner, who was interrupted; kept, for it alone knows of those who died
    before."""
    epoch: int = 0
    epochs: int = 0
    validation_accuracy: float | None = None
    config: dict[str, Any] = {}
    """The trial's config: a claim that outlives its owner says what was begun."""

    @property
    def mine(self) -> bool:
        """True if this process made it."""
        return (self.machine, self.pid) == (machine_id(), os.getpid())


class ClaimedElsewhere(Exception):
    """Another live process trains this trial."""


class Claims:
    """Leases below one folder.

    For leases of other machines it remembers when it first saw their counter at its value.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder if isinstance(folder, Path) else None
        self._seen: dict[str, tuple[int, float]] = {}

    def read(self, identity: str) -> Claim | None:
        """Read a trial's lease, dead or alive; None if there is none."""
        return next(
            (claim for _, claim in reversed(self._row(identity)) if claim is not None), None
        )

    def everyone(self) -> dict[str, Claim]:
        """All claims, dead or alive, by the identity of their trial."""
        if self.folder is None:
            return {}
        identities = {_NUMBER.sub("", path.stem) for path in self.folder.glob("*.json")}
        claims = {identity: self.read(identity) for identity in sorted(identities)}
        return {identity: claim for identity, claim in claims.items() if claim is not None}

    def alive(self, identity: str) -> Claim | None:
        """Return a trial's lease if its owner still lives, as far as this process can see."""
        lives = (
            claim for _, claim in self._row(identity) if claim is not None and self._lives(claim)
        )
        return next(lives, None)

    def elsewhere(self, identity: str) -> bool:
        """Return True if another live process trains the trial."""
        claim = self.alive(identity)
        return claim is not None and not claim.mine

    @contextmanager
    def hold(
        self, identity: str, epochs: int, config: dict[str, Any] | None = None
    ) -> Iterator["Holder"]:
        """Claim a trial for as long as the context lasts, and note its config.

        Raises:
            ClaimedElsewhere: another live process holds it.
        """
        claim = Claim(
            host=socket.gethostname(),
            machine=machine_id(),
            pid=os.getpid(),
            born=start_time(psutil.Process()),
            token=uuid4().hex,
            epochs=epochs,
            config=config or {},
        )
        with Holder(*self._take(identity, claim)) as holder:
            yield holder

    def _take(self, identity: str, claim: Claim) -> tuple[Path | None, Claim]:
        """Create the claim's file; None where claims are not kept."""
        if self.folder is None:
            return None, claim
        while True:
            row = self._row(identity)
            self._refuse(identity, row)
            died = [dead.retries + (not dead.released) for _, dead in row if dead is not None]
            claim = claim.model_copy(update={"retries": max(died, default=0)})
            path = self.folder / (
                f"{identity}.{_number(row[-1][0]) + 1}.json" if row else f"{identity}.json"
            )
            if create_atomically(path, claim.model_dump_json().encode(), durable=False):
                break
        try:  # who saw an empty row while another took a dead claim over finds that one now
            self._refuse(identity, [entry for entry in self._row(identity) if entry[0] != path])
        except ClaimedElsewhere:
            path.unlink(missing_ok=True)
            raise
        for dead, _ in row:
            dead.unlink(missing_ok=True)
        return path, claim

    def _refuse(self, identity: str, row: list[tuple[Path, Claim | None]]) -> None:
        for _, claim in row:
            if claim is not None and not claim.mine and self._lives(claim):
                raise ClaimedElsewhere(
                    f"{identity} is being trained by process {claim.pid} on {claim.host}"
                )

    def _row(self, identity: str) -> list[tuple[Path, Claim | None]]:
        """Return the files of a trial's leases, oldest first; a damaged one has no lease."""
        if self.folder is None:
            return []
        first = self.folder / f"{identity}.json"
        later = sorted(self.folder.glob(f"{glob.escape(identity)}.*.json"), key=_number)
        return [(path, _read(path)) for path in [first, *later] if os.path.lexists(path)]

    def _lives(self, claim: Claim) -> bool:
        if claim.released:
            return False
        if claim.machine == machine_id():
            return is_running(claim.pid, claim.born)
        now = time.monotonic()
        beats, since = self._seen.get(claim.token, (-1, now))
        if beats != claim.beats:
            since = now
        self._seen[claim.token] = (claim.beats, since)
        return now - since < STILL_S


class Holder:
    """A held lease, whose counter a thread raises however long an epoch takes.

    Attributes:
        lost: whether another process has taken it over, as happens if this one stopped for long.
    """

    def __init__(self, path: Path | None, claim: Claim) -> None:
        self.lost = False
        self._path, self._claim = path, claim
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def __enter__(self) -> "Holder":
        if self._path is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._path is None:
            return
        self._stop.set()
        self._thread.join()
        tolerated = (
            [OSError] if kind else []
        )  # what interrupts a trial is not replaced by what its disk says
        with suppress(*tolerated):
            if not self._still_mine():
                return
            if kind and self.retries:
                left = self._claim.model_copy(update={"released": True})
                write_atomically(self._path, left.model_dump_json().encode(), durable=False)
            else:
                self._path.unlink(missing_ok=True)

    @property
    def retries(self) -> int:
        """Number of processes that died while they trained the trial."""
        return self._claim.retries

    def renew(self, epoch: int, validation_accuracy: float | None) -> None:
        """Say how far the trial is."""
        self._change(epoch=epoch, validation_accuracy=validation_accuracy)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._change()

    def _change(self, **changes: Any) -> None:
        if self._path is None or self.lost:
            return
        with (
            self._lock,
            suppress(OSError),
        ):  # a full disk must not end a trial that only wanted to say how far it is
            if self._still_mine():
                self._claim = self._claim.model_copy(
                    update={"beats": self._claim.beats + 1, **changes}
                )
                write_atomically(self._path, self._claim.model_dump_json().encode(), durable=False)
            else:
                self.lost = True

    def _still_mine(self) -> bool:
        """Return True if no other process has taken it over.

        Raises:
            OSError: it cannot be read now.
        """
        assert self._path is not None  # noqa: S101 the callers have seen it
        try:
            return Claim.model_validate_json(read(self._path, LARGEST)).token == self._claim.token
        except (FileNotFoundError, ValidationError):
            return False


def _read(path: Path) -> Claim | None:
    try:
        return Claim.model_validate_json(read(path, LARGEST))
    except (OSError, ValidationError):
        return None


def _number(path: Path) -> int:
    """Return the index of a lease's file in its trial's row."""
    found = _NUMBER.search(path.stem)
    return int(found[1]) if found else 0
