"""What this project's code costs, as ratios to what people use instead: `python -m benchmarks`."""
