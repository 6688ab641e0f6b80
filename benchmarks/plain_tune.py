"""Baseline of the harness: Ray Tune and its MLflow callback.

It follows their documentation. Run as `python -m benchmarks.plain_tune TRIALS FOLDER`; prints the
seconds between two trials' ends.
"""

import sys
from pathlib import Path
from typing import Any

from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

METRICS = (
    "train_loss",
    "train_cross_entropy",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_super_accuracy",
    "validation_mistake_severity",
    "test_loss",
    "test_accuracy",
    "test_super_accuracy",
    "test_mistake_severity",
    "lr",
    "images_per_s",
    "seconds",
    "time",
)
"""What a trial of this project reports of an epoch."""


def trial(config: dict[str, Any]) -> None:
    """Report one epoch, having trained nothing."""
    tune.report({name: float(config["seed"]) for name in METRICS})


def main() -> None:
    """Run the trials, a seed each."""
    trials, folder = int(sys.argv[1]), Path(sys.argv[2])
    mlflow = MLflowLoggerCallback(
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="plain"
    )
    tuner = tune.Tuner(
        trial,
        param_space={"seed": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(name="plain", storage_path=str(folder), callbacks=[mlflow]),
    )
    results = tuner.fit()
    if results.errors:
        sys.exit(str(results.errors[0]))
    ended = [result.metrics["timestamp"] for result in results if result.metrics]
    print((max(ended) - min(ended)) / (trials - 1))


if __name__ == "__main__":
    main()
