"""Terms of the hierarchy, compiled to one graph."""

from collections.abc import Callable

import pytest
import torch
from sphere_oracle import (
    DEEP,
    MODES,
    make,
)
from torch import Tensor

from dh2l.hierarchy.classifier import CentreMode, HierarchicalClassifier, RadiusMode
from dh2l.hierarchy.constraints import violations
from dh2l.hierarchy.regulariser import hierarchical_terms


def everything(classifier: HierarchicalClassifier, labels: Tensor, metric: str) -> Tensor:
    """All regularisers of a batch, as the loss takes them."""
    spheres, seen = classifier.spheres(), classifier.seen_classes(labels)
    total = hierarchical_terms(classifier, spheres, metric, seen=seen).weighted([0.1, 0.5, 0.3])
    for violation in violations(classifier, spheres, seen=seen).values():
        total = total + violation
    return total


@pytest.mark.parametrize(("centres", "radius"), MODES[::2] + MODES[3:4])
def test_the_terms_are_one_graph(centres: CentreMode, radius: RadiusMode) -> None:
    """No graph break, hence nothing that depends on values, or that reads them back to the host."""
    classifier = make(DEEP, centres, radius).float()
    labels = torch.tensor([0, 4, 2, 8])
    compiled: Callable[..., Tensor] = torch.compile(everything, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(classifier, labels, "cos_hm"), everything(classifier, labels, "cos_hm")
    )
