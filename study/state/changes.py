"""Changes of a study's trials since its last run."""

import json
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from dh2l.io.files import read, write_atomically
from study.records.paths import Places
from study.state.study_state import StudyState

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


def note_wanted(state: StudyState, places: Places) -> None:
    """Leave beside a study's tables which trials a run wants."""
    write_atomically(
        places.wanted(state.plan.name), json.dumps(list(state.states), indent=0).encode()
    )


def changes(state: StudyState, places: Places) -> Changes | None:
    """Compare a plan with that of the last run; None if no last run can be read."""
    try:
        wanted = dict.fromkeys(_IDENTITIES.validate_json(read(places.wanted(state.plan.name))))
    except (OSError, ValidationError):
        return None
    return Changes(
        new=tuple(identity for identity in state.states if identity not in wanted),
        kept=tuple(identity for identity in state.states if identity in wanted),
        unwanted=tuple(identity for identity in wanted if identity not in state.states),
    )
