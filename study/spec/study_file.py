"""Study files: found by name or path, extended by one another, read with source locations."""

import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError, synonym
from dh2l.io.document import Document, parse_value
from dh2l.io.files import read, write_atomically
from dh2l.io.validation import Location, ValidationMessage, validation_messages
from dh2l.io.yaml import is_file, not_found_message
from study.records.paths import Places, expanded
from study.spec.schema import Study
from study.spec.settings import config_keys


class StudyFile:
    """A study with its name and its source.

    Attributes:
        name: the file's stem, with `@key=value` for every override, usable as a folder's name.
        study: its content.
        document: the file, for source locations.
        overrides: the values of the command line, by key.
    """

    def __init__(self, path: Path, overrides: dict[str, Any] | None = None) -> None:
        """Read and validate a study file.

        Raises:
            UserError: one line per mistake: file, location, value and remedy.
        """
        self._chain = _chain(path)
        self.document = self._chain[0]
        self.overrides = dict(sorted((overrides or {}).items()))
        parts = [f"{_name_part(k)}={_name_part(v)}" for k, v in self.overrides.items()]
        self.name = _short_name([_name_part(path.stem), *parts])
        values: dict[str, Any] = {}
        for document in reversed(self._chain):
            values = _merged(values, document.values)
        try:
            self.study = Study.model_validate(_overridden(values, overrides or {}))
        except ValidationError as error:
            raise UserError(
                "\n".join(
                    f"{self.source_location(message.location)}: {_with_hint(message)}"
                    for message in validation_messages(error, Study)
                )
            ) from None

    @property
    def documents(self) -> tuple[Document, ...]:
        """The file, then those that it extends, one after the other."""
        return tuple(self._chain)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets that the study names anywhere."""
        study = self.study
        names: list[Any] = [column.set.get("dataset") for column in study.columns]
        if None in names:
            names.append(study.config.get("dataset", TrainConfig.model_fields["dataset"].default))
        names += [row.set.get("dataset") for row in study.rows]
        for axes in (study.search, *(row.search for row in study.rows)):
            names += (axes["dataset"].values or []) if "dataset" in axes else []
        return tuple(dict.fromkeys(str(name) for name in names if name is not None))

    def source_location(self, location: Location) -> str:
        """Return the source of a value: ``file:line:column``, or the option of the command line."""
        if key := self.overridden(location):
            return f"--set {key}"
        return self._owner(location).source_location(location)

    def resolved(self, location: Location, name: str) -> Path:
        """Resolve the path of a file that a value names.

        It is relative to the folder of the value's study file; for an option, to the working
        folder.

        Args:
            location: the location of the value.
            name: the path as it is written.

        Raises:
            RuntimeError: the path begins with the home of a user who has none.
        """
        is_option = self.overridden(location)
        folder = Path.cwd() if is_option else self._owner(location).path.parent.resolve()
        return folder / Path(name).expanduser()

    def same_as(self, path: Path) -> bool:
        """Return whether another file has the same study, with the overrides of this one."""
        try:
            return StudyFile(path, self.overrides).study == self.study
        except UserError:
            return False

    def overridden(self, location: Location) -> str:
        """Return the key of the override that set a value; empty for a value from a file."""
        if not location:
            return ""
        is_config_field = location[0] == "config" and len(location) > 1
        key = location[1] if is_config_field else location[0]
        return str(key) if key in self.overrides else ""

    def is_own(self, location: Location) -> bool:
        """Return whether a value comes from this file or the command line, and is not inherited."""
        return bool(self.overridden(location)) or self._owner(location) is self.document

    def _owner(self, location: Location) -> Document:
        """Return the file that sets a value."""
        depth = 2 if location[:1] == ("config",) else 1
        return next((d for d in self._chain if _has(d.values, location[:depth])), self.document)


def _chain(path: Path) -> list[Document]:
    """Read a study file and those that it extends, one after the other.

    Raises:
        UserError: a file does not exist, or extends itself.
    """
    chain = [_document(path)]
    while (name := chain[-1].values.get("extends")) is not None:
        here = chain[-1]
        shipped = shipped_studies()
        base = shipped.get(str(name)) or here.path.parent / expanded(str(name))
        source = here.source_location(("extends",))
        if not is_file(base):
            problem = not_found_message("study", str(name), shipped, here.path.parent)
            raise UserError(f"{source}: {problem}")
        if any(base.samefile(document.path) for document in chain):
            raise UserError(f"{source}: {name} extends itself; expected another study")
        chain.append(_document(base))
    return chain


def _document(path: Path) -> Document:
    """Read one study file.

    Raises:
        UserError: it cannot be read, or is not a mapping.
    """
    document = Document(path, "a study")
    if not isinstance(document.values, dict):
        raise UserError(
            f"{path}: not a study file; expected a mapping with keys such as rows and seeds"
        )
    return document


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a file over those of its base: key by key, `config` field by field."""
    merged = {**base, **values}
    configs = [part.get("config") or {} for part in (base, values)]
    if all(isinstance(config, dict) for config in configs) and any(configs):
        merged["config"] = {**configs[0], **configs[1]}
    return merged


def _overridden(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a study with those of the command line.

    Raises:
        UserError: an override of `extends`.
    """
    if "extends" in overrides:
        raise UserError(
            "--set extends: only a file can extend a study; write a file with this key instead"
        )
    for key, value in overrides.items():
        if key in Study.model_fields:
            values = {**values, key: value}
        elif isinstance(values.get("config") or {}, dict):
            values = _merged(values, {"config": {key: value}})
    return values


def _has(values: Any, location: Location) -> bool:
    """Return whether a file's values contain a location."""
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _with_hint(message: ValidationMessage) -> str:
    """Return the sentence; for a config field outside `config`, where it belongs."""
    location = message.location
    if len(location) == 1 and location[0] not in Study.model_fields:
        for field in {str(location[0]), synonym(location[0])} & config_keys():
            other = "" if field == location[0] else f" (here {field})"
            return f"{location[0]}{other} is a field of a trial's config; put it under `config:`"
    return message.sentence


def find_study(name: str, overrides: list[str] | None = None) -> StudyFile:
    """Read the study of a shipped name or a path, with ``key=value`` overrides.

    Raises:
        UserError: the study does not exist, or has a mistake.
    """
    shipped = shipped_studies()
    path = shipped.get(name) or expanded(name)
    if not is_file(path):
        raise UserError(not_found_message("study", name, shipped, Path()))
    return StudyFile(path, parse_key_values("--set", overrides or [], "epochs=2"))


def parse_key_values(option: str, texts: list[str], example: str) -> dict[str, Any]:
    """Parse the values of an option that has the form ``key=value`` and may be repeated.

    Raises:
        UserError: a text without a key or an equals sign.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(
                f"{option} {text!r} must have the form key=value; for instance {option} {example}"
            )
        values[key.strip()] = parse_value(value)
    return values


def _name_part(value: Any) -> str:
    """Return a value as part of a name that is also a folder."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    part = "".join(c if c.isalnum() or c in ".,_+-" else "_" for c in text)
    # The stem of `...yaml` is `..`, which is another folder.
    return f"_{part}" if part.startswith(".") else part


def _short_name(parts: list[str]) -> str:
    """Return the parts joined; cut, and with a hash, if they are too long for a folder."""
    name = "@".join(parts)
    encoded = name.encode()
    if len(encoded) <= 100:
        return name
    beginning = encoded[:80].decode(errors="ignore")
    return f"{beginning}@{hashlib.sha256(encoded).hexdigest()[:12]}"


def claim_name(file: StudyFile, places: Places) -> None:
    """Reserve a study's name for its file, so that no other study overwrites its tables.

    Another file with the same content, e.g. in a second clone, is the same study; so is another
    path of the same file.

    Raises:
        UserError: another file with other content has the name and still exists.
    """
    note, path = places.table(file.name) / "file", file.document.path
    owner = _recorded_owner(note)
    if owner is None:
        write_atomically(note, os.fsencode(path.absolute()))
    elif not owner.samefile(path) and not file.same_as(owner):
        raise UserError(
            f"the name {file.name} belongs to {owner} in {places.local}, whose content differs "
            f"from {path}; rename one of the two, or pass another --results"
        )


def _recorded_owner(note: Path) -> Path | None:
    """Return the file that has the name; None if it does not exist or the note is damaged."""
    try:
        owner = Path(os.fsdecode(read(note)))
        return owner if owner.is_file() else None
    except (OSError, ValueError):
        return None


def shipped_studies() -> dict[str, Path]:
    """Return the studies under `search_spaces/`, by name."""
    files = (Path(str(entry)) for entry in resources.files("search_spaces").iterdir())
    return {path.stem: path for path in sorted(files) if path.suffix == ".yaml"}
