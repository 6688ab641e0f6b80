"""Trials that a study still needs, and those it can skip."""

from study.spec.plan import Plan
from study.spec.trials import Candidate
from study.state.selection import LOST, searches
from study.state.states import SETTLED, State
from study.state.study_state import StudyState


def missing_trials(state: StudyState) -> list[str]:
    """Return the trials that a run trains next, in the plan's order: all without a settled record.

    The other seeds of a candidate that has lost are not needed. A trial that the study's scheduler
    stopped has lost and is left alone, unless nothing else is missing and a cell has no winner
    without it.
    """
    skippable = skippable_trials(state)
    missing = [identity for identity in state.unsettled if identity not in skippable]
    if state.study.scheduler is None:
        return missing
    unstopped = [i for i in missing if state.states[i] is not State.STOPPED]
    return unstopped or stopped_to_resume(state)


def skippable_trials(state: StudyState) -> set[str]:
    """Return the trials still to train of candidates that have lost, and of no other candidate.

    Without a scheduler a stopped trial has not lost: it goes on.
    """
    lost = LOST if state.study.scheduler else (State.DIVERGED,)
    skippable, needed = set[str](), set[str]()
    for cell in state.plan.cells:
        for candidate in cell.candidates:
            out = searches(cell) and any(state.states[i] in lost for i in candidate.trials)
            (skippable if out else needed).update(candidate.trials)
            needed.update(candidate.confirmations)
    return {i for i in skippable - needed if state.states[i] not in (*SETTLED, State.STOPPED)}


def stopped_to_resume(state: StudyState) -> list[str]:
    """Return the stopped trials without which a cell has no winner: its furthest candidates'."""
    needed = dict[str, None]()
    for cell in state.plan.cells:
        if cell.candidates_left:
            continue
        diverged = [
            any(state.states[i] is State.DIVERGED for i in c.trials) for c in cell.candidates
        ]
        progress = [_progress(candidate, state) for candidate in cell.candidates]
        if any(
            seeds == len(c.trials) for (seeds, _), c in zip(progress, cell.candidates, strict=True)
        ):
            continue
        furthest = max(
            (p for p, out in zip(progress, diverged, strict=True) if not out), default=None
        )
        for candidate, reached, out in zip(cell.candidates, progress, diverged, strict=True):
            if reached == furthest and not out:
                needed |= {i: None for i in candidate.trials if state.states[i] is State.STOPPED}
    return list(needed)


def trials_to_come(state: StudyState) -> int:
    """Count the trials that a run may add to those of the state, for searches and confirmation."""
    study = state.study
    fresh = len(study.confirm.seeds) if study.confirm else 0
    awaited = sum(state.awaits_choice(cell) for cell in state.plan.cells)
    return trials_to_search(state) + fresh * awaited


def trials_to_search(state: StudyState) -> int:
    """Count the trials of the candidates that searchers may still try."""
    return unsearched(state.plan) * len(state.study.seeds)


def unsearched(plan: Plan) -> int:
    """Count the candidates that searchers may still try."""
    return sum(cell.candidates_left for cell in plan.cells)


def _progress(candidate: Candidate, state: StudyState) -> tuple[int, int]:
    """Return how far a candidate came: its finished seeds, and epochs of the stopped ones."""
    done = sum(state.states[i] is State.DONE for i in candidate.trials)
    stopped = [i for i in candidate.trials if state.states[i] is State.STOPPED]
    failures = [state.found.records[i].failure for i in stopped]
    return done, sum(failure.epoch or 0 for failure in failures if failure is not None)
