"""Binding of a config to its data set; its weights are in `test_weights.py`."""

import pytest
from sphere_oracle import DEEP, FLAT
from tiny_data import tiny

from dh2l.config.binding import bind, find_hash_mismatch
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError


def test_augmentation_spelled_out_as_the_data_sets_own_is_the_same_trial_once_bound() -> None:
    manifest = tiny().manifest
    plain = bind(TrainConfig(dataset="tiny"), manifest)
    spelled = bind(
        TrainConfig(dataset="tiny", flip=manifest.flip, crop_padding=manifest.crop_padding),
        manifest,
    )
    assert spelled.identity == plain.identity
    for change in (
        {"flip": not manifest.flip},
        {"crop_padding": manifest.crop_padding + 1},
        {"crop_padding": 0},
    ):
        assert (
            bind(TrainConfig.parse({"dataset": "tiny", **change}), manifest).identity
            != plain.identity
        )


def test_a_bound_config_carries_the_hashes_of_its_data() -> None:
    manifest = tiny().manifest
    bound = bind(TrainConfig(dataset="tiny"), manifest)
    assert (bound.data_hash, bound.tree_hash) == (manifest.data_hash, manifest.tree_hash)
    assert bind(bound, manifest) == bound
    assert bound.identity != TrainConfig(dataset="tiny").identity
    assert bind(TrainConfig(dataset="tiny"), tiny(FLAT).manifest).identity != bound.identity


@pytest.mark.parametrize(("field", "what"), [("data_hash", "hash"), ("tree_hash", "class tree")])
def test_a_bound_config_is_refused_for_other_data(field: str, what: str) -> None:
    manifest = tiny(DEEP).manifest
    bound = bind(TrainConfig(dataset="tiny"), manifest)
    assert find_hash_mismatch(bound, manifest) is None
    other = bound.model_copy(update={field: "ab" * 32})
    assert find_hash_mismatch(other, manifest) == (what, getattr(bound, field), "ab" * 32)
    with pytest.raises(
        UserError, match="tiny was prepared anew since this trial was planned; plan again"
    ):
        bind(other, manifest)
