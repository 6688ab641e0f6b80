"""Commands about data sets: prepare, list, verify."""

from pathlib import Path
from typing import Annotated

import typer

from dh2l.data import Manifest
from study.cli.common import DATA, DataOption, PluginOption, load_plugins, out

app = typer.Typer(no_args_is_help=True, help="Prepare, list and verify data sets.")


@app.command("prepare")
def prepare_data(
    name: Annotated[str, typer.Argument(help="digits, cifar10, cifar100, cub200, cars, or a name for your own.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Official files or archive, or folders train|test/<super-class>/<class>/*."),
    ] = None,
    data: DataOption = DATA,
    plugin: PluginOption = None,
    size: Annotated[int | None, typer.Option(min=1, help="Resize images to SIZE × SIZE.")] = None,
    shorter_side: Annotated[
        int | None, typer.Option(min=1, help="Keep images' proportions; resize their shorter side to this.")
    ] = None,
    crop: Annotated[int | None, typer.Option(min=1, help="Then, cut CROP × CROP out of them [7/8 of it].")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Augment by mirroring.")] = None,
    crop_padding: Annotated[int | None, typer.Option(min=0, help="Augment by crops after this padding.")] = None,
    plant: Annotated[
        list[str] | None,
        typer.Option(
            "--planted", metavar="KEY=VALUE", help="A planted hierarchy, e.g. branching=[4,5]; no images needed."
        ),
    ] = None,
) -> None:
    """Prepare a data set once, so that trials only map it into memory."""
    from dh2l.data import Planted, prepare, register_planted
    from study.studyfile import key_values

    load_plugins(plugin)
    if plant:
        register_planted(name, Planted.parse(key_values("--planted", plant, "noise=30")))
    manifest = prepare(
        name, data, source=source, size=size, shorter_side=shorter_side, crop=crop, flip=flip,
        crop_padding=crop_padding,
        report=lambda line: out.print(line, markup=False),
    )  # fmt: skip
    out.print(_describe(manifest))


@app.command("list")
def list_data(data: DataOption = DATA) -> None:
    """List the prepared data sets."""
    from dh2l.data import prepared

    for manifest in prepared(data):
        out.print(_describe(manifest))


@app.command("verify")
def verify_data(name: str, data: DataOption = DATA) -> None:
    """Rehash a prepared data set against its manifest."""
    from dh2l.data import verify

    out.print(f"sound: {_describe(verify(name, data))}")


def _describe(manifest: Manifest) -> str:
    height, width, channels = manifest.image_shape
    tree = manifest.tree
    levels = " → ".join(str(tree.size(level)) for level in range(1, tree.depth + 1))
    out_of = ", cut out of images of many sizes" if manifest.stored == "ragged" else ""
    mean, std = (" ".join(f"{v:.4f}" for v in values) for values in (manifest.mean, manifest.std))
    return (
        f"{manifest.name}: {manifest.n_train} training and {manifest.n_test} test images of "
        f"{height}×{width}×{channels}{out_of}, classes {levels}, mean {mean}, std {std}, hash {manifest.data_hash[:12]}"
    )
