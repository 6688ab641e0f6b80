"""Functions that run on every node of a Ray cluster."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dh2l.errors import first_line
from dh2l.plugins import Plugin
from study.execution.ray_backend.connection import cluster

PATIENCE_S = 300.0
"""Seconds to wait for nodes to join, if their number is given."""
ANSWER_S = 180.0
"""Seconds to wait for the answer of a node, which may load torch from a slow disk."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        name: its host name, and the first letters of its ID in Ray.
        ray_folder: folder in which Ray keeps its sessions there.
        gpus: number of GPUs that Ray has there.
    """

    name: str
    ray_folder: Path
    gpus: float


def run_on_every_node(
    function: Callable[[Node], Result],
    address: str,
    expected: int | None,
    plugins: tuple[Plugin, ...] = (),
) -> list[tuple[Node, Result | str]]:
    """Run a function once on each node.

    Args:
        function: called with its node; it must be picklable.
        address: address of the cluster.
        expected: number of nodes to wait for; None takes those that are there.
        plugins: users' code that nodes load first.

    Returns:
        Each node with the function's result, or with the reason why there is none.

    Raises:
        UserError: the cluster cannot be reached.
    """
    with cluster(address, patience_s=PATIENCE_S if expected else 0.0):
        deadline = time.monotonic() + PATIENCE_S
        nodes = _alive()
        while len(nodes) < (expected or 0) and time.monotonic() < deadline:
            time.sleep(0.5)
            nodes = _alive()
        task = ray.remote(num_cpus=0, max_retries=0)(_with_plugins)
        answers: dict[Any, Node] = {}
        for found in nodes:
            name = f"{found['NodeManagerHostname']} {found['NodeID'][:6]}"
            node = Node(name, _ray_folder(found), found["Resources"].get("GPU", 0.0))
            there = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
            answers[task.options(scheduling_strategy=there).remote(function, node, plugins)] = node
        ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)
        return [(node, _answer(answer)) for answer, node in answers.items()]


def _with_plugins(function: Callable[[Node], Any], node: Node, plugins: tuple[Plugin, ...]) -> Any:
    for plugin in plugins:
        plugin.load()
    return function(node)


def _alive() -> list[dict[str, Any]]:
    return sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: node["NodeManagerHostname"],
    )


def _ray_folder(node: dict[str, Any]) -> Path:
    """Return the folder where Ray keeps its sessions on a node: three above its sockets."""
    return Path(node["ObjectStoreSocketName"]).parents[2]


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"nothing within {ANSWER_S:.0f} s"
    except ray.exceptions.RayError as error:
        return first_line(getattr(error, "cause", None) or error)
