"""LaTeX of texts: escapes, and formulas for names of metrics and weights."""

import re

_ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$",
    ">": "$>$", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$",
    "→": r"$\to$", "λ": r"$\lambda$", "θ": r"$\theta$",
    "φ": r"$\varphi$", "ε": r"$\varepsilon$", "δ": r"$\delta$", "ρ": r"$\rho$", "‖": r"$\Vert$",
}  # fmt: skip
_GREEK = (
    "αalpha βbeta γgamma ζzeta ηeta ιiota κkappa μmu νnu ξxi πpi σsigma τtau υupsilon χchi ψpsi "
    "ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma ΦPhi ΨPsi ΩOmega"
)
_ESCAPED |= {word[0]: rf"$\{word[1:]}$" for word in _GREEK.split()}
_METRIC = re.compile(r"D('?)_(?:(cos)\((AM|GM|HM)\)|(AM|GM|HM)(cos)?|(h)\^(ter|bin))")
"""The paper's names of its own metrics, as in `dh2l.registry.entries.METRICS`."""
WEIGHT = re.compile(r"\blambda_(\w+)")
"""A weight, e.g. ``lambda_c1``."""


def tex(text: str) -> str:
    """Escape a text for LaTeX; names of metrics and weights become formulas."""
    whole = ""
    end = 0
    for found in sorted(
        [*_METRIC.finditer(text), *WEIGHT.finditer(text)], key=lambda match: match.start()
    ):
        formula = _formula(found) if found.re is _METRIC else _weight(found[1])
        whole += _escaped(text[end : found.start()]) + f"${formula}$"
        end = found.end()
    whole += _escaped(text[end:])
    # After a line's end LaTeX would read both as the line's own.
    return "{}" + whole if whole.startswith(("[", "*")) else whole


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(letter, letter) for letter in text)


def _weight(name: str) -> str:
    r"""``e`` as ``\lambda_{e}``, a longer word upright."""
    plain = name.replace("_", r"\_")
    if re.fullmatch(r"[a-z]\d?", name):
        return rf"\lambda_{{{plain}}}"
    return rf"\lambda_{{\mathrm{{{plain}}}}}"


def _formula(metric: re.Match[str]) -> str:
    r"""``D'_cos(AM)`` as ``D'_{\cos(\mathrm{AM})}``."""
    prime, around, inside, mean, cosines, discrete, digits = (
        part or "" for part in metric.groups()
    )
    if around:
        return rf"D{prime}_{{\cos(\mathrm{{{inside}}})}}"
    if discrete:
        return rf"D{prime}_h^{{\mathrm{{{digits}}}}}"
    return rf"D{prime}_{{\mathrm{{{mean}}}{chr(92) + 'cos' if cosines else ''}}}"
