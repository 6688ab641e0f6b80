"""What a registered regulariser is given: the weight vectors of a network."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dh2l.classifier import Spheres
from dh2l.energy import layer_vectors
from dh2l.errors import UserError, of_users, unknown_name
from dh2l.registry import FieldValue, Regulariser

SCOPES = ("all", "conv", "classifier")


@dataclass(frozen=True)
class Vectors:
    """The weight vectors of a network as the rows of matrices ``(n, d)``, float32 with gradient.

    Attributes:
        convolutions: of each convolution.
        classifier: the class vectors that give the logits, ``(n_classes, d)``; of a hierarchical classifier the
            projection vectors.
        spheres: what the classifier computes from its parameters.
        seen: classes of the batch, bool ``(n_classes,)``; all of them where an epoch's end is reported.
    """

    convolutions: list[Tensor]
    classifier: Tensor
    spheres: Spheres
    seen: Tensor

    @classmethod
    def of_network(cls, convolutions: Sequence[Tensor], spheres: Spheres, seen: Tensor) -> "Vectors":
        """From the weights as torch keeps them; outside autocast."""
        return cls([layer_vectors(weight).float() for weight in convolutions], spheres.weight.float(), spheres, seen)

    @property
    def layers(self) -> list[Tensor]:
        """The convolutions, then the classifier."""
        return [*self.convolutions, self.classifier]

    @property
    def zero(self) -> Tensor:
        """The scalar 0, to add to."""
        return self.classifier.new_zeros(())

    def of(self, scope: str) -> list[Tensor]:
        """The layers of a scope: all, conv or classifier.

        Raises:
            UserError: another scope.
        """
        if scope not in SCOPES:
            raise UserError(unknown_name("scope", scope, SCOPES))
        return {"all": self.layers, "conv": self.convolutions, "classifier": [self.classifier]}[scope]


def regularise(known: Regulariser, vectors: Vectors, fields: dict[str, FieldValue]) -> Tensor:
    """A regulariser's value, a scalar, before its weight.

    Args:
        known: the regulariser.
        vectors: what it acts on.
        fields: config fields of regularisers; its arguments are taken from there, else as its defaults are.

    Raises:
        UserError: it raised, or gave no scalar tensor.
    """
    settings = {name: fields.get(f"{known.name}_{name}", default) for name, default in known.defaults.items()}
    value = of_users(f"the regulariser {known.name}", known.function, vectors, **settings)
    if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
        came = f"a tensor of shape {tuple(value.shape)} and {value.dtype}" if isinstance(value, Tensor) else repr(value)
        raise UserError(f"the regulariser {known.name} gave {came}, but must give a scalar tensor of floats")
    return value
