"""The config: strict, frozen, and an identity that the trial's numbers share."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sphere_oracle import DEEP, FLAT
from tiny_data import tiny

from dh2l.config.binding import bind
from dh2l.config.conditions import CONDITIONS, active_fields, needed_parts
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.registry.entries import METRICS
from dh2l.wording import counted

Values = dict[str, Any]
E: Values = {"lambda_e": 0.1, "metric": "cosine"}
H0: Values = {"classifier": "hierarchical"}
H: Values = {**H0, "lambda_l": 0.1, "metric": "cosine"}


def identity(values: Values) -> str:
    return TrainConfig.parse(values).identity


# Records are filed under these. They may change only together with `numerics`
# (dh2l.config.train_config.NUMERICS): otherwise every finished trial would be trained again.
GOLDEN: dict[str, Values] = {
    "digits-resnet20-baseline+l2-s0-10b02322f297": {},
    "digits-resnet20-baseline-s3-044852eb2661": {"weight_decay": 0.0, "seed": 3},
    "cifar100-resnet110-baseline+l2-s0-8b19d186142d": {
        "dataset": "cifar100",
        "model": "resnet110",
        "data_hash": "ab" * 32,
        "tree_hash": "cd" * 32,
    },
    "digits-resnet20-E-cos_hm-e0.1-s0-d266c2b26132": {**E, "metric": "cos_hm"},
    "digits-resnet20-E-am_arccos~cosine-e1-s0-2e806064d557": {
        **E,
        "conv_metric": "am_arccos",
        "lambda_e": 1,
        "e_reduction": "sum",
    },
    "digits-resnet20-E-cosine-e0.1-s0-86ff9eadf092": {**E, "e_scope": "conv"},
    "digits-resnet20-H0-s0-476a5f01add1": H0,
    "digits-resnet20-H-cosine-l0.1~0.5-s0-853a9a1a2ab7": {
        **H,
        "lambda_l": [0.1, 0.5],
        "centres": "parent",
        "lambda_c3": 1e-3,
    },
    "digits-resnet20-E+H-cosine-e0.1-l0.1-s0-3039c8d3613e": {
        **E,
        **H,
        "protocol": "paper",
        "epochs": 10,
        "lr_milestones": [0.3],
    },
    "digits-resnet20-E+H0-cosine-e0.1-s0-2e0cdf7a47e9": {
        **E,
        **H0,
        "radius": "unit",
        "centres": "mean",
    },
    "digits-resnet20-H-s0-71c8af811868": {
        **H0,
        "lambda_c1": 0.25,
        "flip": False,
        "crop_padding": 0,
    },
}


@pytest.mark.parametrize("expected", GOLDEN)
def test_identities_are_golden(expected: str) -> None:
    assert identity(GOLDEN[expected]) == expected


def test_golden_configs_survive_a_file() -> None:
    for expected, values in GOLDEN.items():
        config = TrainConfig.parse(values)
        again = TrainConfig.parse(json.loads(config.model_dump_json()))
        assert again == config
        assert again.identity == expected


def test_a_field_added_later_with_a_default_renames_no_trial() -> None:
    class Later(TrainConfig):
        added_later: float = 0.5

    for expected, values in GOLDEN.items():
        assert Later.parse(values).identity == expected
        assert Later.parse({**values, "added_later": 0.6}).identity != expected


# One entry per field: a base in which the field is active, and another value of the field.
ACTIVE: dict[str, tuple[Values, object]] = {
    "dataset": ({}, "cifar10"),
    "data_hash": ({}, "ab" * 32),
    "tree_hash": ({}, "ab" * 32),
    "protocol": ({}, "paper"),
    "compiled": ({}, True),
    "validation_fraction": ({}, 0.2),
    "data_seed": ({}, 1),
    "crop_padding": ({}, 0),
    "flip": ({}, False),
    "model": ({}, "resnet32"),
    "shortcut": ({}, "B"),
    "epochs": ({}, 299),
    "batch_size": ({}, 128),
    "lr": ({}, 0.2),
    "schedule": ({}, "linear"),
    "lr_final": ({"schedule": "linear"}, 0.01),
    "nesterov": ({}, True),
    "lr_milestones": ({}, [0.5]),
    "lr_gamma": ({}, 0.2),
    "warmup_epochs": ({}, 1),
    "momentum": ({}, 0.8),
    "weight_decay": ({}, 0.0),
    "decay_batch_norm": ({}, True),
    "precision": ({}, "bf16"),
    "deterministic": ({}, True),
    "seed": ({}, 1),
    "lambda_e": (E, 0.2),
    "metric": (E, "angular2"),
    "conv_metric": (E, "angular2"),
    "e_scope": (E, "classifier"),
    "e_reduction": (E, "sum"),
    "ternary_threshold": ({**E, "conv_metric": "hamming_ternary"}, 0.5),
    "classifier": ({}, "hierarchical"),
    "centres": (H0, "mean"),
    "centre_scale": ({**H0, "centres": "parent"}, 0.25),
    "radius": (H0, "unit"),
    "radius_ratio": ({**H0, "radius": "unit"}, 0.3),
    "outer_radius_factor": (H0, 2.0),
    "lambda_l": (H, 0.5),
    "batch_structure": (H, "all"),
    "lambda_c1": (H0, 0.1),
    "lambda_c2": (H0, 0.1),
    "lambda_c3": (H0, 0.1),
    "constraint_form": ({**H0, "lambda_c1": 0.1}, "squared"),
    "lambda_o": (H0, 0.1),
    "means": ({**E, "metric": "gm"}, "printed"),
    "weights": ({}, "imagenet"),
    "weights_hash": ({"weights": "net.pth"}, "ab" * 4),
    "statistics": ({}, "imagenet"),
    "micro_batch": ({}, 64),
    "regularisers": ({}, {"lambda_mma": 0.1}),
}


def test_every_field_is_known_to_matter() -> None:
    """A new field belongs into `ACTIVE`, and, where other fields can switch it off, into
    `INACTIVE`.
    """
    assert set(ACTIVE) == set(TrainConfig.model_fields) - {
        "tree",
        "tree_seed",
    }  # the tree's hash stands for them


def test_conditions_are_of_fields_and_active_in_no_arm_that_lacks_them() -> None:
    assert set(CONDITIONS) <= set(TrainConfig.model_fields)
    for values in ({}, E, H0, H, {**E, **H0}, {**E, **H}):
        config = TrainConfig.parse(values)
        for field in active_fields(config):
            at_default = getattr(config, field) == TrainConfig.model_fields[field].default
            assert (
                at_default
                or not needed_parts(field)
                or set(needed_parts(field)) & set(config.arm.split("+"))
            )


@pytest.mark.parametrize("field", ACTIVE)
def test_an_active_field_changes_the_identity(field: str) -> None:
    base, value = ACTIVE[field]
    assert identity({**base, field: value}) != identity(base)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (H, {"metric": "angular2"}),
        ({**E, **H}, {"conv_metric": "angular2"}),
        ({**E, "e_scope": "classifier"}, {"metric": "angular2"}),
        ({**E, **H}, {"e_scope": "all"}),
        ({**H, "metric": "hamming_ternary"}, {"ternary_threshold": 0.5}),
        ({**H0, "lambda_c2": 0.1}, {"batch_structure": "all"}),
        ({**H0, "centres": "mean"}, {"outer_radius_factor": 2.0}),
        ({**H, "centres": "parent", "lambda_l": [0.1, 0.0]}, {"lambda_l": 0}),
    ],
)
def test_a_field_is_active_wherever_something_uses_it(base: Values, change: Values) -> None:
    assert identity({**base, **change}) != identity(base)


INACTIVE: list[tuple[Values, Values]] = [
    ({"protocol": "paper"}, {"validation_fraction": 0.3}),
    ({"protocol": "paper"}, {"data_seed": 7}),
    ({"lr_milestones": []}, {"lr_gamma": 0.5}),
    ({"schedule": "linear"}, {"lr_gamma": 0.5}),
    ({"schedule": "cosine"}, {"lr_milestones": [0.3]}),
    ({}, {"lr_final": 0.01}),
    ({"weight_decay": 0.0}, {"decay_batch_norm": True}),
    ({}, {"metric": "cosine"}),
    ({}, {"metric": "hamming_ternary", "ternary_threshold": 0.5}),
    ({}, {"conv_metric": "cosine"}),
    ({}, {"e_scope": "conv"}),
    ({}, {"e_reduction": "sum"}),
    ({}, {"ternary_threshold": 0.5}),
    ({}, {"lambda_e": 0}),
    ({}, {"means": "printed"}),
    ({**E, "metric": "hm_cos"}, {"means": "printed"}),
    ({}, {"constraint_form": "squared"}),
    ({**H0, "lambda_o": 0.1}, {"constraint_form": "squared"}),
    ({}, {"tree": "animals_vehicles"}),
    ({"weights": "here/net.pth", "weights_hash": "ab" * 4}, {"weights": "there/net.pth"}),
    ({}, {"micro_batch": 512}),
    ({}, {"statistics": "data"}),
    ({"weights": "imagenet"}, {"statistics": "imagenet"}),
    ({}, {"lambda_mma": 0}),
    ({}, {"mma_scope": "conv"}),
    ({"lambda_mma": 0.1}, {"mma_scope": "all"}),
    ({}, {"lambda_l": 0}),
    ({}, {"lambda_l": [0.0, 0.0]}),
    ({}, {"centres": "mean"}),
    ({}, {"centres": "parent", "centre_scale": 0.2}),
    ({}, {"centre_scale": 0.2}),
    ({}, {"radius": "unit"}),
    ({}, {"radius": "unit", "radius_ratio": 0.2}),
    ({}, {"outer_radius_factor": 2.0}),
    ({}, {"batch_structure": "all"}),
    (E, {"e_scope": "all"}),
    (E, {"conv_metric": "cosine"}),
    (E, {"ternary_threshold": 0.5}),
    (E, {"batch_structure": "all"}),
    ({**E, "e_scope": "classifier"}, {"conv_metric": "angular2"}),
    ({**E, "e_scope": "classifier"}, {"conv_metric": "hamming_ternary", "ternary_threshold": 0.5}),
    ({**E, "e_scope": "conv", "conv_metric": "angular2"}, {"metric": "am"}),
    (H0, {"metric": "cosine"}),
    (H0, {"batch_structure": "all"}),
    (H0, {"e_scope": "all"}),
    (H0, {"centre_scale": 0.2}),
    (H0, {"radius_ratio": 0.2}),
    (H0, {"lambda_l": [0.0, 0.0]}),
    (H0, {"lambda_l": [0.1, 0.0], "metric": "cosine"}),  # level 1 has nothing to regularise
    (H0, {"lambda_l": [0.1, 0.0]}),  # ... and so needs no metric
    ({**H0, "centres": "parent"}, {"outer_radius_factor": 2.0}),
    ({**H0, "radius": "unit"}, {"outer_radius_factor": 2.0}),
    ({**H0, "lambda_c2": 0.1}, {"metric": "cosine"}),
    (H, {"conv_metric": "angular2"}),
    (H, {"e_reduction": "sum"}),
    (H, {"lambda_l": [0.1, 0.1]}),
    (H, {"lambda_l": [0.5, 0.1]}),
    ({**E, **H}, {"e_scope": "conv"}),
    ({**E, **H}, {"conv_metric": "cosine"}),
]


@pytest.mark.parametrize(("base", "change"), INACTIVE)
def test_an_inactive_field_leaves_the_identity_alone(base: Values, change: Values) -> None:
    config = TrainConfig.parse({**base, **change})
    assert config.identity == identity(base)
    assert config.canonical() == TrainConfig.parse(base).canonical()
    assert config.arm == TrainConfig.parse(base).arm


def test_values_that_are_equal_numbers_share_an_identity() -> None:
    assert identity({**E, "lambda_e": 1e-1, "lr": 2}) == identity({**E, "lambda_e": 0.1, "lr": 2.0})
    assert (
        identity({"lr_milestones": [0.5, 0.75]})
        == identity({"lr_milestones": (0.5, 0.75)})
        == identity({})
    )


@given(st.permutations(list({**E, **H, "epochs": 7, "seed": 2}.items())))
def test_the_order_in_which_values_are_written_does_not_matter(
    items: list[tuple[str, Any]],
) -> None:
    assert identity(dict(items)) == identity({**E, **H, "epochs": 7, "seed": 2})


def test_lambda_l_counts_per_level_where_each_level_is_regularised() -> None:
    parent = {**H, "centres": "parent"}
    assert identity({**parent, "lambda_l": [0.5, 0.1]}) != identity(
        {**parent, "lambda_l": [0.1, 0.1]}
    )
    assert identity({**parent, "lambda_l": [0.1, 0.1]}) == identity(parent)
    assert identity({**H, "lambda_l": [0.1, 0.5]}) == identity({**H, "lambda_l": 0.5})
    deep = {
        identity({**H, "lambda_l": [0.1, *rest]}) for rest in ([0.1, 0.5], [0.5, 0.1], [0.5, 0.5])
    }
    assert len(deep) == 3


def test_nothing_in_a_config_is_about_the_machine() -> None:
    """A trial's machine must not be part of its identity."""
    for name, field in TrainConfig.model_fields.items():
        assert not {"path", "folder", "thread", "threads", "device", "gpu", "workers"} & set(
            name.split("_")
        )
        assert Path not in (field.annotation, *getattr(field.annotation, "__args__", ()))


def test_a_canonical_form_is_plain_sorted_json() -> None:
    config = TrainConfig.parse(
        {**E, **H, "lambda_l": [0.1, 0.5], "centres": "parent", "lr_milestones": [0.5]}
    )
    assert json.loads(json.dumps(config.canonical())) == config.canonical() == {
        "centres": "parent",
        "classifier": "hierarchical",
        "lambda_e": 0.1,
        "lambda_l": [0.1, 0.5],
        "lr_milestones": [0.5],
        "metric": "cosine",
        "numerics": 3,
    }  # fmt: skip
    assert list(config.canonical()) == sorted(config.canonical())


@pytest.mark.parametrize(
    ("values", "arm"),
    [
        ({}, "baseline+l2"),
        ({"weight_decay": 0.0}, "baseline"),
        (E, "E"),
        ({**E, "weight_decay": 0.0}, "E"),
        (H, "H"),
        (H0, "H0"),
        ({**H0, "lambda_c2": 0.1}, "H"),
        ({**E, **H}, "E+H"),
        ({**E, **H0}, "E+H0"),
        ({"lambda_e": 0.0, "metric": "cosine"}, "baseline+l2"),
    ],
)
def test_arms_go_by_what_is_switched_on(values: Values, arm: str) -> None:
    assert TrainConfig.parse(values).arm == arm
    assert f"-{arm}-" in identity(values)


@pytest.mark.parametrize(
    ("values", "scope", "conv", "on_convolutions", "on_classifier"),
    [
        (E, "all", "cosine", True, True),
        ({**E, **H}, "conv", "cosine", True, False),
        ({**E, **H, "e_scope": "all", "conv_metric": "am"}, "all", "am", True, True),
        ({**E, "e_scope": "classifier"}, "classifier", "cosine", False, True),
        ({"metric": "cosine"}, "all", "cosine", False, False),
    ],
)
def test_defaults_of_e_resolve_by_arm(
    values: Values, scope: str, conv: str, on_convolutions: bool, on_classifier: bool
) -> None:
    config = TrainConfig.parse(values)
    assert (config.energy_scope, config.conv_penalty) == (scope, conv)
    assert (config.energy_on_convolutions, config.energy_on_classifier) == (
        on_convolutions,
        on_classifier,
    )


def test_lambda_l_has_a_weight_for_each_level() -> None:
    assert TrainConfig.parse(H).level_weights(3) == (0.1, 0.1, 0.1)
    assert TrainConfig.parse({**H, "lambda_l": [0.1, 0.5]}).level_weights(2) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("weights", "tree"),
    [([0.1, 0.1], FLAT), ([0.1, 0.5], DEEP), ([0.1], DEEP), ([], FLAT), ([0.0, 0.0], DEEP)],
)
def test_lambda_l_of_a_wrong_length_is_refused_when_the_tree_is_known(
    weights: list[float], tree: Any
) -> None:
    config = TrainConfig.parse({"dataset": "tiny", **H, "lambda_l": weights})
    levels = counted(tree.depth, "level")
    sentence = rf"lambda_l is a list of {counted(len(weights), 'value')}, but the class tree of tiny has {levels}$"
    with pytest.raises(UserError, match=sentence):
        bind(config, tiny(tree).manifest)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lamda_e": 0.1}, r"unknown key 'lamda_e'; did you mean 'lambda_e'"),
        ({"epochs": "3"}, r"^epochs is '3'; expected a whole number\. Remove the quotes$"),
        ({"epochs": 3.0}, r"^epochs is 3\.0; expected a whole number\. Write 3$"),
        ({"epochs": True}, r"^epochs is true; expected a whole number$"),
        ({"epochs": 0}, r"^epochs is 0; expected a number of at least 1$"),
        ({"lr": "0.1"}, r"^lr is '0\.1'; expected a number\. Remove the quotes$"),
        ({"lr": float("inf")}, r"^lr is inf; expected a finite number$"),
        ({"lambda_e": -1}, r"^lambda_e is -1; expected a number of at least 0$"),
        ({"lambda_e": float("nan")}, r"^lambda_e is nan; expected a finite number$"),
        (
            {"lambda_l": "0.1"},
            r"^lambda_l is '0\.1', but must be a number ≥ 0 or a list of them\. Remove the quotes$",
        ),
        ({"lambda_l": -1}, r"^lambda_l is -1, but must be a number ≥ 0 or a list of them$"),
        (
            {"lambda_l": [0.1, -1]},
            r"^lambda_l is \[0\.1, -1\], but must be a number ≥ 0 or a list of them$",
        ),
        (
            {"lambda_l": float("nan")},
            r"^lambda_l is nan, but must be a number ≥ 0 or a list of them$",
        ),
        ({"flip": 1}, r"^flip is 1; expected true or false\. Write true$"),
        ({"flip": "off"}, r"^flip is 'off'; expected true or false\. Write false$"),
        ({"dataset": 10}, r"^dataset is 10; expected a word\. Put it in quotes$"),
        ({"lr_milestones": 0.5}, r"^lr_milestones is 0\.5; expected a list$"),
        (
            {"seed": 2**63},
            r"^seed is 9223372036854775808; expected a number of at most 9223372036854775807$",
        ),
        ({"lr": 1e39}, r"^lr is 1e\+39; expected a number of at most 3\.40"),
        ({"mma_scope": 3}, r"^mma_scope is 3, but must be a word\. Put it in quotes$"),
        ({"lambda_mma": "1"}, r"^lambda_mma is '1', but must be a number\. Remove the quotes$"),
        ({"learning_rate": 0.1}, r"^unknown key 'learning_rate'; did you mean 'lr'\?$"),
        ({"wd": 0.1}, r"^unknown key 'wd'; did you mean 'weight_decay'\?$"),
        ({"bs": 8}, r"^unknown key 'bs'; did you mean 'batch_size'\?$"),
        (
            {"protocol": "papr"},
            r"protocol is 'papr', but must be 'validated' or 'paper'; did you mean 'paper'\?",
        ),
        ({"centre_scale": 1.0}, r"^centre_scale is 1\.0; expected a number below 1$"),
        ({"metric": "cos_hmm"}, r"unknown metric 'cos_hmm'; did you mean 'cos_hm'"),
        ({"conv_metric": "cosin"}, r"unknown metric 'cosin'; did you mean 'cosine'"),
        ({"model": "resnet21"}, r"unknown model 'resnet21'; did you mean .*'resnet20'"),
        ({"lr_milestones": [0.75, 0.5]}, r"lr_milestones are \[0\.75, 0\.5\], but must be rising"),
        ({"lr_milestones": [1.0]}, r"lr_milestones are \[1\.0\], .* below 1"),
        ({"lambda_e": 0.1}, r"E and H need a metric, but none is given"),
        (
            {"lambda_e": 0.1, "e_scope": "conv"},
            r"E on the convolutions needs a metric or a conv_metric",
        ),
        ({"lambda_e": 0.1, "conv_metric": "cosine"}, r"E and H need a metric"),
        ({**H0, "lambda_l": 0.1}, r"E and H need a metric"),
        (
            {"lambda_l": 0.1, "metric": "cosine"},
            r"lambda_l is 0\.1, but the classifier is plain: set classifier",
        ),
        (
            {"lambda_l": [0.0, 0.1], "metric": "cosine"},
            r"lambda_l is \(0\.0, 0\.1\), but the classifier is plain",
        ),
        ({"lambda_c1": 0.1}, r"lambda_c1 is 0\.1, but the classifier is plain"),
        ({"lambda_c2": 0.1}, r"lambda_c2 is 0\.1, but the classifier is plain"),
        ({"lambda_c3": 0.1}, r"lambda_c3 is 0\.1, but the classifier is plain"),
        ({**H0, "radius": "unit", "lambda_c1": 0.1}, r"lambda_c1 has no effect with radius: unit"),
        ({"schedule": "linar"}, r"^schedule is 'linar', but must be .*; did you mean 'linear'\?$"),
        ({"scheduler": "linear"}, r"^unknown key 'scheduler'; did you mean 'schedule'\?$"),
        (
            {"schedule": "rex", "epochs": 2, "warmup_epochs": 2},
            r"^warmup_epochs is 2, but schedule: rex needs fewer than the 2 epochs; lower it$",
        ),
        (
            {"schedule": "cosine", "lr_final": 0.2},
            r"^lr_final is 0\.2, but must be at most lr, 0\.1$",
        ),
        ({"nesterov": True, "momentum": 0.0}, r"^nesterov needs a momentum above 0"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(values: Values, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TrainConfig.parse(values)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(
        UserError, match=r"epochs is 0.*; batch_size is 1.*; unknown key 'sed'; did you mean 'seed'"
    ):
        TrainConfig.parse({"epochs": 0, "batch_size": 1, "sed": 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lambda_mma": 0.2}, "digits-resnet20-mma-mma0.2-s0-e4cc85bbf19c"),
        ({**E, "lambda_mma": 0.02}, "digits-resnet20-E+mma-cosine-e0.1-mma0.02-s0-7363385f80f9"),
        ({**E, "lambda_mma": 0.0}, "digits-resnet20-E-cosine-e0.1-s0-"),
    ],
)
def test_the_weight_of_a_registered_regulariser_can_be_read_in_the_identity(
    values: Values, words: str
) -> None:
    assert identity(values).startswith(words)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_may_be_named(metric: str) -> None:
    assert TrainConfig.parse({**H, "metric": metric}).metric == metric
    assert f"-{metric}-" in identity({**H, "metric": metric})


def test_a_config_is_frozen() -> None:
    config = TrainConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 0.2  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    assert [
        name
        for name, field in TrainConfig.model_fields.items()
        if not (field.description or "").endswith(".")
    ] == []
