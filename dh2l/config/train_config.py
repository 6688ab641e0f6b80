"""Configuration of one trial: the data set, model, regularisers and seed to train.

A config is frozen and validated. Its **identity** is a readable prefix and a hash over the fields
that are active and differ from their defaults; two configs that train the same numbers share it.
"""

from typing import Any, Self

from pydantic import model_validator

from dh2l.config import identity
from dh2l.config.conditions import WEIGHTS, is_active
from dh2l.config.fields import ConfigFields, positive
from dh2l.errors import UserError
from dh2l.io.validation import FieldError, validate
from dh2l.registry.register import regulariser_of, reserve_fields
from dh2l.tree import ClassTree
from dh2l.wording import counted


class TrainConfig(ConfigFields):
    """Everything with numeric meaning for one trial. D# names a decision on the paper's gaps."""

    @model_validator(mode="before")
    @classmethod
    def _gather_regularisers(cls, values: Any) -> Any:
        """Move the fields of registered regularisers to their own mapping."""
        if not isinstance(values, dict):
            return values
        own = {key: value for key, value in values.items() if regulariser_of(str(key))}
        if not own:
            return values
        rest = {key: value for key, value in values.items() if key not in own}
        return rest | {"regularisers": {**values.get("regularisers", {}), **own}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_classifier()
        self._check_optimizer()
        if self.weights is not None and not self.weights:
            raise ValueError("weights is empty; give imagenet or a file, or leave it out")
        self._check_metrics()
        return self

    def _check_classifier(self) -> None:
        """Refuse weights and constraints that the classifier does not have."""
        if not self.hierarchical:
            for field in WEIGHTS["H"]:
                if positive(getattr(self, field)):
                    raise ValueError(
                        f"{field} is {getattr(self, field)}, but the classifier is plain: "
                        f"set classifier: hierarchical (an H arm), or leave {field} out"
                    )
        if self.hierarchical and self.radius == "unit" and self.lambda_c1:
            raise ValueError(
                "lambda_c1 has no effect with radius: unit, where all radii are constants; set it "
                "to 0"
            )

    def _check_optimizer(self) -> None:
        """Refuse schedules without a step after warm-up, or that rise, and Nesterov alone."""
        if self.schedule != "steps" and self.warmup_epochs >= self.epochs:
            raise FieldError(
                ("warmup_epochs",),
                f"warmup_epochs is {self.warmup_epochs}, but schedule: {self.schedule} needs "
                f"fewer than the {counted(self.epochs, 'epoch')}; lower it",
            )
        if is_active(self, "lr_final") and self.lr_final > self.lr:
            raise FieldError(
                ("lr_final",), f"lr_final is {self.lr_final}, but must be at most lr, {self.lr}"
            )
        if self.nesterov and not self.momentum:
            raise FieldError(
                ("nesterov",),
                "nesterov needs a momentum above 0; set momentum, or leave nesterov out",
            )

    def _check_metrics(self) -> None:
        """Refuse E and H without a metric."""
        if is_active(self, "metric") and self.metric is None:
            raise ValueError(
                "E and H need a metric, but none is given; for instance metric: cos_hm"
            )
        if is_active(self, "conv_metric") and self.conv_penalty is None:
            raise ValueError(
                "E on the convolutions needs a metric or a conv_metric; for instance metric: cos_hm"
            )

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Validate plain values, e.g. from a file.

        Raises:
            UserError: one sentence per mistake, with the nearest valid names.
        """
        return validate(cls, values)

    @property
    def tree_file(self) -> str | None:
        """The class tree to read instead of the data set's own: a shipped one's name, or a file."""
        return None if self.tree == "shuffled" else self.tree

    def training_tree(self, own: ClassTree) -> ClassTree:
        """Return the class tree that a trial trains by.

        A plain classifier trains by no tree, and keeps the data set's own.

        Args:
            own: the data set's own class tree, or the one that was read instead.

        Raises:
            UserError: shuffling the tree changes nothing.
        """
        return (
            own.shuffled(self.tree_seed) if self.tree == "shuffled" and self.hierarchical else own
        )

    def level_weights(self, depth: int) -> tuple[float, ...]:
        """λ_l for the levels 1..depth.

        Raises:
            UserError: a list of another length than the tree is deep.
        """
        if not isinstance(self.lambda_l, tuple):
            return (self.lambda_l,) * depth
        if len(self.lambda_l) != depth:
            raise UserError(
                f"lambda_l is a list of {counted(len(self.lambda_l), 'value')}, but the class tree "
                f"of {self.dataset} has {counted(depth, 'level')}"
            )
        return self.lambda_l

    def flat(self) -> dict[str, Any]:
        """Every field as JSON has it, those of regularisers beside the others."""
        return flat(self.model_dump(mode="json"))

    def canonical(self) -> dict[str, Any]:
        """Return the active fields that differ from their defaults (`identity.canonical`)."""
        return identity.canonical(self)

    @property
    def identity(self) -> str:
        """Name of the trial: `dh2l.config.identity.identity`."""
        return identity.identity(self)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config's values as a record has them, with those of regularisers among them."""
    fields: dict[str, Any] = values.get("regularisers", {})
    return {key: value for key, value in values.items() if key != "regularisers"} | fields


reserve_fields(TrainConfig.model_fields)
