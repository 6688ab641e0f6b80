"""Penalties and models by name, ours declared here. Imports no torch, so that tables can read it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Mean = Literal["am", "gm", "hm"]
Means = Literal["exact", "printed"]
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
        function: of a registered penalty (`dh2l.registry.penalty`): takes the measures in `uses`; else None.
        uses: as said.
        clamp: whether a registered penalty is given the cosine clamped.
        source: hash of the user's source that it comes from; empty for ours.
    """

    key: str
    display_label: str
    continuous: bool = True
    discrete: DiscreteAngle | None = None
    mean: Mean | None = None
    cosine: CosinePlace = "none"
    function: Callable[..., Any] | None = None
    uses: tuple[str, ...] = ()
    clamp: bool = True
    source: str = ""

    @property
    def clamps_cosine(self) -> bool:
        """Whether the cosine is clamped (footnote 6): wherever it enters but in ``cosine`` itself."""
        return self.continuous and self.clamp and self.key != "cosine"

    @property
    def clamps_agreement(self) -> bool:
        """Whether the agreement h of the codes is clamped: in the primed metrics."""
        return self.discrete == "arccos"

    @property
    def depends_on_means(self) -> bool:
        """Whether the printed means (D2) differ from the exact ones in it."""
        return self.mean in ("gm", "hm") and (self.mean, self.cosine) != ("hm", "inside")


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

PAPER_METRICS: tuple[str, ...] = tuple(metric.key for metric in (*_PLAIN, *_COMBINED))
"""Keys of the paper's 23 pairwise penalties."""
METRICS: dict[str, Metric] = {metric.key: metric for metric in (*_PLAIN, *_COMBINED)}
"""Pairwise penalties by key: the paper's, then what is registered (`dh2l.registry.penalty`)."""


@dataclass(frozen=True)
class Model:
    """A network without its classifier.

    Attributes:
        name: the name a config uses.
        build: of a `dh2l.models.Request`, gives the backbone; or ``module:function`` of it, not imported before.
        depth: number of layers, 0 where it has no such number.
        weights: ready-made weights by name, with a hash of them.
        source: hash of the user's source that it comes from; empty for ours.
    """

    name: str
    build: Callable[..., Any] | str
    depth: int = 0
    weights: dict[str, str] = field(default_factory=dict)
    source: str = ""


MODELS: dict[str, Model] = {
    **{f"resnet{n}": Model(f"resnet{n}", "dh2l.models:cifar_resnet", n) for n in (20, 32, 44, 56, 110)},
    # Torchvision names the files of its ImageNet weights by the first digits of their SHA-256.
    "resnet18": Model("resnet18", "dh2l.models:imagenet_resnet", 18, {"imagenet": "f37072fd"}),
    "resnet50": Model("resnet50", "dh2l.models:imagenet_resnet", 50, {"imagenet": "0676ba61"}),
}
"""The CIFAR residual networks (section 4.2), and the two of torchvision."""
