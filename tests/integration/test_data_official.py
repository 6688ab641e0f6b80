"""CUB200-2011 and Stanford Cars in their official layouts, with made-up images."""

import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import cars_classes, cub_classes, write_cars, write_cars_folders, write_cub
from scipy.io import loadmat, savemat
from study_fixtures import CommandLine

from dh2l.data import Manifest, load, prepare, prepared
from dh2l.data.sources.archives import unpack
from dh2l.data.sources.cars import body_type, read_cars
from dh2l.data.sources.cub import super_class
from dh2l.errors import DataError


@pytest.fixture(scope="session")
def cub_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout of CUB200-2011, to read only."""
    return write_cub(tmp_path_factory.mktemp("cub"))


@pytest.fixture(scope="session")
def cars_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout of Stanford Cars, to read only."""
    return write_cars(tmp_path_factory.mktemp("cars"), cars_classes())


@pytest.fixture
def cub(cub_layout: Path, tmp_path: Path) -> Path:
    """A copy of the layout, to be changed."""
    return Path(shutil.copytree(cub_layout, tmp_path / "CUB_200_2011"))


@pytest.fixture
def cars(cars_layout: Path, tmp_path: Path) -> Path:
    """A copy of the layout, to be changed."""
    return Path(shutil.copytree(cars_layout, tmp_path / "cars"))


def small(name: str, root: Path, source: Path, said: list[str] | None = None) -> Manifest:
    return prepare(
        name,
        root,
        source=source,
        shorter_side=10,
        crop=8,
        report=said.append if said is not None else lambda _: None,
    )


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("001.Black_footed_Albatross", "Albatross"),
        ("010.Red_winged_Blackbird", "Blackbird"),
        ("110.Geococcyx", "Geococcyx"),
        ("022.Chuck_will_Widow", "Widow"),
    ],
)
def test_the_super_class_of_a_bird_is_the_last_word_of_its_name(name: str, word: str) -> None:
    assert super_class(name) == word


def test_cub_has_200_classes_in_70_groups(cub_layout: Path, tmp_path: Path) -> None:
    said: list[str] = []
    manifest = small("cub200", tmp_path, cub_layout, said)
    assert [manifest.tree.size(level) for level in (1, 2)] == [70, 200]
    assert sorted(manifest.classes) == sorted((super_class(name), name) for name in cub_classes())
    assert (manifest.n_train, manifest.n_test, manifest.image_shape) == (200, 200, (8, 8, 3))
    assert (manifest.stored, manifest.flip, manifest.crop_padding) == ("ragged", True, 0)
    part = (
        "a part of the official files of CUB-200-2011: 200 training and 200 test images, not 5,994 "
        "and 5,794"
    )
    assert f"this is {part}" in said
    assert manifest.source.endswith(", a part of them: 200 training and 200 test images")


def test_a_subset_whose_lists_were_cut_is_what_it_says(cub: Path, tmp_path: Path) -> None:
    for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt"):
        lines = (cub / name).read_text().splitlines()
        extra = {
            "images.txt": lines[0].split()[1],
            "image_class_labels.txt": "1",
            "train_test_split.txt": "1",
        }[name]
        (cub / name).write_text("\n".join([*lines, f"401 {extra}"]))
    assert small("cub200", tmp_path / "data", cub).n_train == 201


def test_the_archive_the_folder_and_what_holds_them_give_the_same_data(
    cub_layout: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "held" / "CUB_200_2011.tgz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cub_layout, "CUB_200_2011")
        tar.add(cub_layout / "classes.txt", "../outside.txt")
        tar.add(cub_layout / "classes.txt", "CUB_200_2011/images/../../classes.jpg")
    sources = (cub_layout, cub_layout.parent, archive, archive.parent)
    found = [small("cub200", tmp_path / str(i), source) for i, source in enumerate(sources)]
    assert len({(manifest.data_hash, manifest.tree_hash) for manifest in found}) == 1
    assert sorted(path.name for path in (tmp_path / "2").rglob("*") if path.is_dir()) == [
        "cub200",
        "downloads",
    ]
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "classes.txt",
            "Ani",
            "Gull",
            r"cub200 means 200 classes whose names end with 70 words, .* 200 classes with 69;",
        ),
        ("images.txt", "\n9 ", "\n10 ", r"images.txt has the same number twice"),
        ("images.txt", "\n9 ", "\nnine ", r"images.txt has the line 'nine 00"),
        (
            "image_class_labels.txt",
            "1 1\n",
            "",
            r"do not list the same images .*\(400, 399 and 400\)",
        ),
        (
            "image_class_labels.txt",
            "1 1\n",
            "1 201\n",
            r"the image 1 .* has the class '201' and the split '1'",
        ),
        (
            "train_test_split.txt",
            "1 1\n",
            "1 0\n",
            r"name no training image of 001.Black_footed_Albatross",
        ),
        (
            "train_test_split.txt",
            "1 1\n",
            "1 2\n",
            r"the image 1 .* has the class '1' and the split '2'",
        ),
    ],
)
def test_a_list_that_cannot_be_is_named(
    file: str, old: str, new: str, message: str, cub: Path, tmp_path: Path
) -> None:
    text = (cub / file).read_text()
    assert old in text
    (cub / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        small("cub200", tmp_path / "data", cub)
    assert prepared(tmp_path / "data") == []


def test_what_is_missing_of_cub_is_named(cub: Path, tmp_path: Path) -> None:
    images = sorted((cub / "images").rglob("*.jpg"))
    images[0].unlink()
    images[1].write_bytes(b"no image")
    with pytest.raises(
        DataError,
        match=rf"^2 of 400 images cannot be used: {images[0]} is missing; {images[1]} is not",
    ):
        small("cub200", tmp_path / "data", cub)
    shutil.rmtree(cub / "images")
    with pytest.raises(
        DataError, match=r"has the lists of cub200, but no folder images/; unpack all of CUB_200"
    ):
        small("cub200", tmp_path / "data", cub)
    (cub / "images.txt").unlink()
    with pytest.raises(
        DataError, match=r"holds no cub200; --from takes the official archive CUB_200_2011.tgz,"
    ):
        small("cub200", tmp_path / "data", cub)
    (tmp_path / "CUB_200_2011.tgz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cannot be read as a .tar.gz archive"):
        small("cub200", tmp_path / "data", tmp_path / "CUB_200_2011.tgz")


def test_a_download_that_fails_says_where_to_get_cub_and_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(DataError) as error:
        prepare("cub200", tmp_path)
    assert str(error.value) == (
        "cub200 could not be downloaded from "
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz (no "
        "route to host); get it another way and type: dh2l-study data prepare cub200 --from PATH, "
        "where PATH is the "
        "official archive CUB_200_2011.tgz, the folder that it unpacks to, or the folder that "
        "holds either"
    )


def test_every_car_has_one_of_nine_types() -> None:
    types = Counter(body_type(name) for name in cars_classes())
    assert types == {
        "Sedan": 50, "SUV": 35, "Coupe": 33, "Convertible": 26, "Pickup": 18, "Hatchback": 14, "Van": 7, "Wagon": 7,
        "Minivan": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Dodge Ram Pickup 3500 WorkerPool Cab 2010", "Pickup"),
        ("Ford E-Series Wagon Van 2012", "Van"),
        ("Ram C/V Cargo Van Minivan 2012", "Minivan"),
        ("Ford Ranger SuperCab 2011", "Pickup"),
        ("Chevrolet HHR SS 2010", "Wagon"),
    ],
)
def test_the_type_of_a_car_is_its_last_whole_type_word_or_stands_in_the_table(
    name: str, kind: str
) -> None:
    assert body_type(name) == kind


def test_a_car_of_no_known_type_is_said_with_the_nearest_name() -> None:
    with pytest.raises(
        DataError, match=r"'Buick Regal GT 2012' says no type of car; .* mean 'Buick Regal GS 2012'"
    ):
        body_type("Buick Regal GT 2012")


def test_the_official_files_of_cars_and_labels_as_folders_give_the_same_data(
    cars_layout: Path, tmp_path: Path
) -> None:
    folders = write_cars_folders(tmp_path / "kaggle" / "car_data" / "car_data", cars_classes())
    nested = Path(shutil.copytree(cars_layout, tmp_path / "nested"))
    (nested / "car_devkit").mkdir()
    (nested / "devkit").rename(nested / "car_devkit" / "devkit")
    (nested / "cars_train").rename(nested / "moved")
    (nested / "cars_train").mkdir()
    (nested / "moved").rename(nested / "cars_train" / "cars_train")
    said: list[str] = []
    sources = (cars_layout, nested, folders, tmp_path / "kaggle")
    found = [small("cars", tmp_path / str(i), source, said) for i, source in enumerate(sources)]
    assert len({(manifest.data_hash, manifest.tree_hash) for manifest in found}) == 1
    assert ("Minivan", "Ram C/V Cargo Van Minivan 2012") in found[2].classes
    assert [found[0].tree.size(level) for level in (1, 2)] == [9, 196]
    assert (found[0].n_train, found[0].n_test) == (196, 196)
    assert found[0].source.startswith("the official files of Stanford Cars, a part of them: 196 ")
    assert found[2].source.startswith("Stanford Cars as folders, a part of them: 196 ")
    assert sum(line.endswith("not 8,144 and 8,041") for line in said) == 4


def test_the_first_devkit_has_no_test_labels_which_is_said(cars: Path, tmp_path: Path) -> None:
    (cars / "cars_test_annos_withlabels.mat").rename(cars / "devkit" / "cars_test_annos.mat")
    with pytest.raises(DataError) as error:
        small("cars", tmp_path / "data", cars)
    assert str(error.value) == (
        f"the labels of the test images are missing below {cars}: the devkit's "
        "cars_test_annos.mat has none. They come "
        "in a file of their own, cars_test_annos_withlabels.mat, which was published beside the "
        "devkit; put it into "
        f"{cars}/devkit and type: dh2l-study data prepare cars --from {cars}"
    )


def test_cars_cannot_be_downloaded_which_is_said(cli: CommandLine, tmp_path: Path) -> None:
    message = cli.mistake("data", "prepare", "cars", "--data", tmp_path, placed=False)
    assert message.startswith(
        "cars cannot be downloaded: the official page, ai.stanford.edu/~jkrause/cars/"
    )
    assert message.endswith("; then type: dh2l-study data prepare cars --from PATH")
    with pytest.raises(DataError, match="cars needs its images: the official page"):
        read_cars(None, tmp_path, print)


def test_what_is_wrong_with_the_files_of_cars_is_named(cars: Path, tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            small("cars", tmp_path / "data", cars)

    shutil.rmtree(cars / "cars_test")
    refused(rf"{cars} has no folder cars_test/ with images")
    annotations = cars / "devkit" / "cars_train_annos.mat"
    rows = loadmat(annotations, squeeze_me=True)["annotations"]
    savemat(annotations, {"annotations": rows[1:]})
    refused(
        r"cars_train_annos.mat names no image of 'AM General Hummer SUV 2000', but every class needs one"
    )
    rows[0]["class"] = 197
    savemat(annotations, {"annotations": rows})
    refused(r"cars_train_annos.mat gives 00001.jpg the class 197, but .*cars_meta.mat has 196")
    savemat(annotations, {"annotations": np.array([(1,)], dtype=[("class", "O")])})
    refused(r"cars_train_annos.mat has no class or fname for each image")
    annotations.write_bytes(b"no MATLAB file")
    refused(r"cars_train_annos.mat is missing or no MATLAB file with annotations")
    shutil.rmtree(cars / "devkit")
    refused(rf"{cars} holds no cars, neither cars_meta.mat nor train/ and test/: the official page")


def test_cars_means_196_classes(tmp_path: Path) -> None:
    source = write_cars_folders(tmp_path / "few", cars_classes()[:5])
    with pytest.raises(
        DataError,
        match=r"cars means 196 classes of 9 types, but .* has 5 classes of 2; prepare it as",
    ):
        small("cars", tmp_path / "data", source)


def test_the_command_prepares_cub_at_a_smaller_size(
    cli: CommandLine, cub_layout: Path, tmp_path: Path
) -> None:
    where = ("--data", tmp_path / "data")
    sizes = ("--shorter-side", 12, "--crop", 10)
    code, text, _ = cli(
        "data", "prepare", "cub200", "--from", cub_layout, *sizes, *where, placed=False
    )
    assert code == 0
    assert (
        "cub200: 200 training and 200 test images of 10×10×3, cut out of images of many sizes, "
        "classes 70 → 200" in text
    )
    data = load("cub200", tmp_path / "data")
    assert data.train_size is not None
    assert set(data.train_size.min(axis=1)) == {12}


def test_an_unpacking_that_was_killed_goes_on(cub_layout: Path, tmp_path: Path) -> None:
    archive = tmp_path / "c.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cub_layout / "classes.txt", "CUB_200_2011/classes.txt")
        tar.add(cub_layout / "images.txt", "CUB_200_2011/images.txt")
    wanted = re.compile(r"CUB_200_2011/.*")
    unpack(archive, tmp_path, wanted, lambda _: None)
    whole, cut = tmp_path / "CUB_200_2011" / "classes.txt", tmp_path / "CUB_200_2011" / "images.txt"
    assert abs(whole.stat().st_mtime - (cub_layout / "classes.txt").stat().st_mtime) < 1
    whole.write_bytes(marked := b"x" * whole.stat().st_size)
    cut.write_bytes(cut.read_bytes()[:-1])
    unpack(archive, tmp_path, wanted, lambda _: None)
    assert whole.read_bytes() == marked
    assert cut.read_bytes() == (cub_layout / "images.txt").read_bytes()
    cut.unlink()
    cut.mkdir()
    with pytest.raises(DataError, match=rf"{cut} cannot be written \(Is a directory\)"):
        unpack(archive, tmp_path, wanted, lambda _: None)
