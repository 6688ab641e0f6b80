"""A connection to a Ray cluster, or a Ray of our own, and what one trial gets of it."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private.utils import read_ray_address

from dh2l.errors import UserError
from dh2l.plugins import Plugin

CONNECT_S = 10.0
"""How long a cluster's head may take to accept a connection."""


@dataclass(frozen=True)
class Resources:
    """What one trial gets, and where."""

    address: str | None = None
    """Address of a running Ray cluster; None starts Ray on this machine."""
    cpus: float = 1.0
    gpus: float | None = None
    """None: one where the cluster has GPUs, else none."""
    plugins: tuple[Plugin, ...] = ()
    """Users' code that workers load."""
    keep: bool = False
    """Whether checkpoints of finished trials stay."""
    device: str | None = None
    """A torch device; None: the GPU where a trial gets one."""


def has_fraction(resources: Resources) -> bool:
    """Whether a trial shares its GPU with others."""
    return resources.gpus is not None and 0 < resources.gpus < 1


@contextmanager
def cluster(address: str | None, *, patience_s: float = 0.0) -> Iterator[None]:
    """A connection to a cluster, or a Ray of our own that ends with us, and that only this machine can reach.

    Ray listens on every interface but where it is told that no other machine may join, as it is by default on
    Windows and macOS: then on 127.0.0.1 alone.

    Args:
        address: of a running cluster; None starts Ray on this machine.
        patience_s: how long a cluster may take to come up.

    Raises:
        UserError: the cluster cannot be reached.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is told by its record
    # "local", for without an address Ray would join whatever cluster RAY_ADDRESS or this machine knows.
    where = address or "local"
    words: dict[str, Any] = {"include_dashboard": False} if where == "local" else {}
    _require_listening(where, patience_s)
    joins = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = joins and where != "local"
    popen = services.ConsolePopen
    # In a group of its own: what is sent to the driver's, by a terminal or `timeout`, is the driver's to answer.
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **words)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "; if it asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH must name it here too"
        raise UserError(f"the Ray cluster at {where} cannot be reached: {reason}{hint if address else ''}") from None
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = joins
        services.ConsolePopen = popen
    try:
        yield
    finally:
        ray.shutdown()


def _require_listening(address: str, patience_s: float) -> None:
    """Refuse a HOST:PORT where nothing listens: Ray itself would try for minutes, and then end the process."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or read_ray_address() or ""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return  # local, ray://, none: Ray's own to find, or to miss
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except (OSError, OverflowError) as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"the Ray cluster at {address} cannot be reached: {error}; give the HOST:PORT of its head"
                ) from None
            time.sleep(0.5)
        else:
            return


def share(resources: Resources) -> tuple[float, int]:
    """GPUs of one trial, and how many trials fit side by side."""
    total = ray.cluster_resources()
    have_cpus, have_gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    gpus = resources.gpus if resources.gpus is not None else min(1.0, have_gpus)
    fits = [have_cpus / resources.cpus] + ([have_gpus / gpus] if gpus else [])
    concurrent = int(min(fits) + 1e-9)
    if gpus and not have_gpus:
        raise UserError(
            "trials ask for a GPU, but the cluster has none; leave --gpus-per-trial and --trials-per-gpu out"
        )
    if concurrent < 1:
        raise UserError(
            f"one trial asks for {resources.cpus:g} CPUs and {gpus:g} GPUs, but the cluster has {have_cpus:g} "
            f"and {have_gpus:g}; lower --cpus-per-trial or --gpus-per-trial, or raise --trials-per-gpu"
        )
    return gpus, concurrent
