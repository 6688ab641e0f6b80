"""Private APIs of Ray on which this package relies.

All of them hold for Ray 2.60.0. The tests of this module check one assumption each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._private import accelerators, ray_constants, services, worker
from ray._private.authentication.authentication_token_generator import (
    generate_new_authentication_token,
)
from ray._private.utils import read_ray_address
from ray.air._internal import usage
from ray.job_config import JobConfig
from ray.tune.execution import class_cache

from study.execution.import_paths import import_paths

STARTUP_TIMEOUT = "timed out during startup"
"""Words in Ray's error if its processes take more than 30 s to start."""


class DriverImports(JobConfig):  # type: ignore[misc] # ray is untyped here
    """Job settings with which workers import from the same paths as the driver.

    Ray itself puts the working directory first, which may contain a user's own `study.py`.
    """

    def _serialize(self) -> bytes:
        if not self._runtime_env_has_working_dir():
            # A worker inserts each path before the previous one.
            self._py_driver_sys_path = import_paths()[::-1]
        serialized: bytes = super()._serialize()
        return serialized


def last_started_address() -> str | None:
    """Return the address of the cluster that `ray start` last started on this machine."""
    address: str | None = read_ray_address()
    return address


def count_local_gpus() -> int:
    """Return the number of GPUs that a local Ray would detect."""
    manager = accelerators.get_accelerator_manager_for_resource("GPU")
    visible = manager.get_current_process_visible_accelerator_ids()
    present = manager.get_current_node_num_accelerators()
    return int(present if visible is None else min(present, len(visible)))


def free_resources() -> list[dict[str, float]]:
    """Return the free resources of each node."""
    return list(ray._private.state.available_resources_per_node().values())


def create_token() -> str:
    """Return a new authentication token in the form that Ray reads."""
    token: str = generate_new_authentication_token()
    return token


def set_uv_environments(*, enabled: bool) -> None:
    """Select whether workers under `uv run` build their own environment."""
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = enabled


def forward_no_variables() -> None:
    """Stop Ray Tune from copying environment variables to its workers."""
    class_cache.ENV_VARS_TO_PROPAGATE = set()


def skip_callback_report() -> None:
    """Stop Ray Tune from counting callbacks by kind, which imports MLflow and takes seconds."""
    usage.tag_callbacks = lambda _: False


@contextmanager
def start_settings(*, local: bool) -> Iterator[None]:
    """Adjust how `ray.init` starts processes inside the context.

    Args:
        local: start Ray for this machine only. It then listens on 127.0.0.1, as it does by default
            on Windows and macOS.
    """
    joins, popen = ray_constants.ENABLE_RAY_CLUSTER, services.ConsolePopen
    ray_constants.ENABLE_RAY_CLUSTER = joins and not local
    # Ray's processes get a group of their own, because only the driver handles its group's signals.
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = joins
        services.ConsolePopen = popen


def shut_down() -> None:
    """Leave a cluster or end a local Ray, even if other threads still free references to objects.

    `ray.shutdown` ends its core worker before it removes the attribute. A reference that is freed
    between the two calls the ended core worker, which then aborts the process.
    """
    core = getattr(worker.global_worker, "core_worker", None)
    if core is not None:
        worker.disconnect()
        del worker.global_worker.core_worker
        core.shutdown_driver()
    ray.shutdown()


def drop_metric_history(trial: Any) -> None:
    """Delete the statistics that Ray Tune keeps of each metric of a trial until the run ends."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
