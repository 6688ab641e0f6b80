"""Ray: the only folder that talks to it. Drives a searcher's trials on one machine or a cluster."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # records are the truth, not Ray's own logs
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no accuracy
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the display is ours
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # Tuner.restore is not used
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # ours stops at the end of an epoch, and says so

from study.cluster.connection import Resources
from study.cluster.doctor import ask_nodes
from study.cluster.driver import run_on_ray
from study.cluster.measuring import timed, with_measured_share

__all__ = ["Resources", "ask_nodes", "run_on_ray", "timed", "with_measured_share"]
