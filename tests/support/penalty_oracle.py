"""Pairwise penalties of two vectors, from the formulas of the paper, with the standard library
alone.
"""

import math
import re
from collections.abc import Callable

from dh2l.registry.entries import METRICS

RIESZ = tuple(name for name in METRICS if re.fullmatch(r"(half_)?(n_euclidean|angular)[012]", name))


def riesz_oracle(name: str, cos: float) -> float:
    """MHE's energy of a pair; in half-space form the mean over the pairs that ±u and ±v make, but
    (w, −w).
    """
    if name.startswith("half_"):
        signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        return sum(riesz_oracle(name.removeprefix("half_"), a * b * cos) for a, b in signs) / 4
    distance = math.acos(cos) if name.startswith("angular") else math.sqrt(2 - 2 * cos)
    return {"0": -math.log(distance), "1": 1 / distance, "2": distance**-2}[name[-1]]


def value_oracle(name: str, u: list[float], v: list[float], *, printed: bool = False) -> float:
    d = len(u)
    lengths = math.sqrt(math.fsum(x * x for x in u)) * math.sqrt(math.fsum(x * x for x in v))
    cos = math.fsum(x * y for x, y in zip(u, v, strict=True)) / lengths
    clamped = min(max(cos, -0.99), 0.99)
    theta = math.acos(clamped) / math.pi
    if name == "hamming_ternary":
        h = sum(
            (x > 0) - (x < 0) if y > 0 else (x < 0) - (x > 0) if y < 0 else 0
            for x, y in zip(u, v, strict=True)
        )
    else:
        h = sum(1 if (x >= 0) == (y >= 0) else -1 for x, y in zip(u, v, strict=True))
    phi = (1 - h / d) / 2
    if name in RIESZ:
        return riesz_oracle(name, clamped)
    if name == "cosine":
        return cos
    if name.startswith("hamming"):
        return 1 - phi
    if name.endswith("_arccos"):
        name = name.removesuffix("_arccos")
        phi = math.acos(min(max(h / d, -0.99), 0.99)) / math.pi
    elif name in ("gm", "cos_gm") and not printed:
        phi = max(phi, 1 / (4 * d))
    means: dict[str, Callable[[float, float], float]] = {
        "am": lambda a, b: (a + b) / 2,
        "gm": lambda a, b: math.sqrt(a * b),
        "hm": lambda a, b: 0 if a + b == 0 else 2 * a * b / (a + b),
    }
    if printed and not name.endswith("_cos"):  # D2: eq. 9 and 10
        means |= {"gm": lambda a, b: a * b, "hm": lambda a, b: 4 * a * b / (a + b)}
    if printed and name == "gm_cos":  # D2: the product again, without its root
        means["gm"] = lambda a, b: a * b
    if name.startswith("cos_"):
        return (math.cos(math.pi * means[name[-2:]](phi, theta)) + 1) / 2
    if name.endswith("_cos"):
        return means[name[:2]](
            (math.cos(math.pi * phi) + 1) / 2, (math.cos(math.pi * theta) + 1) / 2
        )
    return 1 - means[name](phi, theta)
