"""Generated pages of the site: the reference, and the published results."""

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

import dh2l
import study
from dh2l.config.conditions import needs_of
from dh2l.config.train_config import TrainConfig
from study.cli import app
from study.records.record import Record
from study.spec.json_schema import study_schema
from study.spec.study_file import shipped_studies

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the files of the site."""
    pages = {
        "reference/command-line.md": command_line(),
        "reference/study-file.md": study_file(),
        "reference/config.md": config_fields(),
        "reference/record.md": record(),
        "reference/api.md": api(),
        "reference/studies.md": studies(),
        "results/index.md": (PUBLISHED / "README.md").read_text(encoding="utf-8"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for source in sorted([*PUBLISHED.glob("*.svg"), *PUBLISHED.glob("*.csv")]):
        files.append(File.generated(config, f"results/{source.name}", abs_src_path=str(source)))
    return files


def command_line() -> str:
    """Return the page of all commands, with arguments, options and examples."""
    lines = [
        "# Command line",
        "",
        "This page is generated from the program. `dh2l-study COMMAND --help` prints the same.",
        "Exit codes: 0 the table is complete; 1 a cell lacks a number (with `--shard`: a trial of",
        "the share does); 2 a mistake in the command line or in a file; 3 a share is trained, but",
        "trials of other shares keep `confirm` waiting; 130 interrupted.",
        "",
    ]
    for name, command in _commands("dh2l-study", get_command(app)):
        lines += _command_section(name, command)
    return "\n".join(lines)


def _commands(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{prefix} {name}", command)
        else:
            yield f"{prefix} {name}", command


def _command_section(name: str, command: Any) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## `{name.removeprefix('dh2l-study ')}`", "", _text(command.help), ""]
    lines += ["```text", f"{name} {usage}", "```", ""]
    shown = (parameter.get_help_record(context) for parameter in command.params)
    rows = [[_code(entry[0]), _text(entry[1])] for entry in shown if entry]
    lines += _table(["argument or option", "meaning"], rows)
    examples = [line for line in (command.epilog or "").split("\n\n") if name in line]
    if examples:
        lines += ["```sh", *examples, "```", ""]
    return lines


def study_file() -> str:
    """Return the page of all keys of a study file, from its JSON Schema."""
    schema = study_schema()
    lines = [
        "# Study file",
        "",
        "This page is generated from the JSON Schema that `dh2l-study schema` prints. The keys of",
        "`config` and `set` are the [config fields](config.md). [Write a study]"
        "(../how-to/write-a-study.md) explains the keys by example.",
        "",
    ]
    lines += _schema_table(schema)
    titles = {"Row": "One entry of `rows`", "Column": "One entry of `columns`"}
    titles |= {"Axis": "One axis of `search`", "Confirmation": "`confirm`"}
    titles |= {"SearchSettings": "`searcher`", "SchedulerSettings": "`scheduler`"}
    for name, part in schema["$defs"].items():
        lines += [f"## {titles.get(name, name)}", "", _text(part.get("description")), ""]
        lines += _schema_table(part)
    return "\n".join(lines)


def _schema_table(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", schema.get("then", {}).get("required", []))
    rows = []
    for key, value in schema["properties"].items():
        default = "required" if key in required else _default(value)
        rows.append([_code(key), _kind(value), default, _text(value.get("description"))])
    return _table(["key", "values", "default", "meaning"], rows)


def config_fields() -> str:
    """Return the page of all config fields, with types, defaults and conditions."""
    schema = TrainConfig.model_json_schema()
    rows = []
    for name, value in schema["properties"].items():
        meaning = _text(value.get("description"))
        if needs := needs_of(name):
            meaning += f" **Needs** {needs}."
        rows.append([_code(name), _kind(value), _default(value), meaning])
    lines = [
        "# Config fields",
        "",
        "This page is generated from `dh2l.TrainConfig`, the configuration of one trial. A study",
        "sets these fields under `config` and `set`, and searches them under `search`. “Needs” "
        "says",
        "in which arms or with which other values a field counts. A study that sets a field where",
        "it cannot count is refused. D1 to D16 are [decisions](../explanation/decisions.md).",
        "",
    ]
    return "\n".join(lines + _table(["field", "values", "default", "meaning"], rows))


def record() -> str:
    """Return the page of the record format: prose from a template, fields from the models."""
    template = Path(__file__).with_name("reference") / "record.template"
    schema = Record.model_json_schema()
    lines = [template.read_text(encoding="utf-8"), "## Fields of a record", ""]
    for name, part in [("", schema), *schema["$defs"].items()]:
        if name:
            lines += [f"### {name}", "", _text(part.get("description")), ""]
        rows = [[_code(key), _kind(value)] for key, value in part["properties"].items()]
        lines += _table(["field", "value"], rows)
    return "\n".join(lines)


def api() -> str:
    """Return the page of the public Python names, which mkdocstrings fills."""
    lines = [
        "# Python API",
        "",
        "These names are stable from one version to the next. Modules below them may move. Names",
        "are loaded at their first use, so that `import dh2l` does not load torch.",
        "",
        "## `study`: run and read studies",
        "",
    ]
    lines += _public(study)
    lines += ["## `dh2l`: the method as a library", ""]
    lines += _public(dh2l)
    return "\n".join(lines)


def _public(module: Any) -> Iterator[str]:
    for name in module.__all__:
        value = getattr(module, name)
        home = getattr(value, "__module__", "")
        if home.endswith(f".{name}"):  # the short path would name the module
            yield f"::: {home}.{name}\n    options:\n      heading: {module.__name__}.{name}\n"
        elif not name.startswith("_"):
            yield f"::: {module.__name__}.{name}\n"


def studies() -> str:
    """Return the page of the shipped studies: titles, purposes, expected numbers, costs."""
    lines = ["# Shipped studies", "", "`dh2l-study list` prints this list in short.", ""]
    for name, path in shipped_studies().items():
        text = path.read_text(encoding="utf-8")
        keys = yaml.safe_load(text)
        lines += [f"## `{name}`", "", f"**{_text(keys['title'])}**", ""]
        lines += [_comment(text), ""]
        for key in ("reproduces", "expected", "cost"):
            if key in keys:
                lines += [f"- {key}: {_text(keys[key])}"]
        lines += ["", '??? note "The file"', "", "    ```yaml"]
        lines += [f"    {line}".rstrip() for line in text.splitlines()]
        lines += ["    ```", ""]
    return "\n".join(lines)


def _comment(text: str) -> str:
    """Return the comment at the head of a file as paragraphs."""
    head = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    return "\n".join(head)


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Return a table that becomes a list on narrow screens."""
    lines = [header, ["---"] * len(header), *rows]
    body = [f"| {' | '.join(line)} |" for line in lines]
    return [f'<div class="reference columns-{len(header)}" markdown>', "", *body, "", "</div>", ""]


def _text(value: Any) -> str:
    """Return a text as one line of a table, with its code as code and nothing else as markup."""
    text = " ".join(str(value or "").split()).replace("``", "`")
    parts = text.split("`")
    plain = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    parts[::2] = [part.replace("[", "&#91;").replace("|", "&#124;") for part in plain]
    parts[1::2] = [_code(part) for part in parts[1::2]]
    return "".join(parts)


def _code(text: str) -> str:
    escaped = escape(text)
    for character in "|*_[":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return f"<code>{escaped}</code>"


def _default(value: dict[str, Any]) -> str:
    """Return a default as YAML writes it; empty if there is none."""
    if "default" not in value or value["default"] in ("", {}, []):
        return ""
    dumped = yaml.safe_dump(value["default"], default_flow_style=True)
    return _code(dumped.splitlines()[0])


def _kind(value: dict[str, Any]) -> str:
    """Describe the values that a part of a JSON Schema admits."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{ANCHORS.get(name, name.lower())})"
    if "enum" in value:
        return ", ".join(_code(str(one)) for one in value["enum"])
    if "const" in value:
        return _code(str(value["const"]))
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_kind(one) for one in value["anyOf"]))
    if value.get("type") == "array":
        return f"list of {_kind(value['items'])}" if value.get("items") else "list"
    return _plain_kind(value)


ANCHORS = {
    "Row": "one-entry-of-rows",
    "Column": "one-entry-of-columns",
    "Axis": "one-axis-of-search",
    "Confirmation": "confirm",
    "SearchSettings": "searcher",
    "SchedulerSettings": "scheduler",
}
"""Anchors of the parts of a study file whose heading is not their name."""
NAMES = {"null": "nothing", "boolean": "true or false", "string": "text", "object": "mapping"}
BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}


def _plain_kind(value: dict[str, Any]) -> str:
    kind = value.get("type", "any value")
    bounds = [
        f"{sign} {value[key]:g}"
        for key, sign in BOUNDS.items()
        if key in value and abs(value[key]) < 1e15
    ]
    return f"{NAMES.get(kind, kind)} {', '.join(bounds)}".strip().replace("<", "&lt;")
