"""Loading of a study, with the state of its trials."""

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
from study.spec.study_file import StudyFile, claim_name, find_study
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
    check_arrays: bool = False,
) -> StudyState:
    """Load a study's plan and the states of its trials, to look at them.

    Args:
        study: a shipped study's name, or a file.
        overrides: changes of its values, each ``key=value``.
        places: the paths of records and data.
        note: called with what is unusual and right.
        warn: called with records that cannot be used.
        check_arrays: read the arrays of every record, so that `warn` reports damaged ones.

    Raises:
        UserError: a mistake in the study; data that are not prepared, or damaged.
    """
    file = find_study(study, overrides)
    plan, _ = _make_plan(
        file, load_inputs(file.name, places, note), lambda name: _shown_manifest(name, places, note)
    )
    state = read_state(plan, places)
    if check_arrays:
        state.found.check_arrays()
    for warning in state.found.warnings():
        warn(warning)
    return state


def open_study_to_run(
    study: str, overrides: list[str] | None, places: Places, *, warn: Say
) -> StudyState:
    """Load a study as `open_study` does, and prepare the results folder for its trials.

    Data are read whole. Manifests, class trees and other inputs of trials and tables are copied
    beside the records. Damaged records are moved away, so that their trials are trained again.

    Raises:
        UserError: as `open_study`; or the results cannot be written, or belong to another study.
    """
    file = find_study(study, overrides)
    inputs = Inputs()
    plan, manifests = _make_plan(file, inputs, lambda name: _verified_manifest(name, places))
    places.require_writable()
    claim_name(file, places)
    for name, manifest in manifests.items():
        write_atomically(places.manifest(name), manifest.model_dump_json().encode())
    for key, tree in plan.trees.items():
        write_atomically(places.tree(key), json.dumps(tree.paths, ensure_ascii=False).encode())
    plan.hash_weights()
    save_inputs(file.name, places, inputs)
    state = read_state(plan, places)
    note_wanted(state, places)
    state.found.check_arrays()
    for warning in state.found.warnings():
        warn(warning)
    if state.found.damaged:
        RecordStore(places.trials).quarantine(state.found, places.set_aside)
        warn(f"set aside in {places.set_aside}; their trials are trained again")
    return state


def _make_plan(
    file: StudyFile, inputs: Inputs, read: Callable[[str], Manifest]
) -> tuple[Plan, dict[str, Manifest]]:
    """Plan a study, and return the manifests that it read, each once."""
    manifests: dict[str, Manifest] = {}

    def manifest_of(name: str) -> Manifest:
        if name not in manifests:
            manifests[name] = read(name)
        return manifests[name]

    with _gc_paused():
        return make_plan(file, manifest_of, inputs), manifests


def read_state(plan: Plan, places: Places) -> StudyState:
    """Read records and leases, and derive the state of every trial that the study needs so far.

    The candidates of cells that a searcher fills are among the records, so the plan of the state
    has them.
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
    found.duplicates.update(store.duplicates(found))
    choosing = StudyState.of(plan, trial_states(plan.choosing, found, claims), found)
    chosen = [choice.candidate for choice in choosing.choices.values() if choice.candidate]
    needed = {identity for candidate in chosen for identity in candidate.confirmations}
    confirming = [identity for identity in plan.confirming if identity in needed]
    states = choosing.states | trial_states(confirming, found, claims)
    return replace(choosing, states=states)


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Disable cyclic garbage collection inside the context.

    It took about 40 % of the time to read 10,000 records. Objects made inside are part of the
    result and have no cycles.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _verified_manifest(name: str, places: Places) -> Manifest:
    """Read every byte of a data set once: damage of the right size would enter records."""
    try:
        return with_train_sizes(verify(name, places.data), places.data)
    except DataError:
        manifest = _prepare_installed(name, places)
        if manifest is None:
            raise
        return manifest


def _shown_manifest(name: str, places: Places, note: Say) -> Manifest:
    """Return a data set's manifest; without the data, the copy beside the records suffices."""
    try:
        return with_train_sizes(read_manifest(name, places.data), places.data)
    except DataError:
        copy = places.manifest(name)
        if copy.exists() and not (places.data / name).exists():
            return _copied_manifest(name, places, note)
        manifest = _prepare_installed(name, places)
        if manifest is None:
            raise
        return manifest


def _copied_manifest(name: str, places: Places, note: Say) -> Manifest:
    copy = places.manifest(name)
    try:
        manifest = Manifest.model_validate_json(read(copy))
    except ValidationError:
        raise UserError(
            f"{copy} is damaged, and {name} is not under {places.data}; prepare it there, or copy "
            "the file anew"
        ) from None
    note(
        f"{name} is not under {places.data}; shown as it was last run, hash "
        f"{manifest.data_hash[:12]}"
    )
    return manifest


def _prepare_installed(name: str, places: Places) -> Manifest | None:
    """Prepare a data set that comes with an installed library, unless its folder exists."""
    if name not in DATA_SETS or not DATA_SETS[name].comes_with or (places.data / name).exists():
        return None
    return prepare(name, places.data)
