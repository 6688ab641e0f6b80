"""A study, by name or file, read into where it stands: for commands and for `study.frame`."""

import json
from collections.abc import Callable

from pydantic import ValidationError

from dh2l.atomic import write_atomically
from dh2l.data import DATA_SETS, Manifest, prepare, read_manifest, verify
from dh2l.errors import DataError, UserError
from study.changes import note_wanted
from study.places import Places
from study.plan import make_plan
from study.records import RecordStore
from study.standing import standing
from study.states import Standing
from study.studyfile import find_study

Say = Callable[[str], None]
"""Takes a sentence for the user, who may want to know and need not act."""


def open_study(
    study: str, overrides: list[str] | None, places: Places, *, note: Say, warn: Say, write: bool = False
) -> Standing:
    """A study's plan and the states of its trials.

    Args:
        study: a shipped study's name, or a file.
        overrides: changes of its values, each ``key=value``.
        places: where records and data lie.
        note: told of what is unusual and right.
        warn: told of records that cannot be used.
        write: whether trials may follow: then data are read whole, and what trials and tables need is left beside the
            records.

    Raises:
        UserError: a mistake in the study; data that are not prepared, or damaged.
    """
    file = find_study(study, overrides)
    manifests: dict[str, Manifest] = {}

    def manifest_of(name: str) -> Manifest:
        if name not in manifests:
            manifests[name] = _manifest(name, places, note, write=write)
        return manifests[name]

    plan = make_plan(file, manifest_of)
    if write:
        places.require_writable()
        places.claim_name(file.name, file.document.path)
        for name, manifest in manifests.items():
            write_atomically(places.manifest(name), manifest.model_dump_json().encode())
        for key, tree in plan.trees.items():
            write_atomically(places.tree(key), json.dumps(tree.paths, ensure_ascii=False).encode())
    now = standing(plan, places)
    if write:
        note_wanted(now, places)
    for warning in now.found.warnings():
        warn(warning)
    if write and now.found.damaged:
        RecordStore(places.trials).set_aside(now.found, places.set_aside)
        warn(f"set aside in {places.set_aside}; their trials are trained again")
    return now


def _manifest(name: str, places: Places, note: Say, *, write: bool) -> Manifest:
    """A data set's manifest; to look at results, the copy beside them does."""
    try:
        # Before anything is trained, every byte is read once: damage of the right size would go into records.
        return verify(name, places.data) if write else read_manifest(name, places.data)
    except DataError:
        copy = places.manifest(name)
        if not write and copy.exists() and not (places.data / name).exists():
            try:
                manifest = Manifest.model_validate_json(copy.read_bytes())
            except ValidationError:
                raise UserError(
                    f"{copy} is damaged, and {name} is not under {places.data}; prepare it there, or copy the file anew"
                ) from None
            note(f"{name} is not under {places.data}; shown as it was last run, hash {manifest.data_hash[:12]}")
            return manifest
        if name not in DATA_SETS or not DATA_SETS[name].comes_with or (places.data / name).exists():
            raise
        return prepare(name, places.data)  # it comes with what is installed: nothing to ask of the user
