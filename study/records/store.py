"""Store of records: files in one folder, which many processes may write."""

import glob
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np

from dh2l.errors import UserError
from dh2l.io.files import AnyPath, create_atomically, list_files, move, read, write_atomically
from study.records.arrays import arrays_path, pack, read_packed
from study.records.loaded_records import LoadedRecords, read_records
from study.records.record import (
    LARGEST,
    NewerRecord,
    Record,
    parse_content,
    parse_record,
    to_content,
)


class RecordStore:
    """Records below one folder, also those copied in from other machines, into subfolders too."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder

    def path(self, identity: str) -> AnyPath:
        """Return the path of a settled record made here."""
        return self.folder / f"{identity}.json"

    @property
    def repetitions(self) -> AnyPath:
        """Folder of second records of trials that were trained twice at once, and disagree."""
        return self.folder.parent / "repeated"

    @property
    def unsettled(self) -> AnyPath:
        """The folder of the records of trials that failed or were stopped."""
        return self.folder / "unsettled"

    @property
    def evaluated(self) -> AnyPath:
        """Folder of second records of trials trained again to evaluate every epoch."""
        return self.folder / "every-epoch"

    @property
    def probabilities(self) -> AnyPath:
        """The folder of the predicted probabilities."""
        return self.folder.parent / "probabilities"

    @property
    def quarantine_folder(self) -> AnyPath:
        """The folder of damaged records that a writer meets."""
        return self.folder.parent / "set-aside"

    def place(self, record: Record) -> AnyPath:
        """Return the path of a record made here."""
        return (self.folder if record.settled else self.unsettled) / f"{record.identity}.json"

    def write(
        self,
        record: Record,
        arrays: Mapping[str, np.ndarray] | None = None,
        probabilities: Mapping[str, np.ndarray] | None = None,
    ) -> Record:
        """Write a record, and first its arrays and probabilities, each atomically.

        A settled record is created by one process alone and is never replaced, whatever a second
        process writes for its trial. A failed or stopped one has a separate path, so that replacing
        it cannot lose a trial's numbers.

        Returns:
            The record in use afterwards, with the hash of its arrays.

        Raises:
            OSError: it cannot be written; nothing that existed is lost.
        """
        path, packed = self.path(record.identity), b""
        if arrays is not None:
            packed = pack(arrays)
            record = record.model_copy(update={"arrays_sha256": hashlib.sha256(packed).hexdigest()})
        if probabilities:
            content = pack(probabilities)
            record = record.model_copy(
                update={"probabilities_sha256": hashlib.sha256(content).hexdigest()}
            )
            write_atomically(self.probabilities_path(record), content)
        stands = self._write(path, record, packed)
        if stands.probabilities_sha256 != record.probabilities_sha256:
            self.probabilities_path(record).unlink(missing_ok=True)
        return stands

    def _write(self, path: AnyPath, record: Record, packed: bytes) -> Record:
        """Write a record whose arrays are packed; return the record in use afterwards."""
        while True:
            try:
                first = self._settled(path)
            except NewerRecord:  # another version has written it meanwhile
                if record.settled:
                    self._keep_beside(record, packed)
                return record
            if first is not None:
                return self._second(path, first, record, packed)
            if not record.settled:
                return self._write_unsettled(path, record, packed)
            if packed:
                write_atomically(arrays_path(record, path), packed)
            if create_atomically(path, to_content(record)):
                self._clear_up(path, record, packed)
                return record

    def _write_unsettled(self, path: AnyPath, record: Record, packed: bytes) -> Record:
        """Write the record of a failed or stopped trial; return the record in use afterwards."""
        place = self.place(record)
        if packed:
            write_atomically(arrays_path(record, place), packed)
        write_atomically(place, to_content(record))
        return self._standing(path) or record

    def _standing(self, path: AnyPath) -> Record | None:
        """Return the settled record at a path, or None."""
        try:
            record = parse_record(path)
        except (FileNotFoundError, UserError):
            return None
        return record if record.settled else None

    def _settled(self, path: AnyPath) -> Record | None:
        """Return the settled record at a path; move anything else there away.

        Raises:
            NewerRecord: it must be left alone.
            OSError: it cannot be read or moved.
        """
        try:
            record = parse_record(path)
        except FileNotFoundError:
            return None
        except NewerRecord:
            raise
        except UserError as error:
            self.quarantine(LoadedRecords(damaged={path: str(error)}), self.quarantine_folder)
            return None
        if record.settled:
            return record
        with suppress(FileNotFoundError):  # another process is faster
            self._move_unsettled(path)
        return None

    def _move_unsettled(self, path: AnyPath) -> None:
        """Move an unsettled record that an earlier version has filed to its place now."""
        moved = self.unsettled / uuid4().hex / path.name
        move(path, moved)
        if not self._put_back(moved, path):
            move(moved, self.unsettled / path.name)
        if isinstance(moved, Path):
            moved.parent.rmdir()

    def _put_back(self, taken: AnyPath, path: AnyPath) -> bool:
        """Put back what was moved away by mistake: what another process had settled just before.

        Returns:
            Whether it was put back, or kept beside where a third process has settled meanwhile.
        """
        try:
            content = read(taken, LARGEST)
            if not parse_content(content, path.stem).settled:
                return False
        except NewerRecord:
            pass
        except (OSError, UserError):
            return False
        if not create_atomically(path, content):
            write_atomically(self._beside(path.stem, content), content)
        taken.unlink(missing_ok=True)
        return True

    def _clear_up(self, path: AnyPath, record: Record, packed: bytes) -> None:
        """Remove what the trial left before it was settled; later writers keep theirs beside it."""
        for left in self._arrays(path):
            if left != arrays_path(record, path):
                left.unlink(missing_ok=True)
        (self.unsettled / path.name).unlink(missing_ok=True)
        if (
            packed and not arrays_path(record, path).exists()
        ):  # set aside with a damaged record at the same moment
            write_atomically(arrays_path(record, path), packed)

    def _second(self, path: AnyPath, first: Record, second: Record, packed: bytes) -> Record:
        """Keep the first of two records, the second beside it if it is settled and disagrees.

        A second one that alone has the best epoch on the test set gets a folder of its own.
        """
        if first.lacks_best_test and second.best_test is not None:
            return self._write(self.evaluated / path.name, second, packed)
        if second.settled and second.numbers() != first.numbers():
            self._keep_beside(second, packed)
        if packed and second.arrays_sha256 != first.arrays_sha256:
            arrays_path(second, path).unlink(missing_ok=True)
        (self.unsettled / f"{first.identity}.json").unlink(missing_ok=True)
        return first

    def _keep_beside(self, record: Record, packed: bytes) -> None:
        content = to_content(record)
        path = self._beside(record.identity, content)
        if packed:
            write_atomically(arrays_path(record, path), packed)
        write_atomically(path, content)

    def _beside(self, identity: str, content: bytes) -> AnyPath:
        return self.repetitions / f"{identity}.{hashlib.sha256(content).hexdigest()[:12]}.json"

    def probabilities_path(self, record: Record) -> AnyPath:
        """Return the path of a record's predicted probabilities."""
        return (
            self.probabilities / f"{record.identity}.{(record.probabilities_sha256 or '')[:12]}.npz"
        )

    def read_probabilities(self, record: Record) -> dict[str, np.ndarray] | None:
        """Read the predicted probabilities of a record's trial.

        Returns:
            Logarithms as float16 ``(N, n_classes)`` and labels ``(N,)``, by part and epoch:
                ``test.last``, ``test.best_validation``, ``validation.last``,
                ``validation.best_validation``, ``test.labels``, ``validation.labels``. None where
                there is no file, which is not damage.

        Raises:
            UserError: the file is not the one that the record was written with.
        """
        path = self.probabilities_path(record)
        if record.probabilities_sha256 is None or not path.exists():
            return None
        return read_packed(path, record.probabilities_sha256, "probabilities")

    def _arrays(self, path: AnyPath) -> list[AnyPath]:
        """All files of arrays beside a record's file."""
        return list_files(path.parent, f"{glob.escape(path.stem)}.*npz")

    def get(self, identity: str, set_aside: AnyPath) -> Record | None:
        """Return the record of one trial made here; move a damaged one to `set_aside`.

        Raises:
            NewerRecord: it must be left alone.
            OSError: it cannot be read now.
        """
        for folder in (self.evaluated, self.folder, self.unsettled):
            path = folder / f"{identity}.json"
            try:
                return parse_record(path)
            except FileNotFoundError:
                continue
            except NewerRecord:
                raise
            except UserError as error:
                self.quarantine(LoadedRecords(damaged={path: str(error)}), set_aside)
        return None

    def read(self, identities: Iterable[str] | None = None) -> LoadedRecords:
        """Read and verify the records of some identities, or all of them."""
        return read_records(self.folder, identities, evaluated=self.evaluated.name)

    def duplicates(self, found: LoadedRecords) -> dict[str, str]:
        """Describe each trial that was trained twice at once with different numbers."""
        sentences = {}
        for path in list_files(self.repetitions, "*.json"):
            identity = path.stem.rpartition(".")[0]
            if identity in found.records:
                sentences[identity] = (
                    f"{identity} was trained twice at once, with different numbers; the record "
                    "that was filed first is "
                    f"used, the second is {path}"
                )
        return sentences

    def quarantine(self, found: LoadedRecords, folder: AnyPath) -> None:
        """Move damaged records and their arrays away, so that their trials can be trained again."""
        for path in found.damaged:
            name, arrays = f"{path.stem}.{uuid4().hex[:8]}", self._arrays(path)
            taken = folder / f"{name}.json"
            try:
                move(path, taken)
            except FileNotFoundError:  # another driver is faster
                continue
            if self._put_back(taken, path):
                continue
            for file in arrays:
                aside = folder / (name + file.name.removeprefix(path.stem))
                with suppress(FileNotFoundError):
                    move(file, aside)
                    standing = self._standing(path)
                    if standing is not None and file == arrays_path(
                        standing, path
                    ):  # filed since they were listed
                        move(aside, file)
