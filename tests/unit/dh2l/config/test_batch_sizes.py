"""A batch of one image, which batch norm may not take, is known before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from study_fixtures import SMALL, made_manifest, write_study
from tiny_data import run, tiny, tiny_config

from dh2l.config.batch_sizes import batch_sizes, check_batches, n_training_images
from dh2l.data import Manifest, load, prepare
from dh2l.data.manifest import MANIFEST
from dh2l.data.reader import with_train_sizes
from dh2l.errors import DataError, UserError
from dh2l.training.batches import make_splits
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile

N = 35  # the training images of `tiny` without those for validation


def test_batches_hold_all_images_in_order() -> None:
    assert batch_sizes(9, 4) == [4, 4, 1]
    assert batch_sizes(8, 4) == [4, 4]
    assert batch_sizes(3, 4) == [3]


LEAVE_ONE: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 34}, "batches of 34 leave one image alone"),
    ({"batch_size": 17}, "batches of 17 leave one image alone"),
    ({"batch_size": 35, "micro_batch": 2}, "batches of 35, 2 at a time, leave one image alone"),
    ({"batch_size": 16, "micro_batch": 5}, "batches of 16, 5 at a time, leave one image alone"),
    ({"batch_size": 15, "micro_batch": 4}, "batches of 15, 4 at a time, leave one image alone"),
]


@pytest.mark.parametrize(("values", "message"), LEAVE_ONE)
def test_one_image_alone_is_refused_with_sizes_that_train(
    values: dict[str, Any], message: str
) -> None:
    config = tiny_config(model="resnet18", epochs=1, **values)
    with pytest.raises(UserError) as refused:
        check_batches(config, N, (8, 8, 3))
    said = str(refused.value)
    assert said.startswith(
        f"35 training images in {message}, of which batch norm in resnet18 would see one value"
    )
    for remedy in said.rpartition("Set ")[2].split(" or "):
        field, _, size = remedy.partition(": ")
        check_batches(config.model_copy(update={field: int(size)}), N, (8, 8, 3))
    with pytest.raises(UserError, match="leave one image alone"):  # nor does a trainer begin
        run(config)


@pytest.mark.parametrize("values", [{}, {"protocol": "paper"}, {"validation_fraction": 0.5}])
def test_the_images_of_an_epoch_are_counted_without_reading_them(values: dict[str, Any]) -> None:
    import torch

    config, data = tiny_config(**values), tiny()
    sizes = [6] * len(data.manifest.classes)
    manifest = Manifest.model_validate(data.manifest.model_dump() | {"train_sizes": sizes})
    assert n_training_images(config, manifest) == len(
        make_splits(config, data, torch.device("cpu")).train
    )
    assert n_training_images(config, data.manifest) == (
        None if config.protocol == "validated" else 42
    )


def manifest_of(name: str, **changes: object) -> Manifest:
    return Manifest.model_validate(made_manifest(name).model_dump() | changes)


def test_a_plan_refuses_it_at_its_place_in_either_stage(tmp_path: Path) -> None:
    text = SMALL.replace("resnet20", "resnet18").replace("256", "13")
    sized = lambda name: manifest_of(name, train_sizes=[10, 10, 10])  # noqa: E731
    file = StudyFile(write_study(tmp_path, text))
    with pytest.raises(
        UserError, match=r"small\.yaml:\d+:\d+: 27 training images in batches of 13 leave one image"
    ):
        make_plan(file, sized)
    make_plan(file, manifest_of)  # a manifest of an earlier time does not say
    confirmed = (
        text.replace("batch_size: 13", "batch_size: 29") + "confirm: {seeds: [10, 11, 12]}\n"
    )
    with pytest.raises(
        UserError, match="30 training images in batches of 29 leave one image alone"
    ):
        make_plan(StudyFile(write_study(tmp_path, confirmed, "confirmed")), sized)


def test_a_plan_names_the_class_that_cannot_be_split(tmp_path: Path) -> None:
    def uneven(name: str) -> Manifest:
        return manifest_of(name, train_sizes=[15, 1, 14])

    file = StudyFile(write_study(tmp_path, SMALL))
    with pytest.raises(
        DataError, match=r"class a/1 has 1 training image, but .*\. Add images to .*protocol: paper"
    ):
        make_plan(file, uneven)


def test_sizes_of_classes_are_counted_for_a_manifest_of_an_earlier_time(tmp_path: Path) -> None:
    now = prepare("digits", tmp_path)
    file = tmp_path / "digits" / MANIFEST
    content = json.loads(file.read_text())
    del content["train_sizes"]
    file.write_text(json.dumps(content))
    earlier = load("digits", tmp_path).manifest
    assert earlier.train_sizes == ()
    assert with_train_sizes(earlier, tmp_path) == now
    assert with_train_sizes(earlier, tmp_path / "elsewhere") == earlier
    labels = tmp_path / "digits" / "train_y.npy"
    labels.write_bytes(labels.read_bytes()[:-8] + b"\xff" * 8)
    assert with_train_sizes(earlier, tmp_path) == earlier
