"""E and R under one fixed metric, comparable between all arms."""

import torch
from torch import Tensor

from dh2l.hierarchy.classifier import HierarchicalClassifier
from dh2l.hierarchy.regulariser import hierarchical_terms, sibling_term
from dh2l.hierarchy.tree_index import TreeIndex
from dh2l.models.network import Network
from dh2l.pairwise.energy import Energy
from dh2l.pairwise.penalties import find_penalty
from dh2l.tree import ClassTree

METRIC = "cosine"
"""The penalty of all diagnostics: the mean cosine of pairs, whatever a trial is trained with."""


class Diagnostics:
    """E and R of a network under the metric `cosine`, whether or not they are part of its loss.

    Args:
        network: the network, on its device.
        own: the data set's own class tree, by which R_p of the class vectors is reported.
        training: the class tree that a hierarchical classifier is built on.
    """

    def __init__(self, network: Network, own: ClassTree, training: ClassTree) -> None:
        self._network, self._depth = network, own.depth
        self._shuffled = training != own
        self._own = TreeIndex(own).to(network.classifier.spheres().weight.device)
        self._energies = {name: Energy(weights, METRIC) for name, weights in self._layers().items()}

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """Compute each value as a scalar on the network's device.

        ``cosine_energy_conv`` and ``cosine_energy_classifier`` are E of these layers (section 4.1);
        ``cosine_r_p_<l>`` and ``cosine_r_c_<l>`` are R_p and R_c of the sphere level l (eqs. 6, 7)
        over the whole tree. R_p of the last level exists for plain classifiers too: it groups their
        rows by the data set's own tree. Under a shuffled tree the terms of the classifier's own
        spheres are ``shuffled_r_p_<l>`` and ``shuffled_r_c_<l>``.
        """
        classifier, layers = self._network.classifier, self._layers()
        spheres = classifier.spheres()
        values = {
            f"cosine_energy_{name}": energy(layers[name]) for name, energy in self._energies.items()
        }
        values[f"cosine_r_p_{self._depth}"], _ = sibling_term(
            self._own.groups(self._depth),
            spheres.weight.float(),
            self._own.seen_nodes(None)[self._depth],
            find_penalty(METRIC),
        )
        if isinstance(classifier, HierarchicalClassifier):
            terms = hierarchical_terms(classifier, spheres, METRIC, seen=None)
            prefix = "shuffled" if self._shuffled else METRIC
            values |= {f"{prefix}_r_p_{level}": value for level, value in terms.projection.items()}
            values |= {f"{prefix}_r_c_{level}": value for level, value in terms.centre.items()}
        return values

    def _layers(self) -> dict[str, list[Tensor]]:
        """Return the weights of each kind of layer that has some."""
        convolutions = [weight.float() for weight in self._network.conv_weights()]
        layers = {"conv": convolutions} if convolutions else {}
        return {**layers, "classifier": [self._network.classifier.spheres().weight.float()]}
