"""Weight vectors of a network, as regularisers take them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dh2l.errors import UserError, unknown_name_message
from dh2l.hierarchy.classifier import Spheres
from dh2l.pairwise.energy import layer_vectors

SCOPES = ("all", "conv", "classifier")


@dataclass(frozen=True)
class WeightVectors:
    """Weight vectors of a network as the rows of matrices ``(n, d)``, float32 with gradient.

    Attributes:
        convolutions: of each convolution.
        classifier: the class vectors that give the logits, ``(n_classes, d)``; for a hierarchical
            classifier the projection vectors.
        spheres: what the classifier computes from its parameters.
        seen: classes of the batch, bool ``(n_classes,)``; all of them where an epoch's end is
            reported.
    """

    convolutions: list[Tensor]
    classifier: Tensor
    spheres: Spheres
    seen: Tensor

    @classmethod
    def of_network(
        cls, convolutions: Sequence[Tensor], spheres: Spheres, seen: Tensor
    ) -> "WeightVectors":
        """From the weights as torch keeps them; outside autocast."""
        return cls(
            [layer_vectors(weight).float() for weight in convolutions],
            spheres.weight.float(),
            spheres,
            seen,
        )

    @property
    def layers(self) -> list[Tensor]:
        """The convolutions, then the classifier."""
        return [*self.convolutions, self.classifier]

    @property
    def zero(self) -> Tensor:
        """The scalar 0, to add to."""
        return self.classifier.new_zeros(())

    def of(self, scope: str) -> list[Tensor]:
        """Return the layers of a scope: all, conv or classifier.

        Raises:
            UserError: another scope.
        """
        if scope not in SCOPES:
            raise UserError(unknown_name_message("scope", scope, SCOPES))
        return {"all": self.layers, "conv": self.convolutions, "classifier": [self.classifier]}[
            scope
        ]
