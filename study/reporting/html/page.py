"""Pages of sections and blocks, rendered as one HTML file.

Blocks are text, tables and figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@dataclass(frozen=True)
class Text:
    """Sentences; `verbatim` keeps lines and spaces as they are."""

    text: str
    verbatim: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: what it shows and in what units.
        header: of each column its name.
        rows: as long as the header; None stands for an empty cell.
        heads: how many of the first columns name a row.
        notes: footnotes.
        folded: whether it opens at a click alone; in print it is left out.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    heads: int = 1
    notes: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        svg: by `study.reporting.figures.to_svg`.
        title: what it is, in a few words.
        caption: what it shows and in what units.
    """

    svg: str
    title: str
    caption: str


Block = Text | Grid | Picture


@dataclass(frozen=True)
class Section:
    """A titled part of a page, with a name for links."""

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def render(
    title: str, statement: Sequence[str], sections: Sequence[Section], *, lead: str = ""
) -> str:
    """Render the page: its title, a first paragraph, what holds for all of it, and the sections."""
    return _template().render(title=title, lead=lead, statement=statement, sections=sections)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("study.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["grid"] = lambda block: isinstance(block, Grid)
    environment.tests["picture"] = lambda block: isinstance(block, Picture)
    return environment.get_template("report.html.j2")
