"""Examples in docstrings, run as `pytest --doctest-modules` would run them."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import dh2l.hierarchy
import dh2l.pairwise

MODULES = [
    "dh2l.errors",
    "dh2l.tree",
    *(
        module.name
        for package in (dh2l.pairwise, dh2l.hierarchy)
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_print_what_they_show(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.failed == 0
    assert results.attempted > 0
