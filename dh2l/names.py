"""The names that a config may use for penalties and models. Imports no torch, so that tables can read it."""

from dataclasses import dataclass
from typing import Literal

Mean = Literal["am", "gm", "hm"]
CosinePlace = Literal["none", "outside", "inside"]
DiscreteAngle = Literal["linear", "arccos"]


@dataclass(frozen=True)
class Metric:
    """One pairwise penalty (section 3.2): its names, and the choices that make it.

    Attributes:
        key: the name a config uses, e.g. ``"cos_hm_arccos"``.
        display_label: the name the paper prints, e.g. ``"D'_cos(HM)"``.
        continuous: whether the cosine of the vectors enters.
        discrete: how the agreement h of the codes becomes an angle: ``linear`` is φ = (1 − h)/2,
            ``arccos`` is φ' = arccos(h)/π (footnote 4, printed with a prime); None where codes do not enter.
        mean: the Pythagorean mean of the two angles, for the eighteen combined metrics; else None.
        cosine: of a combined metric, where the cosine goes: ``none`` 1 − M(φ, θ) (eq. 9), ``outside``
            cos(π·M(φ, θ)) (eq. 10), ``inside`` M(cos πφ, cos πθ) (eq. 11), both brought into [0, 1].
    """

    key: str
    display_label: str
    continuous: bool = True
    discrete: DiscreteAngle | None = None
    mean: Mean | None = None
    cosine: CosinePlace = "none"

    @property
    def clamps_cosine(self) -> bool:
        """Whether the cosine is clamped (footnote 6): wherever it enters but in ``cosine`` itself."""
        return self.continuous and self.key != "cosine"

    @property
    def clamps_agreement(self) -> bool:
        """Whether the agreement h of the codes is clamped: in the primed metrics."""
        return self.discrete == "arccos"


_MEANS: tuple[Mean, ...] = ("am", "gm", "hm")
_PLACES: dict[CosinePlace, tuple[str, str]] = {  # how the place shows in the key and in the label
    "none": ("{}", "{}"),
    "outside": ("cos_{}", "cos({})"),
    "inside": ("{}_cos", "{}cos"),
}
_ANGLES: dict[DiscreteAngle, tuple[str, str]] = {"linear": ("{}", "D_{}"), "arccos": ("{}_arccos", "D'_{}")}

_PLAIN = (
    Metric("n_euclidean2", "N-euclidean2"),
    Metric("angular2", "angular2"),
    Metric("cosine", "cosine"),
    Metric("hamming_binary", "D_h^bin", continuous=False, discrete="linear"),
    Metric("hamming_ternary", "D_h^ter", continuous=False, discrete="linear"),
)
_COMBINED = tuple(
    Metric(
        key=angle_key.format(place_key.format(mean)),
        display_label=angle_label.format(place_label.format(mean.upper())),
        discrete=discrete,
        mean=mean,
        cosine=cosine,
    )
    for mean in _MEANS
    for cosine, (place_key, place_label) in _PLACES.items()
    for discrete, (angle_key, angle_label) in _ANGLES.items()
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in (*_PLAIN, *_COMBINED)}
"""The 23 pairwise penalties by key."""

MODELS: dict[str, int] = {f"resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
"""The CIFAR residual networks by name, with their depth."""
