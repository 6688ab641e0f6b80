"""Training of the trials that a study misses: locally, in shards or through Ray."""
