"""Last layers of a network, plain or hierarchical: from parameters to class vectors (eq. 1–3).

A node of the class tree carries a sphere, and its children lie on it: the **sphere of level l**
belongs to a node of level l − 1 and holds nodes of level l. Every class i has a surface vector u_i,
the sphere that holds it a centre c_k relative to the sphere around it (eq. 2), and its row of the
classifier is the projection vector w_i = u_i − c_k (eq. 3).
"""

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dh2l.errors import UserError, unknown_name_message
from dh2l.hierarchy.tree_index import TreeIndex
from dh2l.tree import ClassTree

CentreMode = Literal["learned", "parent", "mean"]
RadiusMode = Literal["free", "unit"]


class Spheres(NamedTuple):
    """Vectors that a classifier computes from its parameters; d is the number of features.

    Attributes:
        weight: class projection vectors, the rows of W, ``(n_classes, d)``.
        projections: level l → projection vectors ``(n_l, d)`` of its nodes, for levels whose nodes
            own surface vectors.
        centres: level l of 1..L−1 → relative centres ``(n_l, d)`` of the spheres of its nodes.
        scale: factor of the logits, a scalar; None means 1.
    """

    weight: Tensor
    projections: dict[int, Tensor]
    centres: dict[int, Tensor]
    scale: Tensor | None


class Classifier(nn.Module, ABC):
    """Bias-free last layer: logits from features and from the class vectors of `spheres`.

    Attributes:
        n_features: d.
        no_decay: names of parameters that weight decay must not change.
    """

    n_features: int
    no_decay: tuple[str, ...] = ()

    @abstractmethod
    def spheres(self) -> Spheres:
        """Compute the class vectors and their parts from the present parameters."""

    def logits(self, features: Tensor, spheres: Spheres) -> Tensor:
        """Compute the scaled x·Wᵀ of all classes, ``(batch, d)`` → ``(batch, n_classes)``."""
        logits = functional.linear(features, spheres.weight)
        return logits if spheres.scale is None else logits * spheres.scale

    def forward(self, features: Tensor) -> Tensor:
        """Compute the `logits` with the present `spheres`."""
        return self.logits(features, self.spheres())


class PlainClassifier(Classifier):
    """Linear classifier whose rows start normal with variance v = 1/(3d) in each component.

    The variance is that of PyTorch's own linear layer and of the hierarchical classifier (D7), so
    that H0 differs from this one by the parameterisation only.

    >>> PlainClassifier(8, 3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])

    Args:
        n_features: d.
        n_classes: number of rows.
        generator: CPU generator of the initial values; default: torch's own.
    """

    def __init__(
        self, n_features: int, n_classes: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.weight = nn.Parameter(_normal(n_classes, n_features, 1.0, generator))

    def spheres(self) -> Spheres:
        """Return the rows of W alone, because there is no tree."""
        return Spheres(self.weight, {}, {}, None)


class HierarchicalClassifier(Classifier):
    """Bias-free classifier whose rows are projection vectors on the spheres of a class tree.

    Parameters are ``surface.<level>`` and ``centre.<level>``, one row per node of the level, and
    with ``radius="unit"`` the scalar ``logit_scale``. Under L = 1 the mode of the centres has no
    effect, and without ``unit`` radius the classifier is the plain one.

    Trees deeper than the paper's L = 2: all centres are relative, so that only the centres of level
    L − 1 enter the class projection vectors. Only R and the constraints shape the ``learned``
    centres above it. Under ``mean`` the centre of a node above level L − 1 is the mean of its
    children's centres, also of an only child: it is not subtracted from a vector and may differ
    from 0.

    Under ``unit`` the spheres of ``free`` are resized without a change of direction: every
    projection vector w̃ of ``free`` becomes r·w̃/‖w̃‖. ``parent`` centres are then ε times the
    resized vectors; the others stay. D7's variances and the initial logit scale so fit the plain
    classifier in every mode.

    >>> tree = ClassTree([("pets", "cat"), ("pets", "dog"), ("cars", "van"), ("cars", "bus")])
    >>> classifier = HierarchicalClassifier(tree, 16)
    >>> classifier(torch.zeros(2, 16)).shape
    torch.Size([2, 4])
    >>> {name: tuple(value.shape) for name, value in classifier.named_parameters()}
    {'surface.2': (4, 16), 'centre.1': (2, 16)}

    Args:
        tree: the class tree, of any depth L ≥ 1.
        n_features: d.
        centres: the centre of a sphere (D5): a free parameter (``learned``), ε times its node's own
            projection vector (``parent``), or the mean of its group's surface vectors (``mean``).
        centre_scale: ε of ``parent``.
        radius: ``free`` lengths, or class projection vectors of length 1 and outer spheres larger
            by 1/δ per level, with one learned scale of the logits (``unit``, D6).
        radius_ratio: δ of ``unit``.
        outer_radius_factor: ratio of the radii of a sphere and the next inner one, where they are
            constants (``learned`` and ``mean``, D9).
        generator: CPU generator of the initial values; default: torch's own.

    Raises:
        UserError: an unknown mode, or a ratio or factor that is not positive.
    """

    constant_radii: Tensor
    logit_scale: nn.Parameter | None

    def __init__(
        self,
        tree: ClassTree,
        n_features: int,
        *,
        centres: CentreMode = "learned",
        centre_scale: float = 0.5,
        radius: RadiusMode = "free",
        radius_ratio: float = 0.4,
        outer_radius_factor: float = 1 + math.sqrt(2),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_mode("centres", centres, get_args(CentreMode))
        _check_mode("radius", radius, get_args(RadiusMode))
        _check_positive("radius_ratio", radius_ratio)
        _check_positive("outer_radius_factor", outer_radius_factor)
        self.tree, self.depth = tree, tree.depth
        self.n_features = n_features
        self.centre_mode, self.centre_scale = centres, centre_scale
        self.radius_mode, self.radius_ratio = radius, radius_ratio
        self.index = TreeIndex(tree)
        self.no_decay = ("logit_scale",) if radius == "unit" else ()
        self.surface = nn.ParameterDict()
        self.centre = nn.ParameterDict()
        self._draw(generator)
        with torch.no_grad():
            length = torch.linalg.vector_norm(self._free()[0][tree.depth], dim=-1).mean()
        self.register_parameter("logit_scale", nn.Parameter(length) if radius == "unit" else None)
        self.register_buffer("constant_radii", self._constant_radii(length, outer_radius_factor))

    def _constant_radii(self, length: Tensor, outer_radius_factor: float) -> Tensor:
        """Compute the radii that are constants, outermost level first; all others are measured."""
        heights = torch.arange(self.depth - 1, -1, -1)
        if self.radius_mode == "unit":
            return self.radius_ratio ** -heights.float()
        if self.centre_mode == "parent":
            return torch.empty(0)
        # The radius of the classes' own spheres is measured.
        return (length * outer_radius_factor ** heights.float())[:-1]

    def _draw(self, generator: torch.Generator | None) -> None:
        """Draw initial parameters (D7), so that class projection vectors have variance v."""
        tree, d, n, leaves = self.tree, self.n_features, self.tree.n_classes, str(self.depth)
        if self.centre_mode == "parent":
            share = 1 / sum(self.centre_scale ** (2 * j) for j in range(tree.depth))
            for level in range(1, tree.depth + 1):
                self.surface[str(level)] = nn.Parameter(
                    _normal(tree.size(level), d, share, generator)
                )
        elif self.centre_mode == "mean" and tree.depth > 1:
            groups = self.index.groups(tree.depth)
            size = groups.filled.sum(dim=1)[groups.parent, None]
            correction = (size / (size - 1).clamp(min=1)).where(size > 1, 1.0)
            self.surface[leaves] = nn.Parameter(_normal(n, d, 1.0, generator) * correction.sqrt())
        else:
            share = 0.5 if tree.depth > 1 else 1.0
            self.surface[leaves] = nn.Parameter(_normal(n, d, share, generator))
            if self.centre_mode == "learned":
                for level in range(1, tree.depth):
                    self.centre[str(level)] = nn.Parameter(
                        _normal(tree.size(level), d, share, generator)
                    )

    def spheres(self) -> Spheres:
        """Compute projection vectors and centres from the present parameters (eq. 1–3)."""
        projections, centres = self._free()
        if self.radius_mode == "unit":
            projections = {
                level: functional.normalize(w, dim=-1, eps=1e-8)
                * self.radius_ratio ** (level - self.depth)
                for level, w in projections.items()
            }
            if self.centre_mode == "parent":
                centres = {level: self.centre_scale * projections[level] for level in centres}
        return Spheres(projections[self.depth], projections, centres, self.logit_scale)

    def _free(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Compute projection vectors and centres before any of them is resized."""
        if self.centre_mode == "parent":
            projections = {1: self.surface["1"]}
            centres: dict[int, Tensor] = {}
            for level in range(2, self.depth + 1):
                centres[level - 1] = self.centre_scale * projections[level - 1]
                parent = self.index.groups(level).parent
                projections[level] = self.surface[str(level)] - centres[level - 1][parent]
            return projections, centres
        surface = self.surface[str(self.depth)]
        if self.centre_mode == "learned":
            centres = {level: self.centre[str(level)] for level in range(1, self.depth)}
        else:
            centres = {}
            below = surface
            for level in range(self.depth - 1, 0, -1):
                below = centres[level] = self._group_mean(below, level + 1)
        if self.depth > 1:
            surface = surface - centres[self.depth - 1][self.index.groups(self.depth).parent]
        return {self.depth: surface}, centres

    def _group_mean(self, vectors: Tensor, level: int) -> Tensor:
        """Average the vectors of each group of a level, ``(n_{l−1}, d)``.

        The mean of a class without siblings is 0, or its projection vector would vanish (D5).
        """
        groups = self.index.groups(level)
        size = groups.filled.sum(dim=1, keepdim=True)
        mean = (vectors[groups.member] * groups.filled[:, :, None]).sum(dim=1) / size
        return mean * (size > 1) if level == self.depth else mean

    def constant_radius(self, level: int) -> Tensor | None:
        """Return the constant radius of the spheres of a level (D6, D9); None if it is measured."""
        return self.constant_radii[level - 1] if level <= self.constant_radii.shape[0] else None

    def seen_classes(self, labels: Tensor) -> Tensor:
        """Return which classes occur among a batch's labels, bool ``(n_classes,)``."""
        return self.index.seen_classes(labels)


def _check_mode(name: str, mode: str, known: tuple[str, ...]) -> None:
    if mode not in known:
        raise UserError(unknown_name_message(f"mode of {name}", mode, known))


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{name} is {value}; expected a positive number")


def _normal(n: int, d: int, share: float, generator: torch.Generator | None) -> Tensor:
    """Draw normal vectors ``(n, d)``, each component of variance ``share`` times v = 1/(3d)."""
    return torch.randn(n, d, generator=generator, device="cpu") * math.sqrt(share / (3 * d))
