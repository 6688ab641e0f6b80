"""Import paths of this process, for the processes that it starts."""

import os
import sys


def import_paths() -> list[str]:
    """Return the paths from which this process imports before the standard library."""
    library = os.path.dirname(os.__file__)
    first = sys.path.index(library) if library in sys.path else len(sys.path)
    paths = [os.path.abspath(path) for path in sys.path[:first]]
    # Python lists the archive of its library even if it does not exist.
    return [path for path in dict.fromkeys(paths) if _is_folder_or_archive(path)]


def _is_folder_or_archive(path: str) -> bool:
    return not path.endswith(".zip") or os.path.exists(path)


def python_module(name: str, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a module, and an environment with the imports of this process.

    Python itself would put the working directory first, which may contain a user's own `study.py`.
    """
    command = [sys.executable, "-P", "-m", name, *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(import_paths())}
    return command, environment
