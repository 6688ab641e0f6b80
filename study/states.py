"""The state of every trial of a plan, derived from what lies on disk."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from study.claims import Claims
from study.plan import Plan
from study.records import Findings


class State(StrEnum):
    """Where a trial stands."""

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


@dataclass(frozen=True)
class Standing:
    """A plan with the state of each of its trials.

    Attributes:
        plan: the plan.
        states: by identity, in the plan's order: the trials that choose, then those that confirm what is chosen.
        found: the records, and what is wrong with some.
    """

    plan: Plan
    states: dict[str, State]
    found: Findings

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials in each state that occurs."""
        return {state.value: n for state in State if (n := Counter(self.states.values())[state])}

    @property
    def missing(self) -> list[str]:
        """Trials that a run would train, in the plan's order."""
        return [identity for identity, state in self.states.items() if state not in SETTLED]


def trial_states(identities: Iterable[str], found: Findings, claims: Claims) -> dict[str, State]:
    """The state of every trial, derived from records and claims."""
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
