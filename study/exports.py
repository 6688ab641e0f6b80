"""A study's results in the formats that papers, notebooks and other programs take."""

import io
import json
import re
from typing import Any

import jinja2
import pandas as pd

from study import Format, Of
from study.frames import FRAMES
from study.states import Standing
from study.tables import Page, render, to_markdown

FRAME_FORMATS = ("csv", "json", "parquet")
"""Formats of the tidy frames; the others are of the rendered tables."""

_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$",
    "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$", "→": r"$\to$", "λ": r"$\lambda$", "θ": r"$\theta$",
    "φ": r"$\varphi$", "ε": r"$\varepsilon$", "δ": r"$\delta$", "ρ": r"$\rho$", "‖": r"$\Vert$",
}  # fmt: skip
_GREEK = (
    "αalpha βbeta γgamma ζzeta ηeta ιiota κkappa μmu νnu ξxi πpi σsigma τtau υupsilon χchi ψpsi ωomega "
    "ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma ΦPhi ΨPsi ΩOmega"
)
_ESCAPED |= {word[0]: rf"$\{word[1:]}$" for word in _GREEK.split()}
_METRIC = re.compile(r"D('?)_(?:(cos)\((AM|GM|HM)\)|(AM|GM|HM)(cos)?|(h)\^(ter|bin))")
"""The paper's names of its own metrics, as in `dh2l.names.METRICS`."""


def exported(standing: Standing, kind: Format, of: Of = "cells") -> bytes:
    """A study's results as a file's content.

    Args:
        standing: the study's.
        kind: `md`, `latex` and `html` are the rendered tables; `csv`, `json` and `parquet` a tidy frame.
        of: which frame: of the `cells`, the `trials` or the `epochs`.
    """
    if kind in FRAME_FORMATS:
        return _frame_file(standing, kind, of)
    page = render(standing)
    if kind == "latex":
        return to_latex(page, standing.plan.name).encode()
    return (to_html(page) if kind == "html" else to_markdown(page)).encode()


def to_html(page: Page) -> str:
    """The tables as one page that needs nothing else: a report without its figures."""
    from study.report import tables_page

    return tables_page(page)


def to_latex(page: Page, name: str) -> str:
    r"""The tables for ``\input``, with booktabs rules; `longtable` breaks them where a page ends.

    Args:
        page: the tables.
        name: the study's: labels are ``tab:NAME-accuracy`` and the like.
    """
    environment = jinja2.Environment(  # noqa: S701 LaTeX is escaped by its own filter
        loader=jinja2.PackageLoader("study"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>",
        comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip
    environment.filters["tex"] = tex
    label = re.sub(r"[^A-Za-z0-9.+-]", "-", name)
    return environment.get_template("tables.tex.j2").render(page=page, name=label)


def tex(text: str) -> str:
    """A text for LaTeX; names of metrics become formulas."""
    plain, formulas = _METRIC.split(text)[:: _METRIC.groups + 1], [f"${_formula(m)}$" for m in _METRIC.finditer(text)]
    escaped = ["".join(_ESCAPED.get(letter, letter) for letter in part) for part in plain]
    whole = "".join(a + b for a, b in zip(escaped, [*formulas, ""], strict=True))
    return "{}" + whole if whole.startswith(("[", "*")) else whole  # after a line's end both would be read as its own


def _formula(metric: re.Match[str]) -> str:
    r"""``D'_cos(AM)`` as ``D'_{\cos(\mathrm{AM})}``."""
    prime, around, inside, mean, cosines, discrete, digits = (part or "" for part in metric.groups())
    if around:
        return rf"D{prime}_{{\cos(\mathrm{{{inside}}})}}"
    if discrete:
        return rf"D{prime}_h^{{\mathrm{{{digits}}}}}"
    return rf"D{prime}_{{\mathrm{{{mean}}}{chr(92) + 'cos' if cosines else ''}}}"


def _frame_file(standing: Standing, kind: str, of: Of) -> bytes:
    page = render(standing)
    frame = page.frame if of == "cells" else FRAMES[of](standing)
    if kind == "csv":
        return frame.to_csv(index=False).encode()
    about: dict[str, Any] = {
        "study": standing.plan.name,
        "title": page.title,
        "statements": page.statements,
        "failures": page.failures,
    }
    if kind == "json":
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return (json.dumps({**about, of: rows}, indent=1, ensure_ascii=False, default=_native) + "\n").encode()
    buffer = io.BytesIO()
    uniform = _uniform(frame)
    uniform.attrs.update(about)  # `pandas.read_parquet(FILE).attrs` has it again
    uniform.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _native(value: Any) -> Any:
    """NumPy's own numbers as Python's."""
    return value.item()


def _uniform(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each: a field with words and numbers becomes text, as Parquet has no other way."""
    mixed = [name for name in frame if frame[name].map(type).nunique() > 1 and frame[name].dtype == object]
    return frame.astype(dict.fromkeys(mixed, "string"))
