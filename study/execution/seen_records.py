"""Records that a run has seen, to detect their removal."""

from dh2l.wording import counted
from study.execution.observers import Observer
from study.records.loaded_records import LoadedRecords
from study.records.paths import Places
from study.records.record import Record


class SeenRecords(Observer):
    """Observer that remembers every settled record of a run."""

    def __init__(self, found: LoadedRecords) -> None:
        """Remember the settled records from before the run.

        Args:
            found: records from before the run.
        """
        self._seen = {
            identity: None for identity, record in found.records.items() if record.settled
        }

    def on_trial_end(self, record: Record) -> None:
        """Remember a settled record."""
        if record.settled:
            self._seen[record.identity] = None

    def removal_message(self, found: LoadedRecords, places: Places) -> str:
        """Return a message about removed records, empty if all are present.

        Args:
            found: records that are present now.
            places: paths of the results.
        """
        present = {*found.records, *found.conflicts, *(path.stem for path in found.damaged)}
        gone = [identity for identity in self._seen if identity not in present]
        if not gone:
            return ""
        return (
            f"{counted(len(gone), 'record')} of this run disappeared from {places.trials}, first "
            f"{gone[0]}: removed, or moved with the folder. Put them back, or run the command "
            "again to train the trials again."
        )
