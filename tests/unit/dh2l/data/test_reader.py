"""Prepared data sets on disk, and the errors of reading damaged ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import CLASSES, random_split, write_folders

from dh2l.data import Manifest, load, prepare, prepared, read_manifest, verify
from dh2l.errors import DataError, UserError
from dh2l.tree import ClassTree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the prepared data set `own`: 3 classes, 4 training and 2 test images each."""
    source = write_folders(tmp_path / "images", random_split(4, seed=0), random_split(2, seed=1))
    prepare("own", tmp_path / "data", source=source)
    return tmp_path / "data"


def test_the_manifest_says_what_the_arrays_are(root: Path) -> None:
    data = load("own", root)
    manifest = data.manifest
    assert manifest == read_manifest("own", root) == verify("own", root) == prepared(root)[0]
    assert manifest.tree == ClassTree(sorted(CLASSES))
    assert (manifest.n_train, manifest.n_test, manifest.image_shape) == (12, 6, (8, 8, 3))
    assert (manifest.source, manifest.flip, manifest.crop_padding) == ("image folders", True, 1)
    assert data.train_x.shape == (12, 8, 8, 3)
    assert data.test_x.shape == (6, 8, 8, 3)
    assert data.train_y.tolist() == np.repeat([0, 1, 2], 4).tolist()
    assert data.test_y.tolist() == np.repeat([0, 1, 2], 2).tolist()
    assert data.train_x.dtype == data.test_x.dtype == np.dtype(np.uint8)
    assert data.train_y.dtype == data.test_y.dtype == np.dtype(np.int64)


def test_mean_and_std_are_those_of_all_training_pixels(root: Path) -> None:
    data = load("own", root)
    unit = data.train_x.reshape(-1, 3) / 255
    np.testing.assert_allclose(data.manifest.mean, unit.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.manifest.std, unit.std(axis=0), rtol=1e-12)


def test_arrays_are_mapped_torch_takes_them_without_warning_and_writing_leaves_the_file_alone(
    root: Path,
) -> None:
    data = load("own", root)
    for array in (data.train_x, data.train_y, data.test_x, data.test_y):
        assert isinstance(array, np.memmap)
        assert torch.from_numpy(array).data_ptr() == array.ctypes.data
    data.train_x[:] = 0
    assert load("own", root).train_x.any()
    verify("own", root)


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'torchvision', 'sklearn', 'PIL', 'pandas', 'ray', 'mlflow', 'study'}"
    code = f"import sys, dh2l.data; sys.exit(' '.join(sorted({heavy} & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_prepared_lists_by_name_and_a_root_that_is_not_there_has_none(
    root: Path, tmp_path: Path
) -> None:
    prepare("another", root, source=tmp_path / "images")
    assert [manifest.name for manifest in prepared(root)] == ["another", "own"]
    assert prepared(tmp_path / "nowhere") == []


def test_what_is_not_prepared_is_said_with_the_nearest_name_and_the_command_to_type(
    root: Path,
) -> None:
    with pytest.raises(DataError) as of_own:
        load("owm", root)
    assert str(of_own.value) == (
        f"the data set 'owm' is not prepared under {root} (prepared there: own); "
        "did you mean 'own'? If not, type: dh2l-study data prepare owm --from PATH"
    )
    with pytest.raises(DataError, match=r"; type: dh2l-study data prepare cifar100$"):
        read_manifest("cifar100", root)
    with pytest.raises(DataError, match=r"\(nothing is\)"):
        read_manifest("cifar100", root / "nowhere")


@pytest.mark.parametrize(
    "name", ["", "Upper", "a/b", "..", "-a", "a" * 41, "ä", "a\n", "downloads"]
)
def test_a_name_that_cannot_be_a_folder_of_ours_is_refused(name: str, tmp_path: Path) -> None:
    for read in (load, read_manifest, verify):
        with pytest.raises(UserError, match="cannot name a data set"):
            read(name, tmp_path)
    with pytest.raises(UserError, match="cannot name a data set"):
        prepare(name, tmp_path, source=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["train_x.npy", "train_y.npy", "test_x.npy", "test_y.npy"])
def test_a_missing_and_a_truncated_file_are_named(file: str, root: Path) -> None:
    path = root / "own" / file
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        DataError, match=rf"{file} has {len(content) - 1:,} bytes, but its manifest says"
    ):
        load("own", root)
    path.unlink()
    with pytest.raises(
        DataError, match=rf"{file} is missing .* dh2l-study data prepare own --from PATH"
    ):
        load("own", root)


def test_a_file_of_the_right_size_but_another_format_type_or_shape_is_named(root: Path) -> None:
    path = root / "own" / "train_y.npy"
    size = path.stat().st_size
    path.write_bytes(b"x" * size)
    with pytest.raises(DataError, match=r"train_y.npy is not a valid .npy file"):
        load("own", root)
    for array in (np.zeros(12), np.zeros((3, 4), dtype=np.int64)):
        np.save(path, array)
        assert path.stat().st_size == size
        with pytest.raises(
            DataError, match=r"train_y.npy holds .* but its manifest says int64 \(12,\)"
        ):
            load("own", root)


def test_one_flipped_bit_is_found_by_verify_and_mended_by_preparing_again(
    root: Path, tmp_path: Path
) -> None:
    path = root / "own" / "test_x.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load("own", root)
    with pytest.raises(DataError, match=r"test_x.npy was changed"):
        verify("own", root)
    prepare("own", root, source=tmp_path / "images")
    verify("own", root)


def edit(root: Path, **changes: object) -> None:
    path = root / "own" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_edited_statistic_is_found_by_verify(root: Path) -> None:
    edit(root, mean=[0.5, 0.5, 0.5])
    with pytest.raises(DataError, match=r"manifest.json was changed"):
        verify("own", root)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": 2}, "version 2"),
        ({"n_train": "many"}, "n_train"),
        ({"classes": [["a"], ["b"]]}, "tree_hash"),
        ({"classes": []}, "no class; expected at least one"),
        ({"mean": [0.5]}, "one number per channel"),
        ({"files": {"../x": {"bytes": 1, "sha256": ""}}}, "files must be"),
        ({"extra": 1}, "extra"),
        ({"name": "other"}, "'other', not of 'own'"),
    ],
)
def test_a_damaged_manifest_is_named_with_what_is_wrong(
    changes: dict[str, object], why: str, root: Path
) -> None:
    edit(root, **changes)
    with pytest.raises(
        DataError, match=rf"manifest.json .*{why}.*dh2l-study data prepare own --from PATH"
    ):
        read_manifest("own", root)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_manifest_that_is_no_json_object_is_named(content: bytes, root: Path) -> None:
    (root / "own" / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest.json .*dh2l-study data prepare own"):
        read_manifest("own", root)


def test_a_manifest_cannot_be_changed_and_survives_json(root: Path) -> None:
    manifest = read_manifest("own", root)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    with pytest.raises(ValueError, match="frozen"):
        manifest.n_train = 1  # type: ignore[misc]
