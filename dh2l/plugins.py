"""Plugins: users' code that registers penalties, regularisers, models or data sets.

    dh2l-study run my_study.yaml --plugin my_regularisers.py

A plugin is a file or an importable module. Naming it on the command line is the permission to run
it; a study file cannot name one. Imports no torch itself.
"""

import importlib
import importlib.util
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from dh2l.errors import UserError, first_line, last_location
from dh2l.io.files import read
from dh2l.registry import register as registry
from dh2l.registry.register import SOURCE, source_hash


@dataclass(frozen=True)
class Plugin:
    """A plugin as a value: what a worker needs to have the same code.

    Attributes:
        name: a file's absolute path, or a module's name.
        text: the file's content; None for a module.
        hash: of the file, the module's file, or the .py files of a package.
    """

    name: str
    text: bytes | None
    hash: str

    def load(self) -> None:
        """Run it here, once: a file from its text, a module as it is installed here.

        Raises:
            UserError: the module is not there or another, or whatever is wrong with the plugin.
        """
        if self.text is not None:
            _run_file(self)
        elif (here := _import_module(self.name)) != self.hash:
            raise UserError(
                f"the plugin {self.name} is another here than where the run began (hash {here}, "
                f"not {self.hash}); install the same on every machine, or give it as a file"
            )


def load(name: str) -> Plugin:
    """Load a plugin by the path of a file or the name of a module. Loading it twice does nothing.

    Raises:
        UserError: there is none, it cannot be run, or it registers a name that is taken.
    """
    path = Path(os.path.expanduser(name))
    if path.suffix == ".py" or len(path.parts) > 1 or path.is_file():
        try:
            text = read(path)
        except OSError as error:
            raise UserError(
                f"the plugin {name} cannot be read ({error.strerror}); give a Python file"
            ) from None
        plugin = Plugin(os.path.abspath(path), text, source_hash(text))
        plugin.load()
        return plugin
    return Plugin(name, None, _import_module(name))


def plugin_location(error: BaseException | None) -> str:
    """Return the last line of a plugin through which an error came, as ``FILE:LINE: ``, or "".

    The causes of the error are searched first.
    """
    sources = [
        module for module in list(sys.modules.values()) if SOURCE in getattr(module, "__dict__", {})
    ]
    files = {str(module.__file__) for module in sources}
    folders = tuple(
        f"{folder}{os.sep}" for module in sources for folder in getattr(module, "__path__", ())
    )
    place = ""
    while error is not None:
        place = (
            last_location(error, lambda file: file in files or file.startswith(folders)) or place
        )
        error = error.__cause__
    return place


def _run_file(plugin: Plugin) -> None:
    assert plugin.text is not None  # noqa: S101 it is a file's
    module = ModuleType(f"dh2l_plugin_{plugin.hash}")
    if module.__name__ in sys.modules:
        return
    file = plugin.name
    setattr(module, SOURCE, plugin.hash)
    module.__file__ = file
    # Without a time of change the entry is not looked up again: on a worker the file may be missing
    # or another.
    source = plugin.text.decode(errors="replace")
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    with _told(plugin.name, lambda found: found == file):
        sys.modules[module.__name__] = module
        try:
            exec(compile(plugin.text, file, "exec"), vars(module))  # noqa: S102 the user asked for it by name
        except BaseException:
            del sys.modules[module.__name__]
            raise


def _import_module(name: str) -> str:
    """Import a module and return its hash: when it was first loaded here, where that has been."""
    with _told(name, lambda found: f"{os.sep}{name.partition('.')[0]}" in found):
        try:
            spec = importlib.util.find_spec(name)
        except (
            ModuleNotFoundError,
            ValueError,
        ) as error:  # of a package that is not there, or no name at all
            if isinstance(error, ModuleNotFoundError) and not f"{name}.".startswith(
                f"{error.name}."
            ):
                raise
            spec = None
        if spec is None or spec.origin is None:
            raise _NotFound(
                f"there is no plugin {name!r}: no such file, and no module of that name that "
                "Python can import; give the path of a .py file, or install the module"
            )
        folders = spec.submodule_search_locations
        if name in sys.modules and hasattr(sys.modules[name], SOURCE):
            return str(getattr(sys.modules[name], SOURCE))
        found = source_hash(
            _package_source(Path(spec.origin).parent) if folders else read(Path(spec.origin))
        )
        module = importlib.import_module(name)
        setattr(module, SOURCE, found)
        registry.set_sources(name, found)
    return found


def _package_source(folder: Path) -> bytes:
    """Return the .py files of a package, each after its path."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))
    return b"\0".join(part for place, path in files for part in (place.encode(), read(path)))


class _NotFound(UserError):
    """There is no such module."""


@contextmanager
def _told(name: str, ours: Callable[[str], bool]) -> Iterator[None]:
    """Turn an error in a plugin into a sentence with its line, and roll back its registrations.

    Args:
        name: the plugin's.
        ours: whether a file is the plugin's.
    """
    try:
        with registry.transaction():
            yield
    except _NotFound:
        raise
    except SyntaxError as error:
        raise UserError(
            f"{error.filename or name}:{error.lineno}: the plugin {name} is not valid Python "
            f"({error.msg})"
        ) from None
    except (Exception, SystemExit) as error:
        said = (
            str(error)
            if isinstance(error, UserError)
            else f"it raised {type(error).__name__}: {first_line(error)}"
        )
        raise UserError(
            f"{last_location(error, ours)}the plugin {name} cannot be loaded: {said}"
        ) from error
