"""Ray backend of runs, on one machine or a cluster."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Records are the truth, not Ray's own logs.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# A failed trial has no accuracy.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
# The run has its own display.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# `Tuner.restore` is not used.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
# A user's code has the same working directory in workers as in the driver.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# `Interrupt` stops trials at the end of an epoch instead.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

from study.execution.ray_backend.connection import Resources
from study.execution.ray_backend.driver import Round, run_on_ray
from study.execution.ray_backend.measurement import time_kinds, with_measured_gpu_share
from study.execution.ray_backend.nodes import Node, run_on_every_node
from study.execution.ray_backend.session import Session, open_session

__all__ = [
    "Node",
    "Resources",
    "Round",
    "Session",
    "open_session",
    "run_on_every_node",
    "run_on_ray",
    "time_kinds",
    "with_measured_gpu_share",
]
