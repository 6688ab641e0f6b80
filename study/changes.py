"""What an edit of a study does to its trials: which are new since the last run, kept, or no longer wanted."""

import json
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from dh2l.atomic import write_atomically
from study.places import Places
from study.states import Standing

_IDENTITIES = TypeAdapter(list[str])


@dataclass(frozen=True)
class Changes:
    """A study's trials, compared with those of its last run, by identity.

    Attributes:
        new: that the last run did not want.
        kept: that both want.
        unwanted: that the last run wanted and the study no longer does; their records stay.
    """

    new: tuple[str, ...]
    kept: tuple[str, ...]
    unwanted: tuple[str, ...]


def note_wanted(now: Standing, places: Places) -> None:
    """Leave beside a study's tables which trials a run wants."""
    write_atomically(places.wanted(now.plan.name), json.dumps(list(now.states), indent=0).encode())


def changes(now: Standing, places: Places) -> Changes | None:
    """What has changed since the last run; None where there was none that can be read."""
    try:
        wanted = dict.fromkeys(_IDENTITIES.validate_json(places.wanted(now.plan.name).read_bytes()))
    except (OSError, ValidationError):
        return None
    return Changes(
        new=tuple(identity for identity in now.states if identity not in wanted),
        kept=tuple(identity for identity in now.states if identity in wanted),
        unwanted=tuple(identity for identity in wanted if identity not in now.states),
    )
