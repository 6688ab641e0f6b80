"""The study harness: from a study file through tracked trials to accuracy tables."""
