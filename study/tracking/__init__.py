"""MLflow: results as runs, tags and saved views."""
