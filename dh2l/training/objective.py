"""Loss of a trial: cross-entropy and its weighted regularisers.

The regularisers are E, R, the constraints and registered ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dh2l.config.train_config import TrainConfig
from dh2l.hierarchy.classifier import HierarchicalClassifier, Spheres
from dh2l.hierarchy.constraints import (
    Multipliers,
    centre_orthogonality,
    level_violations,
    violations,
)
from dh2l.hierarchy.regulariser import HierarchicalTerms, hierarchical_terms
from dh2l.hierarchy.tree_index import seen_classes
from dh2l.models.network import Network
from dh2l.pairwise.energy import Energy
from dh2l.registry.register import REGULARISERS
from dh2l.regularisers.registered import regularise
from dh2l.regularisers.weight_vectors import WeightVectors
from dh2l.tree import ClassTree

ByLevel = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True)
class Loss:
    """Loss of one batch.

    Attributes:
        total: the sum to minimise, a scalar with gradient.
        terms: the weighted terms that it is the sum of, detached ``(T,)``, named by
            `Objective.terms`.
        logits: detached ``(B, n_classes)``.
        violated: the violations that the multipliers of D10 follow, by constraint and level; empty
            without them.
    """

    total: Tensor
    terms: Tensor
    logits: Tensor
    violated: ByLevel


class Objective:
    """Computes the loss that a config asks for; a term whose weight is 0 is never computed.

    Attributes:
        terms: names of the loss's terms, in the order of `Loss.terms`.
        features: normalised images to features; the network's own, or a faster form of it.
        multipliers: those of the augmented constraints (D10), else None.
    """

    def __init__(self, config: TrainConfig, network: Network, tree: ClassTree) -> None:
        self.config, self.network = config, network
        self.features: Callable[[Tensor], Tensor] = network.features
        self.level_weights = (
            config.level_weights(tree.depth) if config.regularised_hierarchy else ()
        )
        weights = {"c1": config.lambda_c1, "c2": config.lambda_c2, "c3": config.lambda_c3}
        self.constraint_weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.regulariser_weights = config.active_regularisers
        self.terms: tuple[str, ...] = ("cross-entropy",)
        self.terms += ("energy",) if config.lambda_e > 0 else ()
        self.terms += ("hierarchy",) if self.level_weights else ()
        self.terms += tuple(f"constraint {name}" for name in self.constraint_weights)
        self.terms += ("orthogonal centres",) if config.lambda_o > 0 else ()
        self.terms += tuple(self.regulariser_weights)
        self._energy: dict[str, Energy] = {}
        spheres = network.classifier.spheres()
        layers = self._layers(spheres)
        for name, metric in (("conv", config.conv_penalty), ("classifier", config.metric)):
            on = config.energy_on_convolutions if name == "conv" else config.energy_on_classifier
            if on and metric is not None:
                self._energy[name] = Energy(
                    layers[name],
                    metric,
                    reduction=config.e_reduction,
                    ternary_threshold=config.ternary_threshold,
                    means=config.means,
                )
        self.multipliers: Multipliers | None = None
        if self.constraint_weights and config.constraint_form == "augmented":
            self.multipliers = Multipliers(
                self.constraint_weights, range(2, tree.depth + 1), spheres.weight.device
            )

    def __call__(self, images: Tensor, labels: Tensor) -> Loss:
        """Loss of normalised images ``(B, C, H, W)`` with class indices ``(B,)``."""
        spheres = self.network.classifier.spheres()
        cross_entropy, logits = self._cross_entropy(images, labels, spheres)
        return self._loss([cross_entropy], spheres, labels, logits)

    def cross_entropy(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of a part of a batch, with gradient, and its logits, detached."""
        return self._cross_entropy(images, labels, self.network.classifier.spheres())

    def regularisation(self, labels: Tensor, cross_entropy: Tensor, logits: Tensor) -> Loss:
        """Compute the rest of the loss of a batch whose parts went through `cross_entropy`.

        The gradient of the total is that of the regularisers alone.

        Args:
            labels: of the whole batch.
            cross_entropy: of the whole batch, without gradient.
            logits: of the whole batch, without gradient.
        """
        return self._loss([cross_entropy], self.network.classifier.spheres(), labels, logits)

    def _cross_entropy(
        self, images: Tensor, labels: Tensor, spheres: Spheres
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(
            images.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            features = self.features(images)
            logits = self.network.classifier.logits(features, spheres).float()
        return functional.cross_entropy(logits, labels), logits.detach()

    def _loss(self, terms: list[Tensor], spheres: Spheres, labels: Tensor, logits: Tensor) -> Loss:
        """Compute the loss, given its first term."""
        config, classifier = self.config, self.network.classifier
        violated: ByLevel = {}
        if config.lambda_e > 0:
            terms.append(
                config.lambda_e * torch.stack(list(self._energies(spheres).values())).sum()
            )
        if isinstance(classifier, HierarchicalClassifier) and len(self.terms) > len(terms):
            seen = classifier.seen_classes(labels) if config.batch_structure == "seen" else None
            if self.level_weights:
                terms.append(
                    self._hierarchy(classifier, spheres, seen).weighted(self.level_weights)
                )
            if self.constraint_weights:
                constrained, violated = self._constraints(classifier, spheres, seen)
                terms += constrained
            if config.lambda_o > 0:
                terms.append(config.lambda_o * centre_orthogonality(classifier, spheres, seen=seen))
        if self.regulariser_weights:
            values = self._regularisers(spheres, seen_classes(labels, len(spheres.weight)))
            terms += [self.regulariser_weights[name] * value for name, value in values.items()]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return Loss(total, torch.stack([term.detach() for term in terms]), logits, violated)

    def note(self, loss: Loss, images: int) -> None:
        """After a step on so many images: what the end of the epoch needs to know of it."""
        if self.multipliers is not None:
            self.multipliers.accumulate(loss.violated, images)

    def end_epoch(self, images: int) -> None:
        """After an epoch of so many images: update the multipliers (D10)."""
        if self.multipliers is not None:
            self.multipliers.update(images)

    def state(self) -> dict[str, Tensor]:
        """Return what changes from epoch to epoch."""
        return {} if self.multipliers is None else {"multipliers": self.multipliers.values}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a saved state."""
        if self.multipliers is not None:
            self.multipliers.values.copy_(state["multipliers"])

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Compute each regulariser, unweighted and over the whole tree (D8 `all`).

        ``energy_conv`` and ``energy_classifier`` (E over those layers), ``r_p_<l>`` and ``r_c_<l>``
        (eqs. 6, 7 per sphere level), ``violation_c1`` to ``violation_c3``, ``multiplier_c1_<l>``
        and so on (D10), ``centre_orthogonality`` (D11), ``regulariser_<name>`` of each registered
        one, and ``clamped_fraction``, the part of the pairs under E and R that footnote 6 clamps:
        the mean over E's convolutions, E's classifier and R. Only those that the config makes
        meaningful.
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
            values |= {
                f"violation_{name}": value
                for name, value in violations(classifier, spheres).items()
            }
            values |= {} if self.multipliers is None else self.multipliers.metrics()
            values["centre_orthogonality"] = centre_orthogonality(classifier, spheres)
        if self.regulariser_weights:
            everything = torch.ones(
                len(spheres.weight), dtype=torch.bool, device=spheres.weight.device
            )
            found = self._regularisers(spheres, everything)
            values |= {f"regulariser_{name}": value for name, value in found.items()}
        if clamped:
            values["clamped_fraction"] = torch.stack(clamped).mean()
        return values

    def _layers(self, spheres: Spheres) -> dict[str, list[Tensor]]:
        """Return the weights that E may act on."""
        return {"conv": [*self.network.conv_weights()], "classifier": [spheres.weight]}

    def _energies(self, spheres: Spheres) -> dict[str, Tensor]:
        layers = self._layers(spheres)
        return {name: energy(layers[name]) for name, energy in self._energy.items()}

    def _regularisers(self, spheres: Spheres, seen: Tensor) -> dict[str, Tensor]:
        """Each registered regulariser that is part of the loss, before its weight."""
        with torch.autocast(seen.device.type, enabled=False):
            vectors = WeightVectors.of_network(self.network.conv_weights(), spheres, seen)
            fields = self.config.regularisers
            return {
                name: regularise(REGULARISERS[name], vectors, fields)
                for name in self.regulariser_weights
            }

    def _constraints(
        self, classifier: HierarchicalClassifier, spheres: Spheres, seen: Tensor | None
    ) -> tuple[list[Tensor], ByLevel]:
        """Return the terms of the constraints, and the violations that the multipliers follow."""
        squared = self.config.constraint_form == "squared"
        found = level_violations(classifier, spheres, seen=seen, squared=squared)
        if self.multipliers is not None:
            return self.multipliers.terms(found), found
        zero = spheres.weight.new_zeros(())
        return [
            weight * sum(found[name].values(), zero)
            for name, weight in self.constraint_weights.items()
        ], {}

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
            means=self.config.means,
        )
