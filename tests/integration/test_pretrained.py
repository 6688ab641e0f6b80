"""Ready-made weights: their hash in the identity, what fits a backbone and what does not,
ImageNet's statistics.
"""

import hashlib
import os
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sphere_oracle import UNBALANCED
from tiny_data import H, numbers, prepared, run, tiny, tiny_config
from torch import Tensor

from dh2l.config.binding import channel_statistics, weights_hash, with_weights_hash
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.models.network import build_network
from dh2l.registry.entries import MODELS
from dh2l.training.numeric_settings import numeric_settings
from dh2l.training.training_state import Training

State = dict[str, Tensor]
CPU = torch.device("cpu")


def backbone(config: TrainConfig) -> State:
    """Initial state of a config's backbone."""
    return build_network(config, UNBALANCED, (8, 8, 3)).backbone.state_dict()


def other(model: str = "resnet20") -> State:
    """The backbone of another seed than the tests' configs have."""
    return backbone(tiny_config(model=model, seed=1))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the weights of `other`."""
    torch.save(other(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def refusal(config: TrainConfig) -> str:
    with pytest.raises(UserError) as refused:
        backbone(config)
    return str(refused.value)


# What is loaded.


WRAPPED = {
    "parallel": "module.",
    "compiled": "_orig_mod.",
    "compiled in parallel": "module._orig_mod.",
    "parallel, compiled": "_orig_mod.module.",
}


@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
@pytest.mark.parametrize(
    "form",
    [
        *("bare", "state_dict", "model", "with a classifier", "old"),
        *("parallel", "compiled", "compiled in parallel", "parallel, compiled", "compiled in part"),
    ],
)
def test_a_backbone_starts_from_a_file_of_its_weights(
    model: str, form: str, tmp_path: Path
) -> None:
    state = other(model)
    content: dict[str, Any] = dict(state)
    if form in ("state_dict", "model"):
        content = {form: content, "epoch": 3}
    elif form in WRAPPED:
        content = {f"{WRAPPED[form]}{key}": value for key, value in content.items()}
    elif form == "compiled in part":  # some modules alone
        content = {key.replace("bn1.", "bn1._orig_mod."): value for key, value in content.items()}
    elif form == "with a classifier":
        content |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    elif form == "old":  # of the time before batch norm counted its batches
        content = {
            key: value for key, value in content.items() if not key.endswith("num_batches_tracked")
        }
    torch.save(content, tmp_path / "weights.pt")
    config = tiny_config(model=model, weights=str(tmp_path / "weights.pt"), **H)
    network = build_network(config, UNBALANCED, (8, 8, 3))
    found = network.backbone.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    drawn = build_network(tiny_config(model=model, **H), UNBALANCED, (8, 8, 3))
    assert not torch.equal(network.conv_weights()[0], drawn.conv_weights()[0])
    assert torch.equal(network.classifier.spheres().weight, drawn.classifier.spheres().weight)


def test_a_backbones_own_layer_called_fc_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_: object) -> torch.nn.Module:
        made = torch.nn.Sequential()
        made.append(torch.nn.Flatten()).add_module("fc", torch.nn.Linear(192, 5))
        made.n_features = 5  # type: ignore[assignment]
        return made

    monkeypatch.setitem(MODELS, "mine", type(MODELS["resnet20"])("mine", build))
    state = backbone(tiny_config(model="mine", seed=1))
    torch.save(state, tmp_path / "weights.pt")
    found = backbone(tiny_config(model="mine", weights=str(tmp_path / "weights.pt")))
    assert found.keys() == {"fc.weight", "fc.bias"}
    assert torch.equal(found["fc.weight"], state["fc.weight"])
    torch.save({"fc.bias": state["fc.bias"]}, tmp_path / "weights.pt")
    assert refusal(tiny_config(model="mine", weights=str(tmp_path / "weights.pt"))).endswith(
        "missing: fc.weight"
    )


def test_weights_that_do_not_fit_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = other()
    for key in [key for key in state if key.startswith("blocks.8.")][:8]:
        del state[key]
    state |= {"head.weight": torch.zeros(1), "bn.weight": torch.zeros(3)}
    torch.save(state, path)
    assert refusal(tiny_config(weights=str(path))) == (
        f"the weights {path} do not fit the model resnet20: missing: blocks.8.conv1.weight, "
        "blocks.8.bn1.weight, "
        "blocks.8.bn1.bias and 4 more; unexpected: head.weight; of another shape: bn.weight (3,) "
        "instead of (16,)"
    )
    torch.save({"conv.weight": torch.zeros(2)}, path)
    assert refusal(tiny_config(model="resnet18", weights=str(path))).startswith(
        f"the weights {path} do not fit the model resnet18: missing: conv1.weight, bn1.weight, "
        "bn1.bias and 97 more; "
        "unexpected: conv.weight"
    )


class Harmful:
    """Unpickling it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return os.mkdir, (self.folder,)


def test_a_file_that_could_run_code_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"conv.weight": Harmful(tmp_path / "harm")}, tmp_path / "weights.pt")
    assert refusal(tiny_config(weights=str(tmp_path / "weights.pt"))) == (
        f"the weights {tmp_path}/weights.pt cannot be read: damaged, or more than tensors, which "
        "is not loaded since "
        "it could run code; save a state dict by torch.save(model.state_dict(), PATH)"
    )
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(1000), b"PK\x03\x04 not a zip", b"\x80\x02."]
)
def test_a_damaged_file_is_refused_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    assert "weights.pt cannot be read: damaged, or " in refusal(
        tiny_config(weights=str(tmp_path / "weights.pt"))
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused_in_a_sentence(kept: float, zipped: bool, file: Path) -> None:
    """Files of torch's format and of its older one."""
    torch.save(other(), file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert "weights.pt cannot be read: damaged, or " in refusal(tiny_config(weights=str(file)))


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], torch.zeros(2), {"conv.weight": 3}, {1: torch.zeros(1)}]
)
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert refusal(tiny_config(weights=str(tmp_path / "weights.pt"))) == (
        f"the weights {tmp_path}/weights.pt hold no state dict, neither bare nor under state_dict "
        "or model; save one "
        "by torch.save(model.state_dict(), PATH)"
    )


# Their hash.


def test_a_files_hash_is_the_first_digits_of_its_sha256(file: Path) -> None:
    assert weights_hash("resnet20", str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    file.write_bytes(b"other")
    assert weights_hash("resnet20", str(file)) == hashlib.sha256(b"other").hexdigest()[:12]


def test_the_hash_and_not_the_place_of_a_file_is_in_the_identity(
    file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(file.read_bytes())
    here, there = (with_weights_hash(tiny_config(weights=str(path))) for path in (file, copy))
    assert here.weights_hash == weights_hash("resnet20", str(file))
    assert here.identity == there.identity != tiny_config().identity
    torch.save(other("resnet32"), copy)
    assert with_weights_hash(tiny_config(weights=str(copy))).identity != here.identity


def test_a_config_without_weights_keeps_its_identity() -> None:
    assert with_weights_hash(tiny_config()) == tiny_config()


def test_imagenets_hash_is_in_the_name_of_torchvisions_file() -> None:
    import torchvision

    for name, enum in (("resnet18", "ResNet18_Weights"), ("resnet50", "ResNet50_Weights")):
        known = weights_hash(name, "imagenet")
        assert torchvision.models.get_weight(f"{enum}.IMAGENET1K_V1").url.endswith(
            f"{name}-{known}.pth"
        )


def test_a_model_without_named_weights_says_which_have_them() -> None:
    with pytest.raises(UserError) as refused:
        with_weights_hash(tiny_config(weights="imagenet"))
    assert str(refused.value) == (
        "the model resnet20 has no weights 'imagenet': resnet18 and resnet50 have; choose one of "
        "these, or give a file "
        "of a state dict"
    )


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"the weights 'imagnet' cannot be read \(No such file or directory\); give im",
    ):
        with_weights_hash(tiny_config(model="resnet18", weights="imagnet"))
    with pytest.raises(
        UserError, match=r"cannot be read \(it is no regular file\); give the path of a state dict"
    ):
        with_weights_hash(tiny_config(weights=str(tmp_path)))


@pytest.mark.parametrize("weights", ["/dev/zero", "a\0b", "~nobody-of-this-name/w.pt"])
def test_weights_that_no_file_can_be_are_told(weights: str) -> None:
    with pytest.raises(UserError, match=r"the weights .* cannot be read"):
        with_weights_hash(tiny_config(weights=weights))


def test_weights_that_changed_since_planning_are_refused(file: Path) -> None:
    config = with_weights_hash(tiny_config(weights=str(file)))
    planned = config.weights_hash
    torch.save(other("resnet32"), file)
    now = weights_hash("resnet20", str(file))
    sentence = (
        f"the weights {file} have changed since this trial was planned (hash {now} instead of "
        f"{planned}); plan again, "
        "or put the file back"
    )
    assert refusal(config) == sentence
    with pytest.raises(UserError) as refused:
        run(config)
    assert str(refused.value) == sentence


def test_training_from_weights_fills_their_hash_in_and_is_another_trial(
    file: Path, tmp_path: Path
) -> None:
    config = tiny_config(weights=str(file))
    plain, first = run(tiny_config())[1], run(config, checkpoints=tmp_path / "half")[1]
    assert numbers(first) != numbers(plain)
    assert numbers(run(with_weights_hash(config), checkpoints=tmp_path / "half")[1]) == numbers(
        first
    )


def test_planning_with_weights_loads_no_torch(file: Path) -> None:
    code = (
        "import sys; from dh2l.config.train_config import TrainConfig; from dh2l.config.binding "
        "import with_weights_hash; "
        f"print(with_weights_hash(TrainConfig(weights={str(file)!r})).weights_hash, 'torch' in "
        "sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{weights_hash('resnet20', str(file))} False\n"


# ImageNet's.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of torch.hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_where_imagenets_weights_cannot_be_downloaded_the_message_says_what_to_put_where(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    assert refusal(tiny_config(model="resnet18", weights="imagenet")) == (
        "the ImageNet weights of resnet18 cannot be downloaded (<urlopen error no network>); get "
        f"https://download.pytorch.org/models/resnet18-f37072fd.pth elsewhere and put it at "
        f"{hub}/resnet18-f37072fd.pth, where torch looks for it"
    )


def test_a_damaged_download_is_not_trained_from(hub: Path) -> None:
    hub.mkdir(parents=True)
    torch.save(other("resnet18"), hub / "resnet18-f37072fd.pth")
    assert refusal(tiny_config(model="resnet18", weights="imagenet")) == (
        f"the file {hub}/resnet18-f37072fd.pth is damaged or another than "
        "https://download.pytorch.org/models/resnet18-f37072fd.pth; delete it, and run again"
    )


def test_named_weights_are_taken_from_torchs_folder(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the hash of a file made here, for want of ImageNet's."""
    hub.mkdir(parents=True)
    path, state = hub / "resnet18-f37072fd.pth", other("resnet18")
    torch.save(state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(MODELS["resnet18"].weights, "imagenet", digits)
    found = backbone(tiny_config(model="resnet18", weights="imagenet"))
    assert all(torch.equal(found[key], state[key]) for key in state)


# The images' statistics.


@pytest.mark.parametrize(
    ("values", "imagenet"),
    [
        ({}, False),
        ({"statistics": "imagenet"}, True),
        ({"model": "resnet18", "weights": "imagenet"}, True),
        ({"model": "resnet18", "weights": "imagenet", "statistics": "data"}, False),
        ({"weights": "weights.pt"}, False),
    ],
)
def test_images_are_normalised_by_what_the_weights_were_trained_on(
    values: dict[str, Any], imagenet: bool
) -> None:
    manifest = tiny().manifest
    expected = (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        if imagenet
        else (manifest.mean, manifest.std)
    )
    assert channel_statistics(tiny_config(**values), manifest) == expected


def test_training_normalises_by_them() -> None:
    config = tiny_config(statistics="imagenet")
    with numeric_settings(config, 1):
        training = Training(config, tiny(), CPU)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (tiny().train_x[:2] / 255 - mean) / std
    found = training.normalise(torch.from_numpy(tiny().train_x[:2])).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_imagenets_statistics_need_three_channels() -> None:
    data = tiny()
    arrays = {"train_x": data.train_x[..., :1], "test_x": data.test_x[..., :1]}
    grey = prepared(UNBALANCED, arrays | {"train_y": data.train_y, "test_y": data.test_y})
    with pytest.raises(UserError) as refused:
        run(tiny_config(statistics="imagenet"), grey)
    assert str(refused.value) == (
        "ImageNet's statistics are of 3 channels, but the images of tiny have 1; set statistics: "
        "data"
    )
