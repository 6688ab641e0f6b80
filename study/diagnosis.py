"""What a driver says of itself and of the nodes of its cluster: every finding, and for what is not well the remedy."""

from dataclasses import dataclass
from typing import Literal

from dh2l.data import DATA_SETS
from study.health import ELSEWHERE, Asked, Facts

Outcome = Literal["ok", "warning", "failed"]
CHECKS = ("answers", "versions", "commit", "data", "disk", "GPUs", "results", "token", "MLflow")
"""The columns of the doctor's table."""
LEAST_FREE = 1 << 30
"""Bytes without which the disk of the results counts as full."""
LEAST_SHARE = 0.05
"""Ray puts nothing more on a disk with less than this share free."""
MOSTLY = 0.5
"""A GPU with less than this share of its memory free is used by somebody else."""


@dataclass(frozen=True)
class Finding:
    """One cell of the doctor's table.

    Attributes:
        node: which machine.
        check: which column.
        outcome: whether it is well; a warning stops no study.
        found: what was found, in some words.
        problem: a sentence with its remedy, where it is not well.
    """

    node: str
    check: str
    outcome: Outcome
    found: str
    problem: str = ""


def of_machine(facts: Facts, asked: Asked, driver: Facts | None = None) -> list[Finding]:
    """What to say of a machine.

    Args:
        facts: what it found of itself.
        asked: what it was asked.
        driver: what the driver found of itself, for a node of its cluster; None for the driver.
    """
    findings = [_versions(facts, asked, driver), _commit(facts, asked, driver), _data(facts, asked, driver)]
    findings += [_disk(facts, asked), _results(facts, asked)]
    if driver is None and asked.gpus is None:
        return [*findings, _gpus(facts, asked)]
    return [Finding(asked.node, "answers", "ok", "yes"), *findings, _gpus(facts, asked), _token(facts, asked)]


def of_silence(node: str, reason: str) -> Finding:
    """What to say of a node that gave no answer."""
    remedy = "install the driver's version of this project there, and see that the node is up"
    return Finding(node, "answers", "failed", "no", f"it does not answer: {reason}; {remedy}")


def of_absence(node: str, found: int, expected: int) -> Finding:
    """What to say where fewer nodes have joined a cluster than were expected."""
    problem = f"{found} of {expected} nodes have joined; see the output of `ray start` on the others"
    return Finding(node, "answers", "failed", f"{found} of {expected} nodes", problem)


def of_tracking(node: str, store: str, problem: str) -> Finding:
    """What to say of the MLflow store, which the driver alone writes."""
    if not problem:
        return Finding(node, "MLflow", "ok", store)
    remedy = "start that server, mend MLFLOW_TRACKING_URI, or run with --no-mlflow and `dh2l-study mlflow sync` later"
    return Finding(node, "MLflow", "failed", "no", f"{problem}; {remedy}")


def worst(findings: list[Finding]) -> Outcome:
    """The worst outcome of all."""
    outcomes: tuple[Outcome, ...] = ("failed", "warning", "ok")
    return next((o for o in outcomes if any(finding.outcome == o for finding in findings)), "ok")


def _versions(facts: Facts, asked: Asked, driver: Facts | None) -> Finding:
    wanted = (driver or facts).versions
    names = sorted(
        name for name in wanted.keys() | facts.versions.keys() if wanted.get(name) != facts.versions.get(name)
    )
    if not names:
        shown = ", ".join(f"{name} {facts.versions[name]}" for name in ("python", "torch", "ray") if name in wanted)
        return Finding(asked.node, "versions", "ok", shown)
    others = [f"{name} {facts.versions.get(name, 'missing')} (driver: {wanted.get(name, 'missing')})" for name in names]
    problem = f"other versions than the driver's: {', '.join(others)}; install the driver's there"
    return Finding(asked.node, "versions", "failed", others[0], problem)


def _commit(facts: Facts, asked: Asked, driver: Facts | None) -> Finding:
    mine, wanted = (_short(f.commit) for f in (facts, driver or facts))
    if mine != wanted:
        problem = f"its code is {mine}, but the driver's {wanted}; bring both to the same commit, or the same wheel"
        return Finding(asked.node, "commit", "failed", mine, problem)
    if facts.dirty:
        problem = f"its code differs from commit {mine}, and records will say so; commit the changes before a long run"
        return Finding(asked.node, "commit", "warning", f"{mine}, changed", problem)
    return Finding(asked.node, "commit", "ok", mine)


def _short(commit: str | None) -> str:
    return commit[:8] if commit else "no checkout"


def _data(facts: Facts, asked: Asked, driver: Facts | None) -> Finding:
    folder, unmade, problems = asked.places.data, list[str](), list[str]()
    for name in asked.datasets:
        problem, hash_ = facts.data_problems.get(name), facts.hashes.get(name)
        if driver and name in driver.data_problems:
            continue  # a node needs no more than the driver, which is told
        if problem and not driver and name in DATA_SETS and DATA_SETS[name].comes_with and not (folder / name).exists():
            unmade.append(name)
        elif problem and driver:
            remedy = f"let {folder} be a folder that every node sees, or prepare {name} on the node too"
            problems.append(f"{name} cannot be read there ({problem.partition(';')[0]}); {remedy}")
        elif problem:
            problems.append(problem)
        elif driver and hash_ != driver.hashes[name]:
            hashes = f"hash {str(hash_)[:12]}, the driver's {driver.hashes[name][:12]}"
            problems.append(f"{name} is another data set there ({hashes}); copy the driver's {folder / name} there")
    if problems:
        return Finding(
            asked.node, "data", "failed", f"{len(problems)} of {len(asked.datasets)} bad", "; ".join(problems)
        )
    if unmade:
        problem = f"{', '.join(unmade)} is not prepared yet; the first run does that by itself"
        return Finding(asked.node, "data", "warning", "not yet", problem)
    return Finding(asked.node, "data", "ok", ", ".join(facts.hashes) or "none")


def _disk(facts: Facts, asked: Asked) -> Finding:
    found = ", ".join(f"{name} {disk.free >> 30} GiB" for name, disk in facts.disks.items()) or "none needed"
    for name, disk in facts.disks.items():
        if name == "results" and disk.free < LEAST_FREE:
            problem = f"less than 1 GiB is free under {disk.folder}; make room, or give another --results"
        elif name == "Ray" and disk.free < LEAST_SHARE * disk.total:
            remedy = "make room, or start Ray there with another --temp-dir"
            problem = f"less than {LEAST_SHARE:.0%} is free under {disk.folder}, where Ray then stops writing; {remedy}"
        else:
            continue
        return Finding(asked.node, "disk", "failed", found, problem)
    return Finding(asked.node, "disk", "ok", found)


def _gpus(facts: Facts, asked: Asked) -> Finding:
    remedy = "start Ray there with the right --num-gpus and CUDA_VISIBLE_DEVICES, and a torch built for its driver"
    if isinstance(facts.gpus, str):
        problem = f"torch cannot use its GPUs ({facts.gpus}); {remedy}"
        return Finding(asked.node, "GPUs", "failed", "error", problem)
    kinds = dict.fromkeys(gpu.name for gpu in facts.gpus)
    free, total = (sum(sizes) / 2**30 for sizes in ([g.free for g in facts.gpus], [g.total for g in facts.gpus]))
    found = f"{len(facts.gpus)} × {', '.join(kinds)}, {free:.0f} of {total:.0f} GiB free" if kinds else "none"
    if asked.gpus is not None and len(facts.gpus) < asked.gpus:
        problem = f"Ray says {asked.gpus:g} GPUs, but torch sees {len(facts.gpus)}; {remedy}"
        return Finding(asked.node, "GPUs", "failed", found, problem)
    if asked.gpus is not None and len(facts.gpus) > asked.gpus:
        problem = f"torch sees {len(facts.gpus)} GPUs, but Ray gives trials {asked.gpus:g} of them; {remedy}"
        return Finding(asked.node, "GPUs", "warning", found, problem)
    if any(gpu.free < MOSTLY * gpu.total for gpu in facts.gpus):
        problem = "less than half of a GPU's memory is free; end what else uses it, or leave it out of Ray's GPUs"
        return Finding(asked.node, "GPUs", "warning", found, problem)
    return Finding(asked.node, "GPUs", "ok", found)


def _results(facts: Facts, asked: Asked) -> Finding:
    if facts.results == ELSEWHERE:
        remedy = "give a --results that every node sees under the same path, or a place in an object store"
        problem = f"{asked.places.results} {ELSEWHERE}; {remedy}"
        return Finding(asked.node, "results", "failed", "another folder", problem)
    if facts.results:
        return Finding(asked.node, "results", "failed", "not writable", facts.results)
    return Finding(asked.node, "results", "ok", "writable")


def _token(facts: Facts, asked: Asked) -> Finding:
    if facts.token_on:
        return Finding(asked.node, "token", "ok", "on")
    problem = "whoever reaches its ports can run code there; start Ray with RAY_AUTH_MODE=token and a token file"
    return Finding(asked.node, "token", "warning", "off", problem)
