"""Data sets of a user's own code, registered by the call that ours use."""

from pathlib import Path

import numpy as np
import pytest
from data_fixtures import save_image

from dh2l.data import DATA_SETS, ImageFiles, Images, load, prepare, read_manifest, register
from dh2l.data.images import Report
from dh2l.errors import DataError, UserError


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    for name in [*DATA_SETS, "stars", "photos"]:
        monkeypatch.setitem(DATA_SETS, name, DATA_SETS.get(name, DATA_SETS["digits"]))
    for name in ("stars", "photos"):
        monkeypatch.delitem(DATA_SETS, name)


def read_stars(source: Path | None, downloads: Path, report: Report) -> Images:
    report(f"from {source}, {downloads.name}")
    x = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4, 1)
    y = np.array([0, 1, 0, 1, 0, 1])
    return Images("a catalogue", (("warm", "red"), ("cold", "blue")), x, y, x, y)


def test_a_registered_data_set_is_prepared_by_its_name_with_its_augmentation(
    tmp_path: Path,
) -> None:
    register("stars", flip=False, crop_padding=2, downloads=True)(read_stars)
    said: list[str] = []
    manifest = prepare("stars", tmp_path, report=said.append)
    assert said[0] == "from None, downloads"
    assert (manifest.source, manifest.flip, manifest.crop_padding) == ("a catalogue", False, 2)
    assert manifest.classes == (("cold", "blue"), ("warm", "red"))
    assert load("stars", tmp_path).train_x.shape == (6, 4, 4, 1)
    with pytest.raises(
        UserError, match="stars has images of one size and takes no --shorter-side and no --crop"
    ):
        prepare("stars", tmp_path, shorter_side=8)


def test_one_that_cannot_be_downloaded_says_where_it_is_to_be_had(tmp_path: Path) -> None:
    register("stars", read_stars, where="ask an astronomer")
    with pytest.raises(DataError) as error:
        prepare("stars", tmp_path)
    assert str(error.value) == (
        "stars cannot be downloaded: ask an astronomer; then type: dh2l-study data prepare stars "
        "--from PATH"
    )
    with pytest.raises(DataError, match=r"; type: dh2l-study data prepare stars --from PATH$"):
        read_manifest("stars", tmp_path)


def test_one_of_many_sizes_lists_its_files(tmp_path: Path) -> None:
    files = []
    for i in range(4):
        files.append(tmp_path / f"{i}.png")
        save_image(files[-1], i)

    @register("photos", shorter_side=10, crop=9)
    def read_photos(_source: Path | None, _downloads: Path, _report: Report) -> ImageFiles:
        return ImageFiles(
            "a camera", (("b",), ("a",)), ((files[0],), (files[1],)), ((files[2],), (files[3],))
        )

    manifest = prepare("photos", tmp_path / "data", source=tmp_path)
    assert (manifest.stored, manifest.image_shape, manifest.classes) == (
        "ragged",
        (9, 9, 3),
        (("a",), ("b",)),
    )
    assert prepare("photos", tmp_path / "data", source=tmp_path, crop=8).image_shape == (8, 8, 3)
    register("stars", read_photos)
    with pytest.raises(
        DataError, match="returns ImageFiles must be registered with a shorter_side and a crop"
    ):
        prepare("stars", tmp_path / "data", source=tmp_path)


def test_a_taken_name_is_refused_but_the_same_function_may_come_again() -> None:
    register("stars", read_stars)
    register("stars", read_stars, crop_padding=1)
    assert DATA_SETS["stars"].crop_padding == 1
    with pytest.raises(
        UserError, match="there is a data set 'cifar10' already; register yours under another name"
    ):
        register("cifar10", read_stars)
    with pytest.raises(UserError, match="'Stars' cannot name a data set"):
        register("Stars", read_stars)
    with pytest.raises(UserError, match="go together"):
        register("photos", read_stars, crop=8)
