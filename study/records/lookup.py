"""Lookup of one record by its identity or a part of it."""

from difflib import get_close_matches

from dh2l.errors import UserError
from dh2l.io.files import AnyPath
from study.records.paths import Places
from study.records.record import Record
from study.records.store import RecordStore


def find_record(name: str, places: Places) -> tuple[Record, AnyPath]:
    """Find a record and its file, by the trial's identity or enough of it to be unique.

    Raises:
        UserError: there is none or several, it is damaged or in conflict.
    """
    store = RecordStore(places.trials)
    known = sorted({path.stem for path in store.folder.rglob("*.json")})
    fitting = [name] if name in known else [identity for identity in known if name in identity]
    if not known:
        raise UserError(
            f"there are no records under {places.trials}; give the folder of results with --results"
        )
    if not fitting:
        near = get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
        raise UserError(
            f"no record under {places.trials} is of a trial {name!r}; near are: {', '.join(near)}"
        )
    if len(fitting) > 1:
        raise UserError(
            f"{name!r} fits {len(fitting)} records, among them {fitting[0]} and {fitting[1]}; "
            "give more"
        )
    found = store.read(fitting)
    if fitting[0] not in found.records:
        raise UserError("; ".join(found.warnings()))
    return found.records[fitting[0]], found.paths[fitting[0]]
