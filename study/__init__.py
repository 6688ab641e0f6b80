"""The study harness: from a study file through tracked trials to accuracy tables.

    import study

    study.run("quickstart")                         # trains what is missing
    study.table("quickstart")                       # the table, as a notebook shows it
    study.frame("quickstart", of="epochs")          # tidy pandas frames

The functions are the commands of `dh2l-study`, for notebooks and scripts. They share arguments:

- `study`: a shipped study's name, or a file.
- `overrides`: changes of the study's values, each ``key=value`` as after ``--set``.
- `results`: folder of records and tables, or the URL of a place in an object store; default:
  `DH2L_RESULTS`, or ``results``.
- `data`: folder of prepared data sets; default: `DH2L_DATA`, or ``data``.
- `plugins`: users' code that the study needs, files or modules; default: `DH2L_PLUGINS`, or none.
"""

from study.api import frame, load_records, network, plan, run, table

__all__ = ["frame", "load_records", "network", "plan", "run", "table"]
