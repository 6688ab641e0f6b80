"""Baseline of the table: `json.loads` and a pandas groupby.

Run as `python -m benchmarks.plain_table FOLDER`.
"""

import json
import sys
from pathlib import Path

import pandas as pd


def main() -> None:
    """Print, per metric, the test accuracy of the λe that is best on validation, over the seeds."""
    rows = []
    for path in Path(sys.argv[1]).glob("*.json"):
        record = json.loads(path.read_bytes())["record"]
        config, last = record["config"], record["last"]
        rows.append(
            {
                "metric": config["metric"],
                "lambda_e": config["lambda_e"],
                "validation": last["validation_accuracy"],
                "test": last["test_accuracy"],
            }
        )
    candidates = pd.DataFrame(rows).groupby(["metric", "lambda_e"], as_index=False)
    scores = candidates.agg(
        validation=("validation", "mean"),
        mean=("test", "mean"),
        std=("test", "std"),
        n=("test", "size"),
    )
    best = scores.loc[scores.groupby("metric")["validation"].idxmax()]
    print(best.to_string(index=False))


if __name__ == "__main__":
    main()
