"""Commands about data sets: prepare, list, verify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from study.cli.console import out, print_table
from study.cli.options import DATA, DataOption, PluginOption, load_plugins
from study.records.paths import expanded

if TYPE_CHECKING:
    from dh2l.data import DataSet, Manifest

app = typer.Typer(no_args_is_help=True, help="Prepare, list and verify data sets.")


@app.command("prepare")
def prepare_data(
    name: Annotated[
        str, typer.Argument(help="digits, cifar10, cifar100, cub200, cars, or a name for your own.")
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PATH",
            parser=expanded,
            help="Official files or archive, or folders train|test/<super-class>/<class>/*.",
        ),
    ] = None,
    data: DataOption = DATA,
    plugin: PluginOption = None,
    size: Annotated[int | None, typer.Option(min=1, help="Resize images to SIZE × SIZE.")] = None,
    shorter_side: Annotated[
        int | None,
        typer.Option(min=1, help="Keep images' proportions; resize their shorter side to this."),
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=1, help="Then, cut CROP × CROP out of them [7/8 of it].")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Augment by mirroring.")
    ] = None,
    crop_padding: Annotated[
        int | None, typer.Option(min=0, help="Augment by crops after this padding.")
    ] = None,
    plant: Annotated[
        list[str] | None,
        typer.Option(
            "--planted",
            metavar="KEY=VALUE",
            help="A planted hierarchy, e.g. branching=[4,5]; no images needed.",
        ),
    ] = None,
) -> None:
    """Prepare a data set once, so that trials only map it into memory."""
    from dh2l.data import Planted, prepare, register_planted
    from study.spec.study_file import parse_key_values

    load_plugins(plugin)
    if plant:
        register_planted(name, Planted.parse(parse_key_values("--planted", plant, "noise=30")))
    manifest = prepare(
        name, data, source=source, size=size, shorter_side=shorter_side, crop=crop, flip=flip,
        crop_padding=crop_padding,
        report=lambda line: out.print(line, markup=False),
    )  # fmt: skip
    out.print(_describe(manifest))


@app.command("list")
def list_data(data: DataOption = DATA, plugin: PluginOption = None) -> None:
    """List the prepared data sets, and the commands that prepare the others."""
    from dh2l.data import DATA_SETS, prepared

    load_plugins(plugin)
    found = prepared(data)
    for manifest in found:
        out.print(_describe(manifest), markup=False)
    table = Table("not prepared", "origin", "data prepare ...", box=None, pad_edge=False)
    done = {manifest.name for manifest in found}
    for name, known in DATA_SETS.items():
        if name not in done:
            table.add_row(name, *map(escape, _how(name, known)))
    table.add_row("your own", "a folder for each class", "NAME --from FOLDER")
    print_table(table)


def _how(name: str, known: "DataSet") -> tuple[str, str]:
    """Give the origin of a data set's images, and the end of the command that prepares it."""
    if known.comes_with:
        return f"{known.comes_with}; prepared when it is needed", name
    if known.downloads:
        return "download, or files that you have", f"{name} [--from FILES]"
    return "files that you have", f"{name} --from FILES"


@app.command("verify")
def verify_data(name: str, data: DataOption = DATA) -> None:
    """Rehash a prepared data set against its manifest."""
    from dh2l.data import verify

    out.print(f"sound: {_describe(verify(name, data))}")


def _describe(manifest: "Manifest") -> str:
    height, width, channels = manifest.image_shape
    tree = manifest.tree
    levels = " → ".join(str(tree.size(level)) for level in range(1, tree.depth + 1))
    out_of = ", cut out of images of many sizes" if manifest.stored == "ragged" else ""
    converted = ", ".join(f"{n:,} by {rule}" for rule, n in manifest.converted.items())
    mean, std = (" ".join(f"{v:.4f}" for v in values) for values in (manifest.mean, manifest.std))
    return (
        f"{manifest.name}: {manifest.n_train} training and {manifest.n_test} test images of "
        f"{height}×{width}×{channels}{out_of}, classes {levels}, mean {mean}, std {std}, hash "
        f"{manifest.data_hash[:12]}" + (f", converted: {converted}" if converted else "")
    )
