"""Numbers from results: tidy frames, intervals, tests, comparisons."""
