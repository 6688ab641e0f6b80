"""Ray: the only folder that talks to it. Drives a searcher's trials on one machine or a cluster."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1"
)  # records are the truth, not Ray's own logs
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no accuracy
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the display is ours
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # Tuner.restore is not used
os.environ.setdefault(
    "RAY_CHDIR_TO_TRIAL_DIR", "0"
)  # a user's code finds what the driver finds in the working folder
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # ours stops at the end of an epoch, and says so

from study.execution.ray_backend.connection import Resources
from study.execution.ray_backend.driver import run_on_ray
from study.execution.ray_backend.measurement import time_kinds, with_measured_gpu_share
from study.execution.ray_backend.nodes import Node, run_on_every_node
from study.execution.ray_backend.session import Session, open_session

__all__ = [
    "Node",
    "Resources",
    "Session",
    "open_session",
    "run_on_every_node",
    "run_on_ray",
    "time_kinds",
    "with_measured_gpu_share",
]
