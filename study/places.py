"""Every path the harness reads or writes."""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dh2l.atomic import write_atomically
from dh2l.errors import UserError
from study.redaction import store_name


@dataclass(frozen=True)
class Places:
    """Where results and prepared data lie.

    Attributes:
        results: the results folder; everything below it is ours.
        data: the folder of prepared data sets.
    """

    results: Path
    data: Path

    @classmethod
    def of(cls, results: Path, data: Path) -> "Places":
        """Absolute places.

        Raises:
            UserError: an empty path, which would mean the working folder.
        """
        for name, path in (("results", results), ("data", data)):
            if path == Path():
                raise UserError(f"--{name} is empty; name a folder, or leave it out for ./{name}")
        return cls(results.absolute(), data.absolute())

    @property
    def trials(self) -> Path:
        """The records: what is known."""
        return self.results / "trials"

    @property
    def claims(self) -> Path:
        """Marks of trials in training."""
        return self.results / "running"

    @property
    def set_aside(self) -> Path:
        """Records that did not verify, kept for inspection."""
        return self.results / "set-aside"

    @property
    def ray(self) -> Path:
        """Ray Tune's own scratch, removed after each run."""
        return self.results / "ray"

    @property
    def mlflow(self) -> Path:
        """The MLflow store's folder."""
        return self.results / "mlflow"

    def manifest(self, dataset: str) -> Path:
        """Copy of a data set's manifest: tables can be made where the images are not."""
        return self.results / "manifests" / f"{_name('data set', dataset)}.json"

    def tree(self, tree_hash: str) -> Path:
        """A class tree that a study gives a data set, where its trials find it."""
        return self.results / "trees" / f"{_name('class tree', tree_hash)}.json"

    def claim_name(self, study: str, file: Path) -> None:
        """Give a study's name to its file, so that another file of that name cannot overwrite its tables.

        Raises:
            UserError: another file that still exists has it.
        """
        note = self.table(study) / "file"
        owner = Path(note.read_text(encoding="utf-8")) if note.exists() else None
        if owner is not None and owner != file.absolute() and owner.exists():
            raise UserError(
                f"the name {study} belongs to {owner} in {self.results}; rename {file}, or give another --results"
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

    def checkpoint(self, identity: str) -> Path:
        """Folder of one trial's checkpoint."""
        return self.results / "checkpoints" / _name("trial", identity)

    def table(self, study: str) -> Path:
        """Folder of one study's rendered tables."""
        return self.results / "tables" / _name("study", study)

    def require_writable(self) -> None:
        """Make the results folder, and refuse one that cannot be written before anything is computed.

        Raises:
            UserError: it cannot be made or written.
        """
        try:
            for folder in (self.trials, self.claims):
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".probe-{os.getpid()}"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise UserError(
                f"the results folder {self.results} cannot be written ({error.strerror}); "
                "give another with --results, or mend its permissions"
            ) from None


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
