"""The places from which this process imports, for processes that must import the same."""

import os
import sys


def import_paths() -> list[str]:
    """The places from which this process imports before it looks into the standard library."""
    library = os.path.dirname(os.__file__)
    first = sys.path.index(library) if library in sys.path else len(sys.path)
    paths = [os.path.abspath(path) for path in sys.path[:first]]
    return [
        path for path in dict.fromkeys(paths) if not path.endswith(".zip") or os.path.exists(path)
    ]


def python_module(name: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs a module, and its environment, in which it imports what this process does.

    Python itself would put the working folder first, where a user's own `study.py` may be.
    """
    return [sys.executable, "-P", "-m", name, *words], os.environ | {
        "PYTHONPATH": os.pathsep.join(import_paths())
    }
