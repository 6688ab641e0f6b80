"""What a study needs of a machine, looked at where it would run. Needs no Ray; `study.diagnosis` judges it."""

import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dh2l.atomic import AnyPath, files
from dh2l.data import load
from dh2l.errors import UserError, first_line
from study import provenance
from study.places import Places

ELSEWHERE = "is another folder than the driver's"


@dataclass(frozen=True)
class Asked:
    """What a machine is asked.

    Attributes:
        places: where results and data lie, as the driver sees them.
        datasets: the data sets that must be prepared.
        node: the machine's name in the answer.
        ray_folder: where Ray writes there; None where no Ray runs.
        gpus: how many GPUs Ray says that it has; None where no Ray was asked.
        note: what the driver has left among the results, to be found there; None where it left nothing.
    """

    places: Places
    datasets: tuple[str, ...]
    node: str
    ray_folder: Path | None = None
    gpus: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it; memory in bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Disk:
    """The disk under a folder; in bytes."""

    folder: Path
    free: int
    total: int


@dataclass(frozen=True)
class Facts:
    """What a machine found of itself.

    Attributes:
        versions: of Python and of what numbers and workers depend on.
        commit: of the code that runs there; None where it is no checkout.
        dirty: whether that code differs from its commit.
        hashes: of the data sets that are prepared and sound at a glance, by name.
        data_problems: what is wrong with the others.
        disks: under the folders that are written: results, Ray.
        gpus: what torch sees; a sentence where it fails.
        results: what is wrong with the place of results; empty where nothing is.
        token_on: whether Ray asks for a token.
    """

    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    hashes: dict[str, str]
    data_problems: dict[str, str]
    disks: dict[str, Disk]
    gpus: tuple[Gpu, ...] | str
    results: str
    token_on: bool


def look(asked: Asked) -> Facts:
    """Look at this machine."""
    hashes, problems = {}, {}
    for name in asked.datasets:
        try:
            hashes[name] = load(name, asked.places.data).manifest.data_hash
        except UserError as error:
            problems[name] = str(error)
    folders = {"results": asked.places.results, "Ray": asked.ray_folder}
    commit, dirty = provenance.commit()
    return Facts(
        versions=provenance.versions() | {"ray": metadata.version("ray")},
        commit=commit,
        dirty=dirty,
        hashes=hashes,
        data_problems=problems,
        disks={name: disk for name, folder in folders.items() if folder and (disk := _disk(folder))},
        gpus=_gpus(asked),
        results=_results(asked),
        token_on=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    )


def _disk(folder: AnyPath) -> Disk | None:
    """The disk under a folder, or under the one in which it will be made; None for an object store."""
    if not isinstance(folder, Path):
        return None
    for there in (folder, *folder.parents):
        try:
            usage = shutil.disk_usage(there)
        except OSError:
            continue
        return Disk(folder, usage.free, usage.total)
    return None


def _gpus(asked: Asked) -> tuple[Gpu, ...] | str:
    if not asked.gpus and not any(map(shutil.which, ("nvidia-smi", "rocm-smi"))):
        return ()  # torch takes seconds to load, only to say the same
    import torch

    try:
        devices = range(torch.cuda.device_count())
        return tuple(Gpu(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in devices)
    except RuntimeError as error:
        return first_line(error)


def _results(asked: Asked) -> str:
    """Nothing is written where the driver's note is not: that is not the driver's folder."""
    try:
        if asked.note and not files(asked.places.results, asked.note):
            return ELSEWHERE
        asked.places.require_writable()
    except (UserError, OSError) as error:
        return str(error)
    return ""
