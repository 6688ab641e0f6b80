"""Cost of E and H, and their share of a training step.

The sizes are all layers of resnet-110, a tree of 10,000 classes, and a resnet-20 step. Each is
compared with the form that one would write first: per layer (E) or per sphere (H), penalties of
that one matrix. And with the double loop over pairs, timed on a few pairs and multiplied up. The
metric is `cos_hm` throughout, which uses both the cosines and the sign codes.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.frame import (
    Curve,
    Measured,
    Row,
    at_least,
    at_most,
    compared,
    figure,
    measured_device,
    not_measured,
    paired,
)
from benchmarks.processes import ROOT, python, status_kib
from dh2l.config.train_config import TrainConfig
from dh2l.hierarchy.classifier import HierarchicalClassifier
from dh2l.hierarchy.regulariser import hierarchical_terms
from dh2l.models.network import build_network
from dh2l.pairwise.energy import Energy
from dh2l.training.allocator import retain_freed_memory
from dh2l.training.objective import Objective
from dh2l.training.optimizer import make_optimizer
from dh2l.tree import ClassTree

METRIC = "cos_hm"
BATCH = 512
N_CLASSES, PER_SUPER_CLASS = 10_000, 100
D = 64
LOOP_PAIRS = 40


class Sign(torch.autograd.Function):
    """sign with the saturated straight-through estimator, as it is usually written."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sign."""
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        """Return the gradient where |x| ≤ 1."""
        (x,) = ctx.saved_tensors
        slope: Tensor = grad[0] * (x.abs() <= 1)
        return slope


def penalty_of(cos: Tensor, h: Tensor) -> Tensor:
    """`cos_hm` (eq. 10) of cosines and agreements."""
    theta = cos.clamp(-0.99, 0.99).arccos() / math.pi
    phi = (1 - h) / 2
    return ((math.pi * 2 * phi * theta / (phi + theta)).cos() + 1) / 2


def direct(weight: Tensor) -> Tensor:
    """Mean penalty of the pairs of one layer's rows, directly."""
    W = weight.flatten(1)
    n, d = W.shape
    unit, code = functional.normalize(W, dim=1), Sign.apply(W)
    penalty = penalty_of(unit @ unit.T, code @ code.T / d)
    return penalty.triu(diagonal=1).sum() / (n * (n - 1) / 2)


def loop(W: Tensor, pairs: int) -> Tensor:
    """Compute the same, pair by pair, over the first few pairs."""
    total, done = W.new_zeros(()), 0
    for i in range(len(W)):
        for j in range(i):
            if done == pairs:
                return total
            cos = functional.cosine_similarity(W[i], W[j], dim=0)
            total = total + penalty_of(cos, (Sign.apply(W[i]) * Sign.apply(W[j])).mean())
            done += 1
    return total


def cifar_tree() -> ClassTree:
    """100 classes in 20 super-classes."""
    return ClassTree([(f"super{i // 5}", f"class{i}") for i in range(100)])


def convolutions(model: str, device: str) -> list[Tensor]:
    """Return a model's convolutions, laid out as in training."""
    config = TrainConfig(model=model)
    network = (
        build_network(config, cifar_tree(), (32, 32, 3))
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    return [*network.conv_weights()]


def large_tree(n_classes: int) -> ClassTree:
    """Classes in super-classes of 100."""
    return ClassTree([(f"super{i // PER_SUPER_CLASS}", f"class{i}") for i in range(n_classes)])


def large_classifier(n_classes: int, device: str) -> HierarchicalClassifier:
    """Make the hierarchical classifier of `large_tree`."""
    generator = torch.Generator().manual_seed(0)
    return HierarchicalClassifier(
        large_tree(n_classes), D, centres="learned", generator=generator
    ).to(device)


def energy_ways(device: str) -> dict[str, Callable[[], None]]:
    """E over all convolutions of resnet-110, forward and backward."""
    weights = convolutions("resnet110", device)
    energy = Energy(weights, METRIC)

    def ours() -> None:
        energy(weights).backward()  # type: ignore[no-untyped-call]
        _wait(device)

    def theirs() -> None:
        torch.stack([direct(weight) for weight in weights]).sum().backward()  # type: ignore[no-untyped-call]
        _wait(device)

    return {"ours": ours, "direct": theirs}


def hierarchy_ways(device: str, n_classes: int = N_CLASSES) -> dict[str, Callable[[], None]]:
    """R_p and R_c of a large tree, forward and backward."""
    classifier = large_classifier(n_classes, device)
    parent = torch.arange(n_classes, device=device) // PER_SUPER_CLASS

    def ours() -> None:
        terms = hierarchical_terms(classifier, classifier.spheres(), METRIC, seen=None)
        terms.weighted([0.1, 0.1]).backward()  # type: ignore[no-untyped-call]
        _wait(device)

    def theirs() -> None:
        surface, centre = classifier.surface["2"], classifier.centre["1"]
        W = surface - centre[parent]
        spheres = [W[k : k + PER_SUPER_CLASS] for k in range(0, n_classes, PER_SUPER_CLASS)]
        r_p = torch.stack([direct(sphere) for sphere in spheres]).mean()
        (0.1 * (r_p + direct(centre))).backward()  # type: ignore[no-untyped-call]
        _wait(device)

    return {"ours": ours, "direct": theirs}


WAYS = {"energy": energy_ways, "hierarchy": hierarchy_ways}


def measure(quick: bool) -> Measured:
    """Measure the rows of the GPU where there is one, else of the CPU."""
    device = measured_device()
    with retain_freed_memory():
        rows = _rows(device, 2 if quick else 15)
        curve = _curve(device, rounds=1 if quick else 3)
    if device == "cpu":
        rows += _absent()
    notes = [
        f"Metric {METRIC}, float32, one layer or sphere at a time for the direct form; CPU with "
        "one thread, as a "
        "trial has. The direct form has none of the library's guards (zero rows, infinite slopes, "
        "huge entries).",
        f"The double loop: {LOOP_PAIRS} pairs timed, multiplied up to all pairs.",
        "Peak memory: of a fresh process after one forward and backward, less the same process's "
        "before it.",
    ]
    return Measured(rows, curves=[curve], notes=notes)


def _rows(device: str, rounds: int) -> list[Row]:
    torch.set_num_threads(1)
    rows = []
    n_pairs = {"energy": sum(len(w) * (len(w) - 1) // 2 for w in convolutions("resnet110", device))}
    n_pairs["hierarchy"] = N_CLASSES * (PER_SUPER_CLASS - 1) // 2 + 100 * 99 // 2
    names = {
        "energy": "E over resnet-110's layers",
        "hierarchy": f"H on a tree of {N_CLASSES:,} classes",
    }
    for key, name in names.items():
        seconds = paired(WAYS[key](device), rounds, warm_up=2)
        speed = [1 / s for s in seconds["ours"]], [1 / s for s in seconds["direct"]]
        unit = "per layer" if key == "energy" else "per sphere"
        rows.append(
            compared(
                f"{name}, speed, {device}", f"direct form {unit}", *speed, unit="/s",
                aim=at_least(2 if device == "cpu" else 5), bound=_bound(key, device),
            )
        )  # fmt: skip
        rows.append(
            _against_loop(f"{name}, speed, {device}", seconds["ours"], n_pairs[key], device)
        )
        rows.append(_memory(key, f"{name}, peak memory, {device}", unit, device))
    rows.append(_share_of_step(device, max(2, rounds // 4)))
    return rows


def _bound(key: str, device: str) -> str:
    if device == "cuda":
        return "launches: a hundred small kernels, replayed within the step's graph in training"
    if key == "energy":
        return (
            "operations: half its time multiplies matrices, the other half arccos, cos and roots "
            "of all pairs at once"
        )
    return (
        "bytes: element-wise passes over the pairs of siblings; the direct form's matrices fit its "
        "cache as well"
    )


def _against_loop(name: str, ours: list[float], n_pairs: int, device: str) -> Row:
    W = torch.randn(64, 576, device=device, requires_grad=True)
    started = time.perf_counter()
    loop(W, LOOP_PAIRS).backward()  # type: ignore[no-untyped-call]
    _wait(device)
    per_pair = (time.perf_counter() - started) / LOOP_PAIRS
    theirs = [per_pair * n_pairs] * len(ours)
    speeds = [1 / s for s in ours], [1 / s for s in theirs]
    return compared(
        name, "double loop over pairs", *speeds, unit="/s", bound="of the loop: Python and launches"
    )


def _memory(key: str, name: str, unit: str, device: str) -> Row:
    """Peak memory of one forward and backward, each way in a fresh process."""
    found = {}
    for way in ("ours", "direct"):
        found[way] = [float(python(ROOT, "-m", "benchmarks.regularisers", key, way, device))]
    bound = "bytes: what the backward pass needs of each pair is kept for all layers at once"
    return compared(
        name, f"direct form {unit}", found["ours"], found["direct"], unit="MiB", bound=bound
    )


def _share_of_step(device: str, rounds: int) -> Row:
    """Compare E on the convolutions and H with the rest of a resnet-20 step at batch 512."""
    values = {
        "lambda_e": 0.1,
        "metric": METRIC,
        "classifier": "hierarchical",
        "lambda_l": 0.1,
        "dataset": "random",
    }
    config = TrainConfig.parse(values)
    network = (
        build_network(config, cifar_tree(), (32, 32, 3))
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    energy = Energy([*network.conv_weights()], METRIC)
    classifier, optimizer = network.classifier, make_optimizer(config, network)
    assert isinstance(classifier, HierarchicalClassifier)  # noqa: S101 as configured
    images = torch.randn(BATCH, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(100, (BATCH,), device=device)
    objective = Objective(TrainConfig(), network, cifar_tree())

    def regularisers() -> None:
        terms = hierarchical_terms(
            classifier, classifier.spheres(), METRIC, seen=classifier.seen_classes(labels)
        )
        (energy([*network.conv_weights()]) + terms.weighted([0.1, 0.1])).backward()  # type: ignore[no-untyped-call]
        _wait(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(images, labels).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        _wait(device)

    seconds = paired({"ours": regularisers, "step": step}, rounds, warm_up=2)
    return compared(
        f"E and H together, {device}", "a resnet-20 step at batch 512",
        seconds["ours"], seconds["step"],
        aim=at_most(0.02 if device == "cpu" else 0.05),
        bound="the step grows with the batch, the regularisers do not"
        if device == "cpu"
        else "launches: here neither is replayed; in training both lie in the step's graph",
    )  # fmt: skip


def _absent() -> list[Row]:
    """Return the GPU's rows for a machine without one."""
    rows = [
        not_measured(f"{name}, speed, cuda", "direct form", "no GPU", aim=at_least(5))
        for name in ("E over resnet-110's layers", f"H on a tree of {N_CLASSES:,} classes")
    ]
    return [
        *rows,
        not_measured(
            "E and H together, cuda", "a resnet-20 step at batch 512", "no GPU", aim=at_most(0.05)
        ),
    ]


def _curve(device: str, rounds: int) -> Curve:
    lines: dict[str, list[tuple[float, float]]] = {"in blocks": [], "per sphere": []}
    for n_classes in (100, 300, 1_000, 3_000, 10_000):
        seconds = paired(hierarchy_ways(device, n_classes), rounds)
        for name, way in (("in blocks", "ours"), ("per sphere", "direct")):
            lines[name].append((n_classes, 1e3 * min(seconds[way])))
    return Curve(
        "hierarchy",
        f"H, forward and backward, {device}",
        "classes, in super-classes of 100",
        "milliseconds",
        lines,
        True,
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak(key: str, way: str, device: str) -> float:
    """MiB that a way takes at its peak, in this process."""
    torch.set_num_threads(1)
    work = WAYS[key](device)[way]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="ascii"
    )  # Linux starts counting the peak anew
    before = status_kib("VmRSS")
    work()
    return (status_kib("VmHWM") - before) / 2**10


if __name__ == "__main__":
    print(figure(_peak(*sys.argv[1:])))
