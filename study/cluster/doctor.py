"""Asks every node of a cluster what a study needs of it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dh2l.errors import first_line
from dh2l.plugins import Plugin
from study.cluster.connection import cluster
from study.health import Asked, Facts, look

PATIENCE_S = 300.0
"""How long nodes may take to join where their number is given."""
ANSWER_S = 180.0
"""How long a node may take to answer: it may load torch from a slow disk."""


def ask_nodes(
    asked: Asked, address: str, expected: int | None, plugins: tuple[Plugin, ...] = ()
) -> list[tuple[Asked, Facts | str]]:
    """What each node was asked, and what it found; a sentence where it gave no answer.

    Args:
        asked: what to ask; each node gets its own name, Ray folder and GPUs filled in.
        address: of the cluster.
        expected: how many nodes to wait for; None takes those that are there.
        plugins: users' code that nodes load.

    Raises:
        UserError: the cluster cannot be reached.
    """
    with cluster(address, patience_s=PATIENCE_S if expected else 0.0):
        deadline = time.monotonic() + PATIENCE_S
        while len(nodes := _alive()) < (expected or 0) and time.monotonic() < deadline:
            time.sleep(0.5)
        task = ray.remote(num_cpus=0, max_retries=0)(_look)
        answers: dict[Any, Asked] = {}
        for node in nodes:
            own = replace(
                asked,
                node=f"{node['NodeManagerHostname']} {node['NodeID'][:6]}",
                ray_folder=_ray_folder(node),
                gpus=node["Resources"].get("GPU", 0.0),
            )
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[task.options(scheduling_strategy=there).remote(own, plugins)] = own
        ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)
        return [(own, _answer(answer)) for answer, own in answers.items()]


def _look(asked: Asked, plugins: tuple[Plugin, ...]) -> Facts:
    for plugin in plugins:
        plugin.load()
    return look(asked)


def _alive() -> list[dict[str, Any]]:
    return sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeManagerHostname"])


def _ray_folder(node: dict[str, Any]) -> Path:
    """Where Ray keeps its sessions on a node: three above its sockets."""
    return Path(node["ObjectStoreSocketName"]).parents[2]


def _answer(reference: Any) -> Facts | str:
    try:
        facts: Facts = ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"nothing within {ANSWER_S:.0f} s"
    except ray.exceptions.RayError as error:
        return first_line(getattr(error, "cause", None) or error)
    return facts
