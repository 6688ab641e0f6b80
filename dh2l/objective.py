"""The loss of a trial: cross-entropy, E, R and the constraints, each with its weight."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dh2l.classifier import HierarchicalClassifier, Spheres
from dh2l.config import TrainConfig
from dh2l.constraints import violations
from dh2l.energy import Energy
from dh2l.hierarchy import HierarchicalTerms, hierarchical_terms
from dh2l.network import Network
from dh2l.tree import ClassTree


@dataclass(frozen=True)
class Loss:
    """One batch's loss.

    Attributes:
        total: what is minimised, a scalar with gradient.
        terms: the weighted terms that it is the sum of, detached ``(T,)``, named by `Objective.terms`.
        logits: detached ``(B, n_classes)``.
    """

    total: Tensor
    terms: Tensor
    logits: Tensor


class Objective:
    """Computes the loss that a config asks for; a term whose weight is 0 is never computed.

    Attributes:
        terms: names of the loss's terms, in the order of `Loss.terms`.
        features: normalised images to features; the network's own, or a faster form of it.
    """

    def __init__(self, config: TrainConfig, network: Network, tree: ClassTree) -> None:
        self.config, self.network = config, network
        self.features: Callable[[Tensor], Tensor] = network.features
        self.level_weights = config.level_weights(tree.depth) if config.regularised_hierarchy else ()
        weights = {"c1": config.lambda_c1, "c2": config.lambda_c2, "c3": config.lambda_c3}
        self.constraint_weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.terms: tuple[str, ...] = ("cross-entropy",)
        self.terms += ("energy",) if config.lambda_e > 0 else ()
        self.terms += ("hierarchy",) if self.level_weights else ()
        self.terms += tuple(f"constraint {name}" for name in self.constraint_weights)
        self._energy: dict[str, Energy] = {}
        layers = self._layers(network.classifier.spheres())
        for name, metric in (("conv", config.conv_penalty), ("classifier", config.metric)):
            on = config.energy_on_convolutions if name == "conv" else config.energy_on_classifier
            if on and metric is not None:
                self._energy[name] = Energy(
                    layers[name], metric, reduction=config.e_reduction, ternary_threshold=config.ternary_threshold
                )

    def __call__(self, images: Tensor, labels: Tensor) -> Loss:
        """Loss of normalised images ``(B, C, H, W)`` with class indices ``(B,)``."""
        config, classifier = self.config, self.network.classifier
        spheres = classifier.spheres()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            features = self.features(images)
            logits = classifier.logits(features, spheres).float()
        terms = [functional.cross_entropy(logits, labels)]
        if config.lambda_e > 0:
            terms.append(config.lambda_e * torch.stack(list(self._energies(spheres).values())).sum())
        if isinstance(classifier, HierarchicalClassifier) and len(self.terms) > len(terms):
            seen = classifier.seen_classes(labels) if config.batch_structure == "seen" else None
            if self.level_weights:
                terms.append(self._hierarchy(classifier, spheres, seen).weighted(self.level_weights))
            if self.constraint_weights:
                violated = violations(classifier, spheres, seen=seen)
                terms += [weight * violated[name] for name, weight in self.constraint_weights.items()]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return Loss(total, torch.stack([term.detach() for term in terms]), logits.detach())

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Each regulariser, unweighted and over the whole tree (D8 `all`), on the weights as they are.

        ``energy_conv`` and ``energy_classifier`` (E over those layers), ``r_p_<l>`` and ``r_c_<l>``
        (eqs. 6, 7 per sphere level), ``violation_c1`` to ``violation_c3``, and ``clamped_fraction``,
        the part of the pairs under E and R that footnote 6 clamps: the mean over E's convolutions, E's
        classifier and R. Only what the config makes meaningful.
        """
        classifier = self.network.classifier
        spheres = classifier.spheres()
        values = {f"energy_{layers}": value for layers, value in self._energies(spheres).items()}
        layers = self._layers(spheres)
        clamped = [energy.clamped_fraction(layers[name]) for name, energy in self._energy.items()]
        if isinstance(classifier, HierarchicalClassifier):
            if self.level_weights:
                terms = self._hierarchy(classifier, spheres, None)
                values |= {f"r_p_{level}": value for level, value in terms.projection.items()}
                values |= {f"r_c_{level}": value for level, value in terms.centre.items()}
                clamped.append(terms.clamped_fraction)
            values |= {f"violation_{name}": value for name, value in violations(classifier, spheres).items()}
        if clamped:
            values["clamped_fraction"] = torch.stack(clamped).mean()
        return values

    def _layers(self, spheres: Spheres) -> dict[str, list[Tensor]]:
        """The weights that E may act on."""
        return {"conv": [*self.network.conv_weights()], "classifier": [spheres.weight]}

    def _energies(self, spheres: Spheres) -> dict[str, Tensor]:
        layers = self._layers(spheres)
        return {name: energy(layers[name]) for name, energy in self._energy.items()}

    def _hierarchy(
        self, classifier: HierarchicalClassifier, spheres: Spheres, seen: Tensor | None
    ) -> HierarchicalTerms:
        assert self.config.metric is not None  # noqa: S101 the config's own validation guarantees it
        return hierarchical_terms(
            classifier,
            spheres,
            self.config.metric,
            seen=seen,
            ternary_threshold=self.config.ternary_threshold,
        )
