"""Fields of a trial's config: types, defaults, checks of single values, resolved defaults."""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from dh2l.errors import unknown_name_message
from dh2l.io.validation import format_value, remedy
from dh2l.registry.entries import METRICS, MODELS
from dh2l.registry.register import REGULARISERS, FieldValue, regulariser_fields


def _in_one_sentence(
    value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> Any:
    """Report one error for a union. Pydantic would report one per branch, under generated names."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError(
            f"{info.field_name} is {format_value(value)}, but must be a number ≥ 0 or a list of "
            "them" + remedy("float_type", value)
        ) from None


LARGEST = float.fromhex("0x1.fffffep+127")
"""The largest number that single precision holds, in which trials compute."""
LARGEST_SEED = 2**63 - 1
"""The largest number that fits where records, tables and random generators keep whole numbers."""
Finite = Annotated[float, Field(le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Floats = Annotated[
    tuple[NonNegative, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
]
LevelWeights = Annotated[NonNegative | Floats, WrapValidator(_in_one_sentence)]
Scope = Literal["all", "conv", "classifier"]


def positive(weight: float | tuple[float, ...]) -> bool:
    """Return True if a weight, or one of the weights of the levels, is above 0."""
    return any(value > 0 for value in (weight if isinstance(weight, tuple) else (weight,)))


class ConfigFields(BaseModel):
    """Fields with numeric meaning for one trial. D# names a decision where the paper is silent."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    dataset: str = "digits"
    """Name of a prepared data set."""
    data_hash: str = ""
    """Hash of the prepared data; filled in from the manifest, so that other pixels are another
    trial."""
    tree: str | None = None
    """A class tree instead of the data set's own: a shipped one's name, or a YAML file. `shuffled`
    is the data set's own with its classes permuted, for training alone: what is measured is
    measured by the data set's own tree."""
    tree_seed: Seed = 0
    """Seed of `tree: shuffled`."""
    tree_hash: str = ""
    """Hash of the class tree; filled in from it."""
    protocol: Literal["validated", "paper"] = "validated"
    """`validated` holds a stratified part of the training set out; `paper` trains on all of it."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Part of each class's training images held out under `validated`."""
    data_seed: Seed = 0
    """Seed of the validation split, independent of `seed`."""
    crop_padding: int | None = Field(default=None, ge=0)
    """Random crop after zero padding by this many pixels (D15). Default: the data set's own."""
    flip: bool | None = None
    """Random horizontal flip (D15). Default: the data set's own."""
    statistics: Literal["data", "imagenet"] | None = None
    """Channel statistics that images are normalised by. Default: the training set's (D15), but
    ImageNet's with `weights: imagenet`."""

    model: str = "resnet20"
    """Architecture: a key of `dh2l.registry.entries.MODELS`."""
    shortcut: Literal["A", "B"] = "A"
    """Shortcut of CIFAR networks where the shape changes (D12): A without parameters, B a 1×1
    convolution."""
    weights: str | None = None
    """Weights to start from: `imagenet`, or a file of a state dict. The classifier is always drawn
    anew."""
    weights_hash: str = ""
    """Hash of these weights; filled in."""

    epochs: int = Field(default=300, ge=1, le=100_000)
    """Passes over the training set."""
    batch_size: int = Field(default=512, ge=2)
    """Images per step; the last, partial batch is kept. One image alone is refused where batch norm
    cannot take it."""
    micro_batch: Annotated[int, Field(ge=2)] | None = None
    """Images at a time, where a batch does not fit: gradients add up over the batch, batch norm
    sees these alone."""
    lr: Finite = Field(default=0.1, gt=0)
    """Initial learning rate of SGD; with a warm-up, the rate at its end."""
    schedule: Literal["steps", "linear", "cosine", "rex"] = "steps"
    """How the rate falls (D13): at milestones, or in every step along a curve that ends with the
    last step."""
    lr_final: NonNegative = 0.0
    """Rate of the last step under `linear`, `cosine` and `rex`."""
    lr_milestones: Floats = (0.5, 0.75)
    """Fractions of the epochs after which the rate drops under `schedule: steps` (D13)."""
    lr_gamma: float = Field(default=0.1, gt=0, le=1)
    """Factor of each drop."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs over which the rate rises linearly to `lr`: once an epoch under `schedule: steps`,
    else in every step (D13)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD momentum."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NonNegative = 0.0005
    """The paper's l2 term, as SGD weight decay."""
    decay_batch_norm: bool = False
    """Whether weight decay also acts on batch norm's parameters (D14)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the network: `tf32` for a GPU's convolutions, `bf16` autocast. Regularisers are
    always fp32."""
    compiled: bool = False
    """Whether `torch.compile` fuses the network's element-wise work. Rounds differently, and takes
    half a minute the first time on a machine, seconds a trial afterwards: for long trials."""
    deterministic: bool = False
    """Only deterministic kernels: on a GPU, the same seed then gives the same bits."""
    seed: Seed = 0
    """Seed of initialisation, order and augmentation."""

    lambda_e: NonNegative = 0.0
    """λe, weight of the energy E; 0 switches E off."""
    metric: str | None = None
    """Pairwise penalty of the classifier's vectors (E and H), a key of
    `dh2l.pairwise.penalties.METRICS`."""
    conv_metric: str | None = None
    """Pairwise penalty of the convolutions' vectors. Default: `metric`."""
    e_scope: Scope | None = None
    """Layers that E acts on (D4). Default: `all`, but `conv` with a hierarchical classifier."""
    e_reduction: Literal["mean", "sum"] = "mean"
    """E of a layer: mean or sum over unordered pairs (D3)."""
    ternary_threshold: NonNegative = 0.0
    """t of `hamming_ternary`: weights below t·mean|w| count as 0 (D1)."""
    means: Literal["exact", "printed"] = "exact"
    """Geometric and harmonic mean as they are, or as the first submission prints them (D2)."""

    classifier: Literal["plain", "hierarchical"] = "plain"
    """`hierarchical` parameterises the classes on the tree's spheres (H)."""
    centres: Literal["learned", "parent", "mean"] = "learned"
    """What a sphere's centre is (D5)."""
    centre_scale: float = Field(default=0.5, gt=-1, lt=1)
    """ε of `centres: parent`: a centre is ε times its node's projection vector (footnote 3)."""
    radius: Literal["free", "unit"] = "free"
    """Length of the class projection vectors (D6)."""
    radius_ratio: float = Field(default=0.4, gt=0, lt=1)
    """δ of `radius: unit`: inner over outer radius."""
    outer_radius_factor: Finite = Field(default=1 + math.sqrt(2), gt=0)
    """Outer radius over the initial mean length one level below, for `learned` and `mean` centres
    (D9)."""
    lambda_l: LevelWeights = 0.0
    """λl, weight of R_p + R_c: one value for every level, or a list, level 1 first."""
    batch_structure: Literal["seen", "all"] = "seen"
    """Whether only the classes seen in the batch count in R and C (D8)."""
    lambda_c1: NonNegative = 0.0
    """Weight of constraint C1: an inner radius is at most the outer one."""
    lambda_c2: NonNegative = 0.0
    """Weight of constraint C2: an inner sphere lies inside the outer one."""
    lambda_c3: NonNegative = 0.0
    """Weight of constraint C3: sibling spheres do not overlap."""
    constraint_form: Literal["hinge", "squared", "augmented"] = "hinge"
    """Of a violation v: λv, λv², or an augmented Lagrangian with multipliers updated every epoch
    (D10)."""
    lambda_o: NonNegative = 0.0
    """λo, weight of the orthogonality of sibling spheres' centres (D11)."""

    regularisers: dict[str, FieldValue] = {}
    """Fields of registered regularisers: `lambda_<name>`, the weight, and `<name>_<argument>`; in
    files and studies they stand beside the other fields."""

    @field_validator("regularisers")
    @classmethod
    def _known_fields(cls, values: dict[str, FieldValue]) -> dict[str, FieldValue]:
        defaults = regulariser_fields()
        for name, value in values.items():
            if name not in defaults:
                raise ValueError(unknown_name_message("field of a regulariser", name, defaults))
            kind = type(defaults[name])
            if type(value) is not kind and not (kind is float and type(value) is int):
                words = {
                    bool: "true or false",
                    str: "a word",
                    int: "a whole number",
                    float: "a number",
                }
                fix = remedy(f"{kind.__name__}_type".replace("str", "string"), value)
                raise ValueError(f"{name} is {format_value(value)}, but must be {words[kind]}{fix}")
            if name.startswith("lambda_") and not 0 <= float(value) <= LARGEST:
                raise ValueError(
                    f"{name} is {value!r}, but a weight must be a finite number ≥ 0, at most "
                    f"{LARGEST:.8g}"
                )
        typed = {name: type(defaults[name])(value) for name, value in values.items()}
        return {
            name: typed[name]
            for name in defaults
            if name in typed and typed[name] != defaults[name]
        }

    @field_validator("metric", "conv_metric")
    @classmethod
    def _known_metric(cls, name: str | None) -> str | None:
        if name is not None and name not in METRICS:
            raise ValueError(unknown_name_message("metric", name, METRICS))
        return name

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        if name not in MODELS:
            raise ValueError(unknown_name_message("model", name, MODELS))
        return name

    @field_validator("lr_milestones")
    @classmethod
    def _rising(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(m >= 1 for m in milestones) or list(milestones) != sorted(milestones):
            raise ValueError(
                f"lr_milestones are {list(milestones)}, but must be rising fractions of the "
                "epochs, below 1"
            )
        return milestones

    def _e_on(self, layers: Literal["conv", "classifier"]) -> bool:
        return self.lambda_e > 0 and self.energy_scope in ("all", layers)

    @property
    def hierarchical(self) -> bool:
        """True if the classifier is the hierarchical one."""
        return self.classifier == "hierarchical"

    @property
    def energy_scope(self) -> Scope:
        """Layers that E acts on, with its default resolved (D4)."""
        return self.e_scope or ("conv" if self.hierarchical else "all")

    @property
    def conv_penalty(self) -> str | None:
        """Penalty of the convolutions, with its default resolved."""
        return self.conv_metric or self.metric

    @property
    def energy_on_convolutions(self) -> bool:
        """True if E acts on the convolutions."""
        return self._e_on("conv")

    @property
    def energy_on_classifier(self) -> bool:
        """True if E acts on the classifier."""
        return self._e_on("classifier")

    @property
    def regularised_hierarchy(self) -> bool:
        """True if R = Σ_l λ_l (R_p + R_c) is part of the loss."""
        return self.hierarchical and positive(self.effective_lambda_l)

    @property
    def used_metrics(self) -> set[str]:
        """The metrics that the trial's numbers depend on."""
        used = {
            self.metric if self.energy_on_classifier or self.regularised_hierarchy else None,
            self.conv_penalty if self.energy_on_convolutions else None,
        }
        return {metric for metric in used if metric is not None}

    @property
    def effective_lambda_l(self) -> float | tuple[float, ...]:
        """λ_l in a form that equal trials share: a list of equal values as that value.

        λ_1 of a deeper tree has a weight under `parent` centres alone: elsewhere nodes of level 1
        have no surface vector (no R_p), and R_c begins at level 2. There λ_2 replaces it.
        """
        if not isinstance(weights := self.lambda_l, tuple):
            return weights
        if self.centres != "parent" and len(weights) > 1:
            weights = (weights[1], *weights[1:])
        return weights if len(set(weights)) > 1 else max(weights, default=0.0)

    @property
    def constrained(self) -> bool:
        """True if one of the constraints between spheres is part of the loss."""
        return self.hierarchical and max(self.lambda_c1, self.lambda_c2, self.lambda_c3) > 0

    @property
    def active_regularisers(self) -> dict[str, float]:
        """Weights of the registered regularisers that are part of the loss, by name."""
        weights = {
            name: float(self.regularisers.get(known.weight, 0.0))
            for name, known in REGULARISERS.items()
        }
        return {name: weight for name, weight in weights.items() if weight > 0}

    @property
    def channel_statistics(self) -> Literal["data", "imagenet"]:
        """Statistics that images are normalised by, with the default resolved."""
        return self.statistics or ("imagenet" if self.weights == "imagenet" else "data")

    @property
    def arm(self) -> str:
        """Name of the arm: baseline, baseline+l2, or E, H, H0 and regularisers, joined by +."""
        parts = ["E"] * (self.lambda_e > 0)
        if self.hierarchical:
            regularised = self.regularised_hierarchy or self.constrained or self.lambda_o > 0
            parts.append("H" if regularised else "H0")
        parts += self.active_regularisers
        return "+".join(parts) or ("baseline+l2" if self.weight_decay else "baseline")
