"""States of a plan's trials, derived from records and leases."""

from collections.abc import Iterable
from enum import StrEnum

from study.records.leases import Claims
from study.records.loaded_records import LoadedRecords


class State(StrEnum):
    """State of a trial."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"
    STALE = "stale"
    """Claimed by a process that is dead."""
    CONFLICT = "conflict"
    """Two records of it disagree."""


SETTLED = (State.DONE, State.DIVERGED, State.CONFLICT)
"""States of trials that `run` leaves alone."""


def trial_states(
    identities: Iterable[str], found: LoadedRecords, claims: Claims
) -> dict[str, State]:
    """Derive the state of every trial from records and leases."""
    states = {}
    for identity in identities:
        record = found.records.get(identity)
        if identity in found.conflicts:
            states[identity] = State.CONFLICT
        elif record is not None and record.state in ("done", "diverged"):
            states[identity] = State(record.state)
        elif claims.alive(identity):
            states[identity] = State.RUNNING
        elif record is not None:
            states[identity] = State(record.state)
        else:
            claim = claims.read(identity)
            states[identity] = State.PLANNED if claim is None or claim.released else State.STALE
    return states
