"""The tables of a study as a fragment of HTML, for notebooks."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from study.reporting.page import Page


def tables_fragment(page: Page) -> str:
    """Render the tables without the head and styles of a whole page."""
    environment = Environment(
        loader=PackageLoader("study.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbered = [f"[{number}] {note}" for number, note in enumerate(page.notes, 1)]
    template = environment.get_template("notebook.html.j2")
    return template.render(page=page, numbered=numbered)
