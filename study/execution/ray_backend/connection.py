"""Connection to a cluster or a local Ray, and resources of trials."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray

from dh2l.errors import UserError, first_line
from dh2l.plugins import Plugin
from dh2l.system.cores import usable_cores
from dh2l.wording import counted
from study.execution.options import TrialOptions
from study.execution.ray_backend import _compat
from study.execution.ray_backend.addresses import is_own, listening
from study.execution.ray_backend.cleanup import RAY, end_processes, note_processes, scratch_folder
from study.execution.ray_backend.start_failures import refusal, require_addresses
from study.execution.ray_backend.worker_environment import keep_environment, private_token

STARTS = 3
"""Attempts to start a local Ray on a machine too busy for Ray's start timeout of 30 s."""
SETTLED_S = 5.0
"""Seconds after which a cluster has registered released resources."""


@dataclass(frozen=True)
class Resources:
    """Resources of one trial, and the cluster that provides them.

    Attributes:
        address: address of a running Ray cluster; None starts Ray on this machine.
        cpus: CPUs of a trial.
        gpus: GPUs of a trial; None: one if the cluster has GPUs, else none.
        plugins: users' code that workers load.
        options: evaluation of trials, and which of their files are kept.
        device: a torch device; None: the GPU if a trial gets one.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float | None = None
    plugins: tuple[Plugin, ...] = ()
    options: TrialOptions = field(default_factory=TrialOptions)
    device: str | None = None


def has_fraction(resources: Resources) -> bool:
    """Return whether a trial shares its GPU with others."""
    return resources.gpus is not None and 0 < resources.gpus < 1


@contextmanager
def cluster(address: str | None, *, patience_s: float = 0.0) -> Iterator[Path]:
    """Connect to a cluster, or start a local Ray that ends with the context.

    Only this machine can connect to a local Ray.

    Args:
        address: address of a running cluster; None starts Ray on this machine.
        patience_s: maximum number of seconds to wait for a cluster.

    Yields:
        A private folder for the driver's files, removed afterwards. A local Ray keeps its session
        there.

    Raises:
        UserError: the cluster cannot be reached.
    """
    with (
        scratch_folder(sockets=address is None) as scratch,
        _connection(address, patience_s, scratch),
    ):
        note_processes(scratch)
        yield scratch


@contextmanager
def _connection(address: str | None, patience_s: float, scratch: Path) -> Iterator[None]:
    # The record of a trial reports its failure.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # Without an address, Ray would join any cluster that RAY_ADDRESS or this machine names.
    where = "local" if address is None else listening(address, patience_s)
    own = is_own(where)
    arguments: dict[str, Any] = {}
    if own:
        require_addresses()
        arguments |= {"include_dashboard": False, "_temp_dir": str(scratch / RAY)}
        # Ray ignores the affinity and newer quotas, and counts all cores of the machine.
        arguments["num_cpus"] = usable_cores()
    if not where.startswith("ray://"):  # the cluster creates a client's job
        arguments["job_config"] = _compat.DriverImports()
    keep_environment()
    private_token(make=own)
    try:
        with _compat.start_settings(local=own):
            _init(where, arguments, starts=STARTS if own else 1)
    except Exception as error:  # noqa: BLE001 any error of Ray's start becomes a message
        if own:
            raise UserError(refusal(first_line(error), scratch)) from None
        raise UserError(
            f"the Ray cluster at {where} cannot be reached: {first_line(error)}; if it requires a "
            "token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here too"
        ) from None
    try:
        yield
    finally:
        _compat.shut_down()


def _init(address: str, arguments: Mapping[str, Any], starts: int) -> None:
    """Start or join Ray. On a busy machine, repeat a start that timed out.

    Args:
        address: argument of `ray.init`.
        arguments: further arguments of `ray.init`.
        starts: maximum number of attempts.

    Raises:
        Exception: Ray's error of the last attempt.
    """
    before = set(psutil.Process().children(recursive=True))
    for left in reversed(range(starts)):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **arguments)
            return
        except Exception as error:
            if not left or _compat.STARTUP_TIMEOUT not in str(error):
                raise
            end_processes(set(psutil.Process().children(recursive=True)) - before)


def share(resources: Resources) -> tuple[float, int]:
    """Return the GPUs of one trial, and the number of trials that fit side by side.

    Raises:
        UserError: not even one trial fits.
    """
    return _share(resources, ray.cluster_resources())


def require_fit(resources: Resources) -> None:
    """Raise if trials do not fit on this machine, before a local Ray starts.

    Raises:
        UserError: not even one trial fits.
    """
    if is_own(resources.address):
        _share(resources, {"CPU": usable_cores(), "GPU": _compat.count_local_gpus()})


def note_if_busy(
    resources: Resources,
    gpus: float,
    note: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Show a message if no node of a cluster currently has room for a trial.

    Args:
        resources: resources of one trial, and the cluster.
        gpus: GPUs of one trial.
        note: shows a sentence to the user.
        stop: returns True if the user has asked to stop.
    """
    deadline = time.monotonic() + SETTLED_S
    while not is_own(resources.address) and not stop() and not _has_room(resources.cpus, gpus):
        if time.monotonic() >= deadline:
            asked = counted(resources.cpus, "CPU")
            if gpus:
                asked += f" and {counted(gpus, 'GPU')}"
            note(f"waiting for the cluster: other jobs leave no node with {asked} free ...")
            return
        time.sleep(0.2)


def _has_room(cpus: float, gpus: float) -> bool:
    return any(
        node.get("CPU", 0.0) >= cpus and node.get("GPU", 0.0) >= gpus
        for node in _compat.free_resources()
    )


def _share(resources: Resources, total: Mapping[str, float]) -> tuple[float, int]:
    have_cpus, have_gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    gpus = resources.gpus if resources.gpus is not None else min(1.0, have_gpus)
    fits = have_cpus / resources.cpus
    if gpus:
        fits = min(fits, have_gpus / gpus)
    concurrent = int(fits + 1e-9)
    where = "this machine" if is_own(resources.address) else "the cluster"
    if gpus and not have_gpus:
        raise UserError(
            f"trials need a GPU, but {where} has none; remove --gpus-per-trial and --trials-per-gpu"
        )
    if concurrent < 1:
        raise UserError(
            f"one trial needs {counted(resources.cpus, 'CPU')} and {counted(gpus, 'GPU')}, but "
            f"{where} has {have_cpus:g} and {have_gpus:g}; lower --cpus-per-trial or "
            "--gpus-per-trial, or raise --trials-per-gpu"
        )
    return gpus, concurrent
