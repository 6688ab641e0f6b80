"""Facts that a node reports about itself.

Does not import Ray. `study.doctor.findings` judges the facts.
"""

import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dh2l.data import load, verify
from dh2l.errors import UserError, first_line
from dh2l.io.files import AnyPath, list_files
from study.records import provenance
from study.records.paths import Places

OTHER_FOLDER = "is not the driver's folder"
"""Problem of a results folder in which the node does not find the driver's marker file."""


@dataclass(frozen=True)
class NodeQuery:
    """Request for the facts of one node.

    Attributes:
        paths: the folders of results and data, as the driver sees them.
        datasets: the data sets that must be prepared.
        node: the node's name in the answer.
        ray_folder: the folder to which Ray writes on the node; None without Ray.
        gpus: the number of GPUs that Ray reports for the node; None without Ray.
        marker: a file that the driver left in the results folder; None if it left none.
        verify_data: whether to read every byte of the data sets, not only the sizes of their files.
    """

    paths: Places
    datasets: tuple[str, ...]
    node: str
    ray_folder: Path | None = None
    gpus: float | None = None
    marker: str | None = None
    verify_data: bool = True


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it; memory in bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Disk:
    """The disk that holds a folder; sizes in bytes."""

    folder: Path
    free: int
    total: int


@dataclass(frozen=True)
class NodeFacts:
    """Facts that a node reports about itself.

    Attributes:
        versions: versions of Python and of the packages on which numbers and workers depend.
        commit: commit of the code on the node; None if it is not a checkout.
        dirty: whether the code differs from its commit.
        hashes: hashes of the valid prepared data sets, by name.
        data_problems: problems of the other data sets, by name.
        disks: disks of the folders that a run writes to: results, Ray.
        gpus: the GPUs that torch sees, or a sentence if torch fails.
        results: the problem of the results folder, or an empty text.
        token_on: whether Ray requires a token.
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


def collect_facts(query: NodeQuery) -> NodeFacts:
    """Collect the facts of this machine."""
    hashes, problems = _data(query)
    commit, dirty = provenance.commit()
    return NodeFacts(
        versions=provenance.versions() | {"ray": metadata.version("ray")},
        commit=commit,
        dirty=dirty,
        hashes=hashes,
        data_problems=problems,
        disks=_disks({"results": query.paths.results, "Ray": query.ray_folder}),
        gpus=_gpus(query),
        results=_results(query),
        token_on=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    )


def _data(query: NodeQuery) -> tuple[dict[str, str], dict[str, str]]:
    """Return the hashes of the valid data sets, and the problems of the others, by name."""
    hashes: dict[str, str] = {}
    problems: dict[str, str] = {}
    data = query.paths.data
    for name in query.datasets:
        try:
            manifest = verify(name, data) if query.verify_data else load(name, data).manifest
            hashes[name] = manifest.data_hash
        except UserError as error:
            problems[name] = str(error)
    return hashes, problems


def _disks(folders: dict[str, AnyPath | None]) -> dict[str, Disk]:
    disks: dict[str, Disk] = {}
    for name, folder in folders.items():
        disk = _disk(folder)
        if disk is not None:
            disks[name] = disk
    return disks


def _disk(folder: AnyPath | None) -> Disk | None:
    """Return the disk that holds a folder or its nearest existing parent.

    Return None without a folder, and for an object store.
    """
    if not isinstance(folder, Path):
        return None
    for existing in (folder, *folder.parents):
        try:
            usage = shutil.disk_usage(existing)
        except OSError:
            continue
        return Disk(folder, usage.free, usage.total)
    return None


def _gpus(query: NodeQuery) -> tuple[Gpu, ...] | str:
    """Return the GPUs that torch sees, or a sentence if torch fails."""
    if not query.gpus and not any(map(shutil.which, ("nvidia-smi", "rocm-smi"))):
        return ()  # Loading torch takes seconds, and it would see no GPU either.
    import torch

    try:
        devices = range(torch.cuda.device_count())
        return tuple(
            Gpu(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in devices
        )
    except RuntimeError as error:
        return first_line(error)


def _results(query: NodeQuery) -> str:
    """Return the problem of the results folder, or an empty text.

    Without the driver's marker it is another folder, and nothing is written to it.
    """
    try:
        if query.marker and not list_files(query.paths.results, query.marker):
            return OTHER_FOLDER
        query.paths.require_writable()
    except (UserError, OSError) as error:
        return str(error)
    return ""
