"""Data flows one way, and what makes tables needs neither torch nor Ray nor MLflow."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from study_fixtures import ROOT


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Full names of all modules that a file imports, at its top or inside a function, with their
    lines.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path}:{node.lineno} imports relatively, which this test cannot follow"
            )
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "importlib.import_module",
        ):
            name = node.args[0]
            yield (
                name.value
                if isinstance(name, ast.Constant) and isinstance(name.value, str)
                else "?",
                node.lineno,
            )


def importers(package: str, *modules: str) -> dict[str, list[str]]:
    """Find the files of a package that import one of the modules, and the lines."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for name, line in imported(path):
            if name.split(".")[0] in modules:
                found.setdefault(path.relative_to(ROOT).as_posix(), []).append(
                    f"line {line}: {name}"
                )
    return found


def test_the_files_are_found() -> None:
    """The other tests would pass over an empty folder."""
    assert set(importers("dh2l", "torch")) >= {
        "dh2l/training/trainer.py",
        "dh2l/pairwise/penalties.py",
    }
    assert set(importers("study", "dh2l")) >= {"study/spec/plan.py", "study/execution/trial.py"}


def test_no_module_is_imported_by_a_name_made_at_run_time_but_users_plugins() -> None:
    assert list(importers("dh2l", "?")) == ["dh2l/plugins.py"]
    assert importers("study", "?") == {}


def loaded_by(module: str) -> set[str]:
    """Top-level packages in a fresh interpreter after it has imported one module."""
    code = (
        f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in "
        "sys.modules})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


@pytest.mark.parametrize(
    "module",
    [
        "study.reporting.tables",
        "study.state.selection",
        "study.spec.plan",
        "study.records.store",
        "study.spec.schema",
        "study.cli",
    ],
)
def test_what_makes_tables_loads_neither_torch_nor_ray_nor_mlflow(module: str) -> None:
    loaded = loaded_by(module)
    assert "dh2l" in loaded or "study" in loaded
    assert not loaded & {"torch", "torchvision", "ray", "mlflow", "optuna", "sklearn"}


@pytest.mark.parametrize(
    "module",
    ["dh2l", "dh2l.config.train_config", "dh2l.data", "dh2l.registry.register", "dh2l.plugins"],
)
def test_configs_and_manifests_load_no_torch(module: str) -> None:
    assert not loaded_by(module) & {"torch", "torchvision", "sklearn", "PIL", "pandas", "study"}


def test_training_loads_nothing_of_the_harness() -> None:
    loaded = loaded_by("dh2l.training.trainer")
    assert "torch" in loaded
    assert not loaded & {"study", "ray", "mlflow", "pandas"}


def test_a_trial_that_is_not_compiled_does_not_load_the_compiler() -> None:
    """It would double a worker's start, and take a sixth of its memory."""
    code = (
        "import sys; from tiny_data import EH, run, tiny_config; run(tiny_config(**EH)); "
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "[]\n"
