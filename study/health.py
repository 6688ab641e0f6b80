"""What a study needs of a machine: looked at where it would run, judged by the driver. Needs no Ray."""

import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from dh2l.data import DATA_SETS, load
from dh2l.errors import UserError, first_line
from study import provenance
from study.places import Places

Outcome = Literal["ok", "warning", "failed"]
CHECKS = ("answers", "versions", "code", "data", "disk", "GPUs", "results", "token", "MLflow")
"""The columns of the doctor's table."""
SAME = ("python", "torch", "torchvision", "ray", "numpy", "dh2l-study")
"""What must have the driver's version everywhere."""
LEAST_FREE = 1 << 30
"""Bytes without which the results folder counts as full."""
LEAST_SHARE = 0.05
"""Ray puts nothing more on a disk with less than this share free."""
ELSEWHERE = "is another folder than the driver's"


@dataclass(frozen=True)
class Asked:
    """What a machine is asked.

    Attributes:
        places: where results and data lie, as the driver sees them.
        datasets: the data sets that must be prepared.
        token: what the driver wrote into its probe.
        node: the machine's name in the table.
        ray_folder: where Ray writes there; None where no Ray runs.
        gpus: how many GPUs Ray says that it has.
    """

    places: Places
    datasets: tuple[str, ...]
    token: str
    node: str
    ray_folder: Path | None = None
    gpus: float = 0.0

    @property
    def probe(self) -> Path:
        """The driver's probe, in the results folder."""
        return self.places.results / f".probe-{self.token}"

    @property
    def answer(self) -> Path:
        """This machine's answer, beside the probe."""
        return self.places.results / f".probe-{self.token}-{self.node.replace('/', '-')}"


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it; memory in bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Disk:
    """Where a folder lies; in bytes."""

    free: int
    total: int


@dataclass(frozen=True)
class Facts:
    """What a machine found of itself.

    Attributes:
        versions: of `SAME`, as installed.
        commit: of the code that runs there; None where it is no checkout.
        dirty: whether that code differs from its commit.
        hashes: of the data sets that are prepared and sound at a glance, by name.
        data_problems: what is wrong with the others.
        disks: free space where results, data and Ray's files lie.
        gpus: what torch sees; a sentence where it fails.
        results: what is wrong with the results folder; empty where nothing is.
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


@dataclass(frozen=True)
class Finding:
    """One cell of the doctor's table: what was found, and where it is not well the sentence with its remedy."""

    node: str
    check: str
    outcome: Outcome
    found: str
    problem: str = ""


def look(asked: Asked) -> Facts:
    """Look at this machine."""
    hashes, problems = {}, {}
    for name in asked.datasets:
        try:
            hashes[name] = load(name, asked.places.data).manifest.data_hash
        except UserError as error:
            problems[name] = str(error)
    folders = {"results": asked.places.results, "data": asked.places.data, "Ray": asked.ray_folder}
    commit, dirty = provenance.commit()
    return Facts(
        versions=_versions(),
        commit=commit,
        dirty=dirty,
        hashes=hashes,
        data_problems=problems,
        disks={name: disk for name, folder in folders.items() if folder and (disk := _disk(folder))},
        gpus=_gpus(asked.gpus),
        results=_answered(asked),
        token_on=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    )


def _versions() -> dict[str, str]:
    found = dict(provenance.versions())
    for name in set(SAME) - set(found):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {name: found[name] for name in SAME}


def _disk(folder: Path) -> Disk | None:
    for there in (folder, *folder.parents):
        try:
            usage = shutil.disk_usage(there)
        except OSError:  # not made yet: its parent's disk
            continue
        return Disk(usage.free, usage.total)
    return None


def _gpus(expected: float) -> tuple[Gpu, ...] | str:
    if not expected and not shutil.which("nvidia-smi"):
        return ()  # torch takes seconds to load, only to say the same
    import torch

    try:
        devices = range(torch.cuda.device_count())
        return tuple(Gpu(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in devices)
    except RuntimeError as error:
        return first_line(error)


def _answered(asked: Asked) -> str:
    """Leave an answer beside the driver's probe, if this machine sees that. What is wrong, or nothing."""
    try:
        asked.answer.write_bytes(asked.token.encode())
        if asked.probe.exists() and asked.probe.read_bytes() == asked.token.encode():
            return ""
        asked.answer.unlink()
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ELSEWHERE


def judge_driver(facts: Facts, asked: Asked) -> list[Finding]:
    """What to say of the driver itself; nodes are compared with it."""
    said = _Said(asked.node)
    said.ok("versions", f"torch {facts.versions['torch']}")
    said.code(facts)
    said.data(facts, asked)
    said.disks(facts, asked)
    said.results(facts, asked)
    return said.findings


def judge_node(facts: Facts, asked: Asked, driver: Facts, *, answered: bool) -> list[Finding]:
    """What to say of a node.

    Args:
        facts: what it found.
        asked: what it was asked.
        driver: what the driver found of itself.
        answered: whether the driver sees the node's answer in the results folder.
    """
    said = _Said(asked.node)
    said.ok("answers", "yes")
    others = [f"{k} {v} (driver: {driver.versions[k]})" for k, v in facts.versions.items() if v != driver.versions[k]]
    if others:
        said.failed("versions", others[0], f"other versions: {', '.join(others)}; install the driver's there")
    else:
        said.ok("versions", "as the driver's")
    said.code(facts, driver)
    said.data(facts, asked, driver)
    said.disks(facts, asked)
    said.gpus(facts, asked)
    said.results(facts, asked, answered=answered)
    said.token(facts)
    return said.findings


def no_answer(node: str, reason: str) -> Finding:
    """What to say of a node that could not be asked."""
    remedy = "install this project there in the driver's version, and see that the node is up"
    return Finding(node, "answers", "failed", "no", f"it cannot be asked: {reason}; {remedy}")


def tracking(node: str, store: str, problem: str) -> Finding:
    """What to say of the MLflow store, which the driver alone writes."""
    if not problem:
        return Finding(node, "MLflow", "ok", store)
    remedy = "start that server or mend MLFLOW_TRACKING_URI, or run with --no-mlflow and `mlflow sync` later"
    return Finding(node, "MLflow", "failed", "no", f"{problem}; {remedy}")


class _Said:
    """The findings of one machine, as they come."""

    def __init__(self, node: str) -> None:
        self.node, self.findings = node, list[Finding]()

    def ok(self, check: str, found: str) -> None:
        self.findings.append(Finding(self.node, check, "ok", found))

    def warning(self, check: str, found: str, problem: str) -> None:
        self.findings.append(Finding(self.node, check, "warning", found, problem))

    def failed(self, check: str, found: str, problem: str) -> None:
        self.findings.append(Finding(self.node, check, "failed", found, problem))

    def code(self, facts: Facts, driver: Facts | None = None) -> None:
        mine, theirs = (f.commit[:8] if f and f.commit else None for f in (facts, driver))
        if driver and facts.commit != driver.commit:
            found, other = mine or "no checkout", theirs or "no checkout"
            problem = f"its code is another: {found}, but the driver's {other}; bring both to the same commit or wheel"
            self.failed("code", found, problem)
        elif facts.dirty:
            problem = f"its code differs from commit {mine}, and records will say so; commit the changes before long runs"
            self.warning("code", f"{mine}, changed", problem)
        else:
            self.ok("code", mine or "installed")

    def data(self, facts: Facts, asked: Asked, driver: Facts | None = None) -> None:
        if not asked.datasets:
            self.warning("data", "none", f"nothing is prepared under {asked.places.data}; see `dh2l-study data prepare`")
            return
        folder, lacking, problems = asked.places.data, list[str](), list[str]()
        for name in asked.datasets:
            problem = facts.data_problems.get(name, "")
            if driver and name not in driver.hashes:
                continue  # said of the driver; a node cannot have more
            if problem and name in DATA_SETS and DATA_SETS[name].comes_with and not (folder / name).exists() and not driver:
                lacking.append(name)
            elif problem and driver:
                remedy = f"let {folder} be a folder that every node sees, or prepare {name} on the node too"
                problems.append(f"{name} cannot be read there ({problem.partition(';')[0]}); {remedy}")
            elif problem:
                problems.append(problem)
            elif driver and facts.hashes[name] != driver.hashes[name]:
                remedy = f"copy the driver's {folder / name} there"
                hashes = f"hash {facts.hashes[name][:12]}, the driver's {driver.hashes[name][:12]}"
                problems.append(f"{name} is another data set there ({hashes}); {remedy}")
        if problems:
            self.failed("data", f"{len(problems)} of {len(asked.datasets)} unusable", "; ".join(problems))
        elif lacking:
            self.warning("data", "not yet", f"{', '.join(lacking)} is not prepared yet; the first run does that by itself")
        else:
            self.ok("data", ", ".join(name for name in asked.datasets if name in facts.hashes) or "as the driver's")

    def disks(self, facts: Facts, asked: Asked) -> None:
        free = ", ".join(f"{name} {disk.free >> 30} GiB" for name, disk in facts.disks.items())
        results, ray = facts.disks.get("results"), facts.disks.get("Ray")
        if results and results.free < LEAST_FREE:
            where = asked.places.results
            self.failed("disk", free, f"less than 1 GiB is free under {where}; make room, or give another --results")
        elif ray and ray.free < LEAST_SHARE * ray.total:
            remedy = "make room, or start Ray there with another --temp-dir"
            problem = f"less than {LEAST_SHARE:.0%} is free under {asked.ray_folder}, where Ray stops writing; {remedy}"
            self.failed("disk", free, problem)
        else:
            self.ok("disk", free)

    def gpus(self, facts: Facts, asked: Asked) -> None:
        remedy = "start Ray there with the right --num-gpus and CUDA_VISIBLE_DEVICES, and a torch built for its driver"
        if isinstance(facts.gpus, str):
            self.failed("GPUs", "error", f"torch cannot use its GPUs ({facts.gpus}); {remedy}")
            return
        kinds = dict.fromkeys(gpu.name for gpu in facts.gpus)
        free, total = (sum(sizes) / 2**30 for sizes in ([g.free for g in facts.gpus], [g.total for g in facts.gpus]))
        found = f"{len(facts.gpus)} × {', '.join(kinds)}, {free:.0f} of {total:.0f} GiB free" if kinds else "none"
        if len(facts.gpus) == asked.gpus:
            self.ok("GPUs", found)
        elif len(facts.gpus) > asked.gpus:
            said = f"torch sees {len(facts.gpus)} GPUs, but Ray gives trials only {asked.gpus:g} of them"
            self.warning("GPUs", found, f"{said}; {remedy}")
        else:
            self.failed("GPUs", found, f"Ray says {asked.gpus:g} GPUs, but torch sees {len(facts.gpus)}; {remedy}")

    def results(self, facts: Facts, asked: Asked, *, answered: bool = True) -> None:
        where, problem = asked.places.results, facts.results or ("" if answered else ELSEWHERE)
        if problem == ELSEWHERE:
            remedy = "give a --results that every node sees under the same path"
            self.failed("results", "another folder", f"{where} {ELSEWHERE}; {remedy}")
        elif problem:
            remedy = "mend its permissions there, or give another --results"
            self.failed("results", "not writable", f"{where} {problem}; {remedy}")
        else:
            self.ok("results", "shared")

    def token(self, facts: Facts) -> None:
        if facts.token_on:
            self.ok("token", "on")
        else:
            problem = "whoever reaches its ports can run code; start Ray with RAY_AUTH_MODE=token and a token file"
            self.warning("token", "off", problem)


def host() -> str:
    """What this machine calls itself."""
    return socket.gethostname()


def worst(findings: list[Finding]) -> Outcome:
    """The worst outcome of all."""
    rank: Mapping[str, int] = {"ok": 0, "warning": 1, "failed": 2}
    return max((finding.outcome for finding in findings), key=rank.__getitem__, default="ok")
