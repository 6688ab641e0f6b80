"""The state of a study: its plan compared with its records."""
