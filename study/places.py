"""Every path the harness reads or writes."""

import os
import re
import socket
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dh2l.atomic import AnyPath, write_atomically
from dh2l.errors import UserError, unknown_name
from study.redaction import store_name

PROBE_BYTES = 4096
"""Of a file that is written to see whether one can be: a full disk takes empty ones."""
STORES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""Kinds of object stores, each with the package that reaches it."""


@dataclass(frozen=True)
class Places:
    """Where results and prepared data lie.

    Attributes:
        results: the folder of results, or a place in an object store; everything below it is ours.
        data: the folder of prepared data sets.
        local: where lies what must be in a folder: tables, the MLflow store. It is `results`, where that is a folder.
    """

    results: AnyPath
    data: Path
    local: Path

    @classmethod
    def of(cls, results: AnyPath | str, data: Path | str) -> "Places":
        """Absolute places.

        Args:
            results: a folder, or the URL of a place in an object store, e.g. ``s3://bucket/results``.
            data: a folder.

        Raises:
            UserError: an empty path, which would mean the working folder; a URL of no store that can be used.
        """
        for name, path in (("results", results), ("data", data)):
            if str(path) in ("", "."):
                raise UserError(f"--{name} is empty; name a folder, or leave it out for ./{name}")
        if isinstance(results, str):
            results = place(results)
        if isinstance(results, Path):
            return cls(results.absolute(), Path(data).absolute(), results.absolute())
        local = Path("results", re.sub(r"[^A-Za-z0-9._]+", "-", str(results)).strip("-."))
        return cls(results, Path(data).absolute(), local.absolute())

    @property
    def trials(self) -> AnyPath:
        """The records: what is known."""
        return self.results / "trials"

    @property
    def claims(self) -> AnyPath:
        """Marks of trials in training."""
        return self.results / "running"

    @property
    def set_aside(self) -> AnyPath:
        """Records that did not verify, kept for inspection."""
        return self.results / "set-aside"

    @property
    def mlflow(self) -> Path:
        """The MLflow store's folder."""
        return self.local / "mlflow"

    def manifest(self, dataset: str) -> AnyPath:
        """Copy of a data set's manifest: tables can be made where the images are not."""
        return self.results / "manifests" / f"{_name('data set', dataset)}.json"

    def tree(self, tree_hash: str) -> AnyPath:
        """A class tree that a study gives a data set, where its trials find it."""
        return self.results / "trees" / f"{_name('class tree', tree_hash)}.json"

    def claim_name(self, study: str, file: Path) -> None:
        """Give a study's name to its file, so that another file of that name cannot overwrite its tables.

        Raises:
            UserError: another file that still exists has it.
        """
        note = self.table(study) / "file"
        owner = _owner(note)
        if owner is not None and owner != file.absolute():
            raise UserError(
                f"the name {study} belongs to {owner} in {self.local}; rename {file}, or give another --results"
            )
        if owner != file.absolute():
            write_atomically(note, str(file.absolute()).encode())

    @property
    def tracking_uri(self) -> str:
        """`MLFLOW_TRACKING_URI`, or the SQLite store under the results folder."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.mlflow / 'mlflow.db'}"

    @property
    def local_store(self) -> bool:
        """Whether the MLflow store is the one under the results folder."""
        return not os.environ.get("MLFLOW_TRACKING_URI")

    @property
    def has_store(self) -> bool:
        """Whether there is an MLflow store already: somebody's own, or the local one that a run has made."""
        return not self.local_store or (self.mlflow / "mlflow.db").exists()

    @property
    def store_name(self) -> str:
        """The MLflow store for people to read: without user, password or query, which may hold a token."""
        return store_name(self.tracking_uri)

    def checkpoint(self, identity: str) -> AnyPath:
        """Folder of one trial's checkpoints."""
        return self.results / "checkpoints" / _name("trial", identity)

    def log(self, identity: str) -> Path:
        """What one trial's process prints while it trains."""
        return self.local / "logs" / f"{_name('trial', identity)}.log"

    def table(self, study: str) -> Path:
        """Folder of one study's rendered tables."""
        return self.local / "tables" / _name("study", study)

    def wanted(self, study: str) -> Path:
        """The list of the trials that a study's last run wanted."""
        return self.table(study) / "trials.json"

    def require_writable(self) -> None:
        """Make the results folder, and refuse one that cannot be written before anything is computed.

        Raises:
            UserError: it cannot be made or written.
        """
        try:
            for folder in (self.trials, self.claims):
                probe = folder / f".probe-{socket.gethostname()}-{os.getpid()}"
                write_atomically(probe, bytes(PROBE_BYTES))
                probe.unlink()
        except OSError as error:
            raise UserError(
                f"the results folder {self.results} cannot be written ({error.strerror}); "
                "mend that, or give another with --results"
            ) from None


def place(text: str) -> AnyPath:
    """The folder or file that a path names, or the place in an object store that a URL does.

    Raises:
        UserError: there is no such kind of store, or what reaches it is not installed.
    """
    protocol, is_url, where = text.partition("://")
    if not is_url:
        return Path(text)
    if protocol not in STORES:
        raise UserError(unknown_name("kind of store", protocol, STORES))
    if not where.partition("/")[0]:
        raise UserError(f"{text} names no bucket; give {protocol}://BUCKET/PLACE")
    from upath import UPath

    try:  # without a cache of listings: other machines write there too
        there: UPath = UPath(text, use_listings_cache=False)
        there.fs  # noqa: B018 imports what reaches the store
    except ImportError:
        raise UserError(f"{text} needs {STORES[protocol]}, which is not installed; pip install it") from None
    return there


def _owner(note: Path) -> Path | None:
    """The file that a note names, if it still is one; a note that is damaged names none."""
    try:
        owner = Path(note.read_text(encoding="utf-8"))
        return owner if owner.is_file() else None
    except (OSError, ValueError):
        return None


def _name(kind: str, name: str) -> str:
    """A name that comes from a file and becomes one of ours, or a folder's.

    Raises:
        UserError: it would lead elsewhere.
    """
    if name.startswith(".") or not all(letter.isalnum() or letter in ".,_+-@=~" for letter in name):
        raise UserError(
            f"the {kind} {name[:100]!r} cannot name a file: letters, digits and .,_+-@=~ can, and no first ."
        )
    return name


def shipped_studies() -> dict[str, Path]:
    """The studies under `search_spaces/`, by name."""
    files = (Path(str(entry)) for entry in resources.files("search_spaces").iterdir())
    return {path.stem: path for path in sorted(files) if path.suffix == ".yaml"}
