"""Problems of the driver and its cluster's nodes, each with its remedy."""

from dataclasses import dataclass
from typing import Literal

from dh2l.data import DATA_SETS
from dh2l.wording import counted
from study.doctor.facts import OTHER_FOLDER, Gpu, NodeFacts, NodeQuery

Severity = Literal["ok", "warning", "failed"]
CHECKS = ("answers", "versions", "commit", "data", "disk", "GPUs", "results", "token", "MLflow")
"""The columns of the doctor's table."""
MIN_FREE_BYTES = 1 << 30
"""Free space that the disk of the results must have."""
MIN_FREE_FRACTION = 0.05
"""Ray stops writing to a disk with a smaller free fraction."""
MIN_FREE_GPU_FRACTION = 0.5
"""A GPU with a smaller fraction of free memory is in use by another process."""

_GPU_REMEDY = (
    "start Ray on the node with the right --num-gpus and CUDA_VISIBLE_DEVICES, and install a torch "
    "that was built for its driver"
)


@dataclass(frozen=True)
class Finding:
    """One cell of the doctor's table.

    Attributes:
        node: the name of the machine.
        check: the column.
        severity: the result of the check; a warning does not stop a study.
        found: a summary in a few words.
        problem: a sentence with its remedy; empty if the check is ok.
    """

    node: str
    check: str
    severity: Severity
    found: str
    problem: str = ""


def diagnose_node(
    facts: NodeFacts, query: NodeQuery, driver: NodeFacts | None = None
) -> list[Finding]:
    """Judge the facts of a node.

    Args:
        facts: the facts of the node.
        query: the request that the node answered.
        driver: the facts of the driver, for a node of its cluster; None for the driver.
    """
    findings = [
        _versions(facts, query, driver),
        _commit(facts, query, driver),
        _data(facts, query, driver),
        _disk(facts, query),
        _results(facts, query),
        _gpus(facts, query),
    ]
    if driver is None and query.gpus is None:
        return findings
    return [Finding(query.node, "answers", "ok", "yes"), *findings, _token(facts, query)]


def unreachable_node(node: str, reason: str) -> Finding:
    """Return the finding about a node that gave no answer."""
    remedy = "install the driver's version of this project on the node, and check that it is up"
    return Finding(node, "answers", "failed", "no", f"it does not answer: {reason}; {remedy}")


def missing_nodes(node: str, found: int, expected: int) -> Finding:
    """Return the finding about a cluster that fewer nodes have joined than expected."""
    problem = (
        f"{found} of {expected} nodes have joined; check the output of `ray start` on the others"
    )
    return Finding(node, "answers", "failed", f"{found} of {expected} nodes", problem)


def diagnose_tracking(node: str, store: str, problem: str) -> Finding:
    """Judge the MLflow store, to which only the driver writes."""
    if not problem:
        return Finding(node, "MLflow", "ok", store)
    remedy = (
        "start that server, correct MLFLOW_TRACKING_URI, or run with --no-mlflow and "
        "`dh2l-study mlflow sync` later"
    )
    return Finding(node, "MLflow", "failed", "no", f"{problem}; {remedy}")


def worst_severity(findings: list[Finding]) -> Severity:
    """Return the worst severity of all findings."""
    severities: tuple[Severity, ...] = ("failed", "warning", "ok")
    present = {finding.severity for finding in findings}
    return next((severity for severity in severities if severity in present), "ok")


def _versions(facts: NodeFacts, query: NodeQuery, driver: NodeFacts | None) -> Finding:
    expected = (driver or facts).versions
    different = sorted(
        name
        for name in expected.keys() | facts.versions.keys()
        if expected.get(name) != facts.versions.get(name)
    )
    if not different:
        main = [name for name in ("python", "torch", "ray") if name in expected]
        found = ", ".join(f"{name} {facts.versions[name]}" for name in main)
        return Finding(query.node, "versions", "ok", found)
    differences = [
        f"{name} {facts.versions.get(name, 'missing')} (driver: {expected.get(name, 'missing')})"
        for name in different
    ]
    problem = (
        f"its versions are not the driver's: {', '.join(differences)}; "
        "install the driver's versions on the node"
    )
    return Finding(query.node, "versions", "failed", differences[0], problem)


def _commit(facts: NodeFacts, query: NodeQuery, driver: NodeFacts | None) -> Finding:
    here, expected = (_short(f.commit) for f in (facts, driver or facts))
    if here != expected:
        problem = (
            f"its code is {here}, but the driver's {expected}; "
            "bring both to the same commit or the same wheel"
        )
        return Finding(query.node, "commit", "failed", here, problem)
    if facts.dirty:
        problem = (
            f"its code differs from commit {here}, which records will note; "
            "commit the changes before a long run"
        )
        return Finding(query.node, "commit", "warning", f"{here}, changed", problem)
    return Finding(query.node, "commit", "ok", here)


def _short(commit: str | None) -> str:
    return commit[:8] if commit else "no checkout"


def _data(facts: NodeFacts, query: NodeQuery, driver: NodeFacts | None) -> Finding:
    if driver is None:
        unprepared = [name for name in query.datasets if _is_made_by_first_run(name, facts, query)]
        problems = [text for name, text in facts.data_problems.items() if name not in unprepared]
    else:
        unprepared = []
        found = (_node_data_problem(name, facts, query, driver) for name in query.datasets)
        problems = [problem for problem in found if problem]
    if problems:
        summary = f"{len(problems)} of {len(query.datasets)} bad"
        return Finding(query.node, "data", "failed", summary, "; ".join(problems))
    if unprepared:
        problem = f"{', '.join(unprepared)} is not prepared yet; the first run will prepare it"
        return Finding(query.node, "data", "warning", "not yet", problem)
    names = ", ".join(facts.hashes) or "none"
    sizes_only = facts.hashes and not query.verify_data
    return Finding(query.node, "data", "ok", f"{names}, sizes only" if sizes_only else names)


def _is_made_by_first_run(name: str, facts: NodeFacts, query: NodeQuery) -> bool:
    """Return whether a data set is not prepared yet and needs no download."""
    if name not in facts.data_problems or (query.paths.data / name).exists():
        return False
    return name in DATA_SETS and bool(DATA_SETS[name].comes_with)


def _node_data_problem(name: str, facts: NodeFacts, query: NodeQuery, driver: NodeFacts) -> str:
    """Return the problem of a data set on a node, or an empty text.

    A problem that the driver has too is reported for the driver only.
    """
    if name in driver.data_problems:
        return ""
    folder = query.paths.data
    problem, data_hash = facts.data_problems.get(name), facts.hashes.get(name)
    if problem:
        return (
            f"{name} cannot be read on the node ({problem.partition(';')[0]}); use a {folder} that "
            f"every node sees, or prepare {name} on the node too"
        )
    if data_hash == driver.hashes[name]:
        return ""
    return (
        f"{name} is another data set on the node (hash {str(data_hash)[:12]}, "
        f"the driver's {driver.hashes[name][:12]}); copy the driver's {folder / name} to the node"
    )


def _disk(facts: NodeFacts, query: NodeQuery) -> Finding:
    sizes = [f"{name} {disk.free >> 30} GiB" for name, disk in facts.disks.items()]
    found = ", ".join(sizes) or "none needed"
    results, ray = facts.disks.get("results"), facts.disks.get("Ray")
    problem = ""
    if results and results.free < MIN_FREE_BYTES:
        problem = (
            f"less than 1 GiB is free under {results.folder}; make room, or pass another --results"
        )
    elif ray and ray.free < MIN_FREE_FRACTION * ray.total:
        problem = (
            f"less than {MIN_FREE_FRACTION:.0%} is free under {ray.folder}, so Ray stops writing "
            "to it; make room, or start Ray on the node with another --temp-dir"
        )
    return Finding(query.node, "disk", "failed" if problem else "ok", found, problem)


def _gpus(facts: NodeFacts, query: NodeQuery) -> Finding:
    if isinstance(facts.gpus, str):
        problem = f"torch cannot use its GPUs ({facts.gpus}); {_GPU_REMEDY}"
        return Finding(query.node, "GPUs", "failed", "error", problem)
    severity, problem = _gpu_problem(facts.gpus, query.gpus)
    return Finding(query.node, "GPUs", severity, _gpu_summary(facts.gpus), problem)


def _gpu_summary(gpus: tuple[Gpu, ...]) -> str:
    if not gpus:
        return "none"
    kinds = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    free, total = sum(gpu.free for gpu in gpus) / 2**30, sum(gpu.total for gpu in gpus) / 2**30
    return f"{len(gpus)} × {kinds}, {free:.0f} of {total:.0f} GiB free"


def _gpu_problem(gpus: tuple[Gpu, ...], expected: float | None) -> tuple[Severity, str]:
    """Return severity and problem of the GPUs that torch sees, of those that Ray reports."""
    if expected is not None and len(gpus) < expected:
        problem = f"Ray reports {counted(expected, 'GPU')}, but torch sees {len(gpus)}"
        return "failed", f"{problem}; {_GPU_REMEDY}"
    if expected is not None and len(gpus) > expected:
        seen = counted(len(gpus), "GPU")
        return "warning", f"torch sees {seen}, but Ray uses only {expected:g}; {_GPU_REMEDY}"
    if any(gpu.free < MIN_FREE_GPU_FRACTION * gpu.total for gpu in gpus):
        return "warning", (
            "less than half of a GPU's memory is free; end the process that uses it, or remove the "
            "GPU from those of Ray"
        )
    return "ok", ""


def _results(facts: NodeFacts, query: NodeQuery) -> Finding:
    if facts.results == OTHER_FOLDER:
        problem = (
            f"{query.paths.results} {OTHER_FOLDER}; pass a --results that every node sees under "
            "the same path, or one in an object store"
        )
        return Finding(query.node, "results", "failed", "another folder", problem)
    if facts.results:
        return Finding(query.node, "results", "failed", "not writable", facts.results)
    return Finding(query.node, "results", "ok", "writable")


def _token(facts: NodeFacts, query: NodeQuery) -> Finding:
    if facts.token_on:
        return Finding(query.node, "token", "ok", "on")
    problem = (
        "everyone who reaches its ports can run code on it; start Ray with RAY_AUTH_MODE=token and "
        "a token file"
    )
    return Finding(query.node, "token", "warning", "off", problem)
