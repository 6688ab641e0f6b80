"""One trial, from config to record. Ray's workers, shards and the command line all come through here."""

import shutil
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import UTC, datetime

from dh2l.config import TrainConfig
from dh2l.errors import Diverged
from dh2l.memory import freed_memory_kept
from dh2l.results import EpochResult, TrainResult
from dh2l.trainer import train
from study import provenance
from study.claims import ClaimedElsewhere, Claims, Holder
from study.filing import arrays_of, finished_record, unfinished_record
from study.places import Places
from study.prepared import data_of
from study.records import Failure, Record, RecordStore

TRACEBACK_LINES = 30


def run_trial(
    config: TrainConfig, places: Places, *, device: str | None = None, threads: int | None = None
) -> Generator[EpochResult, None, Record]:
    """Train one bound config to its record, yielding one result per epoch.

    Goes on from the trial's checkpoint; does nothing where a finished record exists; waits where
    another live process trains the same trial. Whatever goes wrong inside becomes a record too.

    Args:
        config: a config that is bound to its data (`TrainConfig.bound`).
        places: where records, checkpoints and data lie.
        device: a torch device; default: the GPU where there is one.
        threads: CPU threads; default: as torch is set.

    Returns:
        The filed record.
    """
    store, claims = RecordStore(places.trials), Claims(places.claims)
    while True:
        try:
            with (
                claims.hold(config.identity, config.epochs, config.model_dump(mode="json")) as claim,
                freed_memory_kept(),
            ):
                known = store.get(config.identity, places.set_aside)
                if known is not None and known.settled:
                    shutil.rmtree(places.checkpoint(config.identity), ignore_errors=True)
                    return known
                return (yield from _train_to_record(config, places, store, claim, device, threads))
        except ClaimedElsewhere:
            time.sleep(1.0)


def drain(trial: Generator[EpochResult, None, Record], note: Callable[[EpochResult], None]) -> Record:
    """Run a trial to its end, telling `note` of every epoch; returns the record."""
    while True:
        try:
            epoch = next(trial)
        except StopIteration as stop:
            record: Record = stop.value
            return record
        note(epoch)


def _train_to_record(
    config: TrainConfig,
    places: Places,
    store: RecordStore,
    claim: Holder,
    device: str | None,
    threads: int | None,
) -> Generator[EpochResult, None, Record]:
    started, here = datetime.now(UTC), provenance.circumstances()
    checkpoints = places.checkpoint(config.identity)
    try:
        data = data_of(config, places.data, places.tree(config.tree_hash))
        training = train(config, data, device=device, threads=threads, checkpoints=checkpoints, circumstances=here)
        with closing(training):
            while True:
                try:
                    epoch = next(training)
                except StopIteration as stop:
                    result: TrainResult = stop.value
                    break
                claim.renew(epoch.epoch, epoch.metrics.get("validation_accuracy"))
                yield epoch
    except Diverged as error:
        failure = Failure(kind="Diverged", message=str(error), epoch=error.epoch, term=error.term)
        record = unfinished_record(config, "diverged", failure, started=started)
        filed = store.write(record, arrays_of(error.history))
    except Exception as error:  # noqa: BLE001 a trial's edge: whatever goes wrong becomes a failed record
        lines = traceback.format_exc().splitlines()[-TRACEBACK_LINES:]
        failure = Failure(kind=type(error).__name__, message=str(error)[:2000], traceback="\n".join(lines))
        return store.write(unfinished_record(config, "failed", failure, started=started))
    else:
        filed = store.write(finished_record(config, started, result), arrays_of(result.history, result))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return filed
