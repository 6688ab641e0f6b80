"""Every path the harness reads or writes."""

import re
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from dh2l.errors import UserError, first_line, unknown_name_message
from dh2l.io.files import AnyPath, write_atomically

PROBE_BYTES = 4096
"""Of a file that is written to see whether one can be: a full disk takes empty ones."""
STORES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""Kinds of object stores, each with the package that reaches it."""


@dataclass(frozen=True)
class Places:
    """Paths of results and prepared data.

    Attributes:
        results: the folder of results, or the address of one in an object store; everything below
            it is ours.
        data: the folder of prepared data sets.
        local: the folder for files that an object store cannot hold: tables, the MLflow store. It
            is `results`, where that is a folder.
    """

    results: AnyPath
    data: Path
    local: Path

    @classmethod
    def of(cls, results: AnyPath | str, data: Path | str) -> "Places":
        """Make absolute paths.

        Args:
            results: a folder, or the URL of one in an object store, e.g. ``s3://bucket/results``.
            data: a folder.

        Raises:
            UserError: an empty path, which would mean the working folder; a home of nobody; a URL
                of a store that cannot be used.
        """
        for name, path in (("results", results), ("data", data)):
            if str(path) in ("", "."):
                raise UserError(f"--{name} is empty; name a folder, or leave it out for ./{name}")
        data = expanded(data).absolute()
        if isinstance(results, str):
            results = place(results)
        if isinstance(results, Path):
            results = expanded(results).absolute()
            return cls(results, data, results)
        local = Path("results", re.sub(r"[^A-Za-z0-9._]+", "-", str(results)).strip("-."))
        return cls(results, data, local.absolute())

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
        """Return the path of a class tree that a study gives a data set, for its trials."""
        return self.results / "trees" / f"{_name('class tree', tree_hash)}.json"

    def inputs(self, study: str) -> AnyPath:
        """Return the path of the hashes of weights and class trees that a study names."""
        return self.results / "inputs" / f"{_name('study', study)}.json"

    def checkpoint(self, identity: str) -> AnyPath:
        """Folder of one trial's checkpoints."""
        return self.results / "checkpoints" / _name("trial", identity)

    def log(self, identity: str) -> Path:
        """Return the path of a trial's log, which exists while it trains."""
        return self.local / "logs" / f"{_name('trial', identity)}.log"

    def table(self, study: str) -> Path:
        """Folder of one study's rendered tables."""
        return self.local / "tables" / _name("study", study)

    def wanted(self, study: str) -> Path:
        """Return the path of the list of trials that a study's last run needed."""
        return self.table(study) / "trials.json"

    def require_writable(self) -> None:
        """Create the results folder, and refuse one that cannot be written before anything runs.

        Raises:
            UserError: it cannot be created or written.
        """
        try:
            for folder in (self.trials, self.claims):
                probe = folder / f".probe-{uuid4().hex}"
                write_atomically(probe, bytes(PROBE_BYTES))
                probe.unlink()
        except OSError as error:
            raise UserError(
                f"the results folder {self.results} cannot be written ({error.strerror}); "
                "mend that, or give another with --results"
            ) from None


def expanded(path: Path | str) -> Path:
    """Replace `~` by the home folder, which a shell does not do in `--option=~/x`.

    Raises:
        UserError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        told = first_line(error).rstrip(".").lower()
        raise UserError(f"the path {str(path)!r}: {told}; write the path without ~") from None


def place(text: str) -> AnyPath:
    """Return the folder or file of a path, or the address in an object store of a URL.

    Raises:
        UserError: the kind of store is unknown, or its package is not installed.
    """
    protocol, is_url, where = text.partition("://")
    if not is_url:
        return expanded(text)
    if protocol not in STORES:
        raise UserError(unknown_name_message("kind of store", protocol, STORES))
    if not where.partition("/")[0]:
        raise UserError(f"{text} names no bucket; give {protocol}://BUCKET/PLACE")
    from upath import UPath

    try:  # without a cache of listings: other machines write there too
        there: UPath = UPath(text, use_listings_cache=False)
        there.fs  # noqa: B018 imports what reaches the store
    except ImportError:
        raise UserError(
            f"{text} needs {STORES[protocol]}, which is not installed; pip install it"
        ) from None
    return there


def _name(kind: str, name: str) -> str:
    """Check a name from a file that becomes a file's or folder's name of ours.

    Raises:
        UserError: it would lead elsewhere.
    """
    if name.startswith(".") or not all(letter.isalnum() or letter in ".,_+-@=~" for letter in name):
        raise UserError(
            f"the {kind} {name[:100]!r} cannot name a file: letters, digits and .,_+-@=~ can, and "
            "no first ."
        )
    return name
