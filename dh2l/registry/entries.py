"""Entries of the registry, and the built-in penalties and models.

Imports no torch, so that tables can read it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Mean = Literal["am", "gm", "hm"]
Means = Literal["exact", "printed"]
CosinePosition = Literal["none", "outside", "inside"]
DiscreteAngle = Literal["linear", "arccos"]
Distance = Literal["euclidean", "angular"]


@dataclass(frozen=True)
class RieszEnergy:
    """A pairwise energy of MHE (Liu et al. 2018).

    Attributes:
        distance: distance D of two unit vectors: the Euclidean one, or the angle in radians.
        power: s; the energy is D**-s, and -log D for s = 0.
        half_space: use the half-space form. It joins every row by its negative and leaves out the
            pairs (w, -w). Two rows then make four pairs with only two distinct cosines, cos and
            -cos; the energy is the mean of theirs.
    """

    distance: Distance
    power: int
    half_space: bool


@dataclass(frozen=True)
class Penalty:
    """One pairwise penalty (section 3.2): its names, and the choices that make it.

    Attributes:
        key: the name a config uses, e.g. ``"cos_hm_arccos"``.
        display_label: the name the paper prints, e.g. ``"D'_cos(HM)"``.
        continuous: whether the cosine of the vectors enters.
        discrete: how the agreement h of the codes becomes an angle: ``linear`` is φ = (1 − h)/2,
            ``arccos`` is φ' = arccos(h)/π (footnote 4, printed with a prime); None where codes do
            not enter.
        mean: the Pythagorean mean of the two angles, for the eighteen combined metrics; else None.
        cosine: of a combined metric, where the cosine goes: ``none`` 1 − M(φ, θ) (eq. 9),
            ``outside`` cos(π·M(φ, θ)) (eq. 10), ``inside`` M(cos πφ, cos πθ) (eq. 11), both
            brought into [0, 1].
        energy: the Riesz energy that the penalty is, if it is one; else None.
        function: that of a registered penalty (`dh2l.registry.register.penalty`), which takes the
            measures in `uses`; else None.
        uses: which of ``cos`` and ``h`` the function takes.
        clamp: whether a registered penalty is given the cosine clamped.
        source: hash of the user's source that it comes from; empty for ours.
    """

    key: str
    display_label: str
    continuous: bool = True
    discrete: DiscreteAngle | None = None
    mean: Mean | None = None
    cosine: CosinePosition = "none"
    energy: RieszEnergy | None = None
    function: Callable[..., Any] | None = None
    uses: tuple[str, ...] = ()
    clamp: bool = True
    source: str = ""

    @property
    def clamps_cosine(self) -> bool:
        """True if the cosine is clamped (footnote 6): wherever it enters, except in ``cosine``."""
        return self.continuous and self.clamp and self.key != "cosine"

    @property
    def clamps_agreement(self) -> bool:
        """True if the agreement h of the codes is clamped: in the primed metrics."""
        return self.discrete == "arccos"

    @property
    def depends_on_means(self) -> bool:
        """True if the printed means (D2) differ from the exact ones in it."""
        return self.mean in ("gm", "hm") and (self.mean, self.cosine) != ("hm", "inside")


_MEANS: tuple[Mean, ...] = ("am", "gm", "hm")
_PLACES: dict[
    CosinePosition, tuple[str, str]
] = {  # how the place shows in the key and in the label
    "none": ("{}", "{}"),
    "outside": ("cos_{}", "cos({})"),
    "inside": ("{}_cos", "{}cos"),
}
_ANGLES: dict[DiscreteAngle, tuple[str, str]] = {
    "linear": ("{}", "D_{}"),
    "arccos": ("{}_arccos", "D'_{}"),
}

_PLAIN = (
    Penalty("n_euclidean2", "N-euclidean2"),
    Penalty("angular2", "angular2"),
    Penalty("cosine", "cosine"),
    Penalty("hamming_binary", "D_h^bin", continuous=False, discrete="linear"),
    Penalty("hamming_ternary", "D_h^ter", continuous=False, discrete="linear"),
)
_COMBINED = tuple(
    Penalty(
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

_DISTANCES: dict[Distance, tuple[str, str]] = {
    "euclidean": ("n_euclidean{}", "N-euclidean{}"),
    "angular": ("angular{}", "angular{}"),
}


def _energy(distance: Distance, power: int, *, half_space: bool) -> Penalty:
    """Declare one of MHE's energies."""
    key, label = (name.format(power) for name in _DISTANCES[distance])
    if half_space:
        key, label = f"half_{key}", f"half {label}"
    return Penalty(key, label, energy=RieszEnergy(distance, power, half_space))


# The paper's `n_euclidean2` and `angular2` are the energies with s = 2 that are not half-space.
_ENERGIES = tuple(
    _energy(distance, power, half_space=half_space)
    for distance in _DISTANCES
    for power, half_space in ((0, False), (0, True), (1, False), (1, True), (2, True))
)

PAPER_METRICS: tuple[str, ...] = tuple(metric.key for metric in (*_PLAIN, *_COMBINED))
"""Keys of the paper's 23 pairwise penalties."""
METRICS: dict[str, Penalty] = {metric.key: metric for metric in (*_PLAIN, *_COMBINED, *_ENERGIES)}
"""Pairwise penalties by key: the paper's, MHE's, then those that users register
(`dh2l.registry.register.penalty`)."""


@dataclass(frozen=True)
class Model:
    """A network without its classifier.

    Attributes:
        name: the name a config uses.
        build: a function from a `dh2l.models.resnet.BackboneSpec` to the backbone; or its
            ``module:function``, imported when it is needed.
        depth: number of layers, 0 if unknown.
        weights: ready-made weights by name, with a hash of them.
        stride: the factor by which its last layers are smaller than an image; 0 if unknown.
        source: hash of the user's source that it comes from; empty for ours.
    """

    name: str
    build: Callable[..., Any] | str
    depth: int = 0
    weights: dict[str, str] = field(default_factory=dict)
    stride: int = 0
    source: str = ""


MODELS: dict[str, Model] = {
    **{
        f"resnet{n}": Model(f"resnet{n}", "dh2l.models.resnet:cifar_resnet", n, stride=4)
        for n in (20, 32, 44, 56, 110)
    },
    # Torchvision names the files of its ImageNet weights by the first digits of their SHA-256.
    "resnet18": Model(
        "resnet18", "dh2l.models.resnet:imagenet_resnet", 18, {"imagenet": "f37072fd"}, 32
    ),
    "resnet50": Model(
        "resnet50", "dh2l.models.resnet:imagenet_resnet", 50, {"imagenet": "0676ba61"}, 32
    ),
}
"""The CIFAR residual networks (section 4.2), and the two of torchvision."""
