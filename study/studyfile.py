"""Study files: found by name or path, extended by one another, read with the place of every mistake."""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dh2l.config import TrainConfig
from dh2l.errors import UserError, unknown_name
from dh2l.explain import Finding, Location, findings
from dh2l.yamlfile import is_file
from study.places import shipped_studies
from study.space import Study, config_keys
from study.yaml12 import Document, parse_value


class StudyFile:
    """A study with its name and the file it came from.

    Attributes:
        name: the file's stem, with `@key=value` for every override; letters, digits and `.,_+-@=` alone.
        study: its content.
        document: the file, for the places of mistakes.
    """

    def __init__(self, path: Path, overrides: dict[str, Any] | None = None) -> None:
        """Read and validate a study file.

        Raises:
            UserError: one line per mistake: file, place, value and remedy.
        """
        self._chain = _chain(path)
        self.document = self._chain[0]
        values: dict[str, Any] = {}
        for document in reversed(self._chain):
            values = _merged(values, document.values)
        if "extends" in (overrides or {}):
            raise UserError("--set extends: what a study extends is part of its file; write a file of your own")
        for key, value in (overrides or {}).items():
            if key in Study.model_fields:
                values[key] = value
            elif isinstance(values.get("config") or {}, dict):
                values = _merged(values, {"config": {key: value}})
        self.overrides = dict(sorted((overrides or {}).items()))
        self.name = _short_name([_word(path.stem), *(f"{_word(k)}={_word(v)}" for k, v in self.overrides.items())])
        try:
            self.study = Study.model_validate(values)
        except ValidationError as error:
            raise UserError(
                "\n".join(f"{self.place(f.location)}: {_hinted(f)}" for f in findings(error, Study))
            ) from None

    @property
    def documents(self) -> tuple[Document, ...]:
        """The file, then those that it extends, one after the other."""
        return tuple(self._chain)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets that the study names anywhere."""
        study = self.study
        named: list[Any] = [column.set.get("dataset") for column in study.columns]
        if None in named:
            named.append(study.config.get("dataset", TrainConfig.model_fields["dataset"].default))
        named += [row.set.get("dataset") for row in study.rows]
        for axes in (study.search, *(row.search for row in study.rows)):
            named += (axes["dataset"].values or []) if "dataset" in axes else []
        return tuple(dict.fromkeys(str(name) for name in named if name is not None))

    def place(self, location: Location) -> str:
        """Where a value came from: a place in a file, or the command line."""
        key = location[1] if location[:1] == ("config",) and len(location) > 1 else location[0] if location else None
        if key in self.overrides:
            return f"--set {key}"
        depth = 2 if location[:1] == ("config",) else 1
        owner = next((d for d in self._chain if _has(d.values, location[:depth])), self.document)
        return owner.place(location)


def _chain(path: Path) -> list[Document]:
    """A study file and those that it extends, one after the other.

    Raises:
        UserError: one that is not there, or extends itself.
    """
    chain = [Document(path)]
    while (name := chain[-1].values.get("extends")) is not None:
        here = chain[-1]
        shipped = shipped_studies()
        base = shipped.get(str(name)) or here.path.parent / str(name)
        if not is_file(base):
            near = unknown_name("study", name, shipped)
            raise UserError(f"{here.place(('extends',))}: {near} (or a path from this file's folder)")
        if any(base.samefile(document.path) for document in chain):
            raise UserError(f"{here.place(('extends',))}: {name} extends itself")
        chain.append(Document(base))
    return chain


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values of a file over those of the file that it extends: key by key, in `config` field by field."""
    merged = {**base, **values}
    configs = [part.get("config") or {} for part in (base, values)]
    if all(isinstance(config, dict) for config in configs) and any(configs):
        merged["config"] = {**configs[0], **configs[1]}
    return merged


def _has(values: Any, location: Location) -> bool:
    """Whether there is something at a location in a file's values."""
    for part in location:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _hinted(finding: Finding) -> str:
    """The sentence; for a config field that stands beside `config`, where it belongs."""
    location = finding.location
    if len(location) == 1 and location[0] not in Study.model_fields and location[0] in config_keys():
        return f"{location[0]} is a field of a trial's config: put it under `config:`"
    return finding.sentence


def find_study(name: str, overrides: list[str] | None = None) -> StudyFile:
    """The study of a shipped name or a path, with ``key=value`` overrides.

    Raises:
        UserError: no such study, or a mistake in it.
    """
    shipped = shipped_studies()
    path = shipped.get(name) or Path(name)
    if not is_file(path):
        raise UserError(f"{unknown_name('study', name, shipped)} (or give the path of a YAML file)")
    return StudyFile(path, key_values("--set", overrides or [], "epochs=2"))


def key_values(option: str, texts: list[str], example: str) -> dict[str, Any]:
    """The values of an option that reads ``key=value`` and may stand several times.

    Raises:
        UserError: one that reads otherwise.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{option} {text!r} must read key=value, for instance {option} {example}")
        values[key.strip()] = parse_value(value)
    return values


def _word(value: Any) -> str:
    """A value as part of a name that is also a folder."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    word = "".join(c if c.isalnum() or c in ".,_+-" else "_" for c in text)
    return f"_{word}" if word.startswith(".") else word  # `...yaml` is called `..`, which is another folder


def _short_name(words: list[str]) -> str:
    """The words joined; cut and given a hash where that is too long for a folder."""
    name = "@".join(words)
    whole = name.encode()
    return name if len(whole) <= 100 else f"{_cut(whole, 80)}@{hashlib.sha256(whole).hexdigest()[:12]}"


def _cut(text: bytes, n: int) -> str:
    """The first characters that fit into n bytes."""
    return text[:n].decode(errors="ignore")
