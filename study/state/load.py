"""Load a study by name or path, with the state of its trials."""

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pydantic import ValidationError

from dh2l.data import DATA_SETS, Manifest, prepare, read_manifest, verify
from dh2l.data.reader import with_train_sizes
from dh2l.errors import DataError, UserError
from dh2l.io.files import read, write_atomically
from study.records.leases import Claims
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.inputs import Inputs, load_inputs, save_inputs
from study.spec.plan import Plan, make_plan
from study.spec.study_file import claim_name, find_study
from study.state.changes import note_wanted
from study.state.observed import known_points
from study.state.states import trial_states
from study.state.study_state import StudyState

Say = Callable[[str], None]
"""Takes a sentence for the user, who may want to know and need not act."""


def open_study(
    study: str,
    overrides: list[str] | None,
    places: Places,
    *,
    note: Say,
    warn: Say,
    write: bool = False,
    check_arrays: bool = False,
) -> StudyState:
    """A study's plan and the states of its trials.

    Args:
        study: a shipped study's name, or a file.
        overrides: changes of its values, each ``key=value``.
        places: where records and data lie.
        note: told of what is unusual and right.
        warn: told of records that cannot be used.
        write: whether trials may follow: then data are read whole, and what trials and tables need is left beside the
            records.
        check_arrays: read the arrays of every record, so that `warn` reports damaged ones; implied by `write`.

    Raises:
        UserError: a mistake in the study; data that are not prepared, or damaged.
    """
    file = find_study(study, overrides)
    manifests: dict[str, Manifest] = {}

    def manifest_of(name: str) -> Manifest:
        if name not in manifests:
            manifests[name] = _manifest(name, places, note, write=write)
        return manifests[name]

    inputs = Inputs() if write else load_inputs(file.name, places, note)
    with _gc_paused():
        plan = make_plan(file, manifest_of, inputs)
    if write:
        places.require_writable()
        claim_name(file, places)
        for name, manifest in manifests.items():
            write_atomically(places.manifest(name), manifest.model_dump_json().encode())
        for key, tree in plan.trees.items():
            write_atomically(places.tree(key), json.dumps(tree.paths, ensure_ascii=False).encode())
        plan.hash_weights()
        save_inputs(file.name, places, inputs)
    state = read_state(plan, places)
    if write:
        note_wanted(state, places)
    if write or check_arrays:
        state.found.check_arrays()
    for warning in state.found.warnings():
        warn(warning)
    if write and state.found.damaged:
        RecordStore(places.trials).set_aside(state.found, places.set_aside)
        warn(f"set aside in {places.set_aside}; their trials are trained again")
    return state


def read_state(plan: Plan, places: Places) -> StudyState:
    """Read records and claims, and derive the state of every trial that the study needs so far.

    The candidates of cells that a searcher fills are among the records, so the plan of the state has them.
    """
    with _gc_paused():
        return _read_state(plan, places)


def _read_state(plan: Plan, places: Places) -> StudyState:
    store, claims = RecordStore(places.trials), Claims(places.claims)
    if any(cell.budget is not None for cell in plan.cells):
        found = store.read()
        plan = plan.with_candidates(known_points(plan, found, claims))
    else:
        found = store.read({identity: trial.config for identity, trial in plan.trials.items()})
    if plan.study.accuracy == "oracle":
        found.require_best_test()
    found.repeated.update(store.repeated(found))
    choosing = StudyState.of(plan, trial_states(plan.choosing, found, claims), found)
    chosen = [choice.candidate for choice in choosing.choices.values() if choice.candidate]
    needed = {identity for candidate in chosen for identity in candidate.confirmations}
    confirming = [identity for identity in plan.confirming if identity in needed]
    states = choosing.states | trial_states(confirming, found, claims)
    return replace(choosing, states=states)


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Disable cyclic garbage collection inside the context. It took about 40 % of the time to read 10,000 records.

    What is made inside is part of the result and has no cycles.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _manifest(name: str, places: Places, note: Say, *, write: bool) -> Manifest:
    """A data set's manifest; to look at results, the copy beside them does."""
    try:
        # Before anything is trained, every byte is read once: damage of the right size would go into records.
        found = verify(name, places.data) if write else read_manifest(name, places.data)
        return with_train_sizes(found, places.data)
    except DataError:
        copy = places.manifest(name)
        if not write and copy.exists() and not (places.data / name).exists():
            try:
                manifest = Manifest.model_validate_json(read(copy))
            except ValidationError:
                raise UserError(
                    f"{copy} is damaged, and {name} is not under {places.data}; prepare it there, or copy the file anew"
                ) from None
            note(
                f"{name} is not under {places.data}; shown as it was last run, hash {manifest.data_hash[:12]}"
            )
            return manifest
        if name not in DATA_SETS or not DATA_SETS[name].comes_with or (places.data / name).exists():
            raise
        return prepare(
            name, places.data
        )  # it comes with what is installed: nothing to ask of the user
