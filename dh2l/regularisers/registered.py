"""Values of registered regularisers, built-in ones and users'."""

from torch import Tensor

from dh2l.errors import UserError, call_user_code
from dh2l.registry.register import FieldValue, Regulariser
from dh2l.regularisers.baselines import FUNCTIONS
from dh2l.regularisers.weight_vectors import WeightVectors


def regularise(known: Regulariser, vectors: WeightVectors, fields: dict[str, FieldValue]) -> Tensor:
    """Compute a regulariser's value, a scalar, before its weight.

    Args:
        known: the regulariser.
        vectors: the weight vectors that it takes.
        fields: config fields of regularisers. An argument without its field here has its default.

    Raises:
        UserError: the regulariser raised, or did not return a scalar tensor.
    """
    settings = {
        name: fields.get(f"{known.name}_{name}", default)
        for name, default in known.defaults.items()
    }
    function = FUNCTIONS[known.function] if isinstance(known.function, str) else known.function
    value = call_user_code(f"the regulariser {known.name}", function, vectors, **settings)
    if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
        came = (
            f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
            if isinstance(value, Tensor)
            else repr(value)
        )
        raise UserError(
            f"the regulariser {known.name} gave {came}, but must give a scalar tensor of floats"
        )
    return value
