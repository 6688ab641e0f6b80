"""Where a study stands: what its records say, what its searcher has tried, and what is left to confirm."""

from study.claims import Claims
from study.known import known_points
from study.places import Places
from study.plan import Plan
from study.records import RecordStore
from study.selection import choose
from study.states import Standing, trial_states
from study.uncollected import uncollected


@uncollected()
def standing(plan: Plan, places: Places) -> Standing:
    """Read records and claims, and derive the state of every trial that the study needs so far.

    The candidates of cells that a searcher fills are found among the records, so the plan of the standing has them.
    """
    store, claims = RecordStore(places.trials), Claims(places.claims)
    if any(cell.budget is not None for cell in plan.cells):
        found = store.read()
        plan = plan.with_candidates(known_points(plan, found, claims))
    else:
        found = store.read({**plan.configs, **plan.confirmations})
    found.repeated.update(store.repeated(found))
    choosing = Standing(plan, trial_states(plan.configs, found, claims), found)
    chosen = [choose(cell, choosing).candidate for cell in plan.cells]
    needed = {identity for candidate in chosen if candidate is not None for identity in candidate.confirmations}
    confirming = [identity for identity in plan.confirmations if identity in needed]
    return Standing(plan, choosing.states | trial_states(confirming, found, claims), found)
