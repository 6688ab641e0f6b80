"""Assumptions about private parts of Ray, one test each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import node, ray_constants, services, worker
from ray.air._internal import usage
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

from study.execution.import_paths import import_paths
from study.execution.ray_backend import _compat


def test_workers_import_from_the_paths_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    library = os.path.dirname(os.__file__)
    monkeypatch.setattr(sys, "path", ["/first", "relative", "/first", library, "/later"])
    assert import_paths() == ["/first", str(tmp_path / "relative")]
    job = _compat.DriverImports()
    job._py_driver_sys_path.append(str(tmp_path))  # as Ray does
    job._serialize()
    assert job._py_driver_sys_path == [str(tmp_path / "relative"), "/first"]


def test_the_package_of_a_job_keeps_its_own_paths() -> None:
    job = _compat.DriverImports(runtime_env={"working_dir": "https://example.org/package.zip"})
    job._py_driver_sys_path.append("/package")
    job._serialize()
    assert job._py_driver_sys_path == ["/package"]


def test_the_address_of_the_last_start_is_read_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert not _compat.last_started_address()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1", encoding="utf-8")
    assert _compat.last_started_address() == "127.0.0.1:1"


def test_hidden_gpus_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _compat.count_local_gpus() == 0


def test_a_token_has_enough_letters_to_be_secret() -> None:
    assert len(_compat.create_token()) == 64 != len({_compat.create_token()})


@pytest.mark.parametrize("enabled", [True, False])
def test_environments_under_uv_follow_the_setting(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", not enabled)
    _compat.set_uv_environments(enabled=enabled)
    assert ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV is enabled


def test_no_variable_of_the_driver_reaches_a_worker_of_tune(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {*class_cache.ENV_VARS_TO_PROPAGATE})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-canary")

    class Worker:
        """Any class."""

    _compat.forward_no_variables()
    made = class_cache._ActorClassCache().get(Worker)
    assert "a-canary" not in str(vars(made))


def test_callbacks_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "tag_callbacks", usage.tag_callbacks)
    _compat.skip_callback_report()
    assert usage.tag_callbacks([object()]) is False


@pytest.mark.parametrize("local", [True, False])
def test_processes_have_their_own_group_and_local_ray_is_alone(
    local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with _compat.start_settings(local=local):
        assert ray_constants.ENABLE_RAY_CLUSTER is not local
        process = services.ConsolePopen(["sleep", "60"], stdin=subprocess.DEVNULL)
        group = os.getpgid(process.pid)
        process.kill()
        process.wait()
    assert group == process.pid != os.getpgrp()
    assert ray_constants.ENABLE_RAY_CLUSTER


def test_a_shutdown_leaves_no_core_worker() -> None:
    _compat.shut_down()
    assert getattr(worker.global_worker, "core_worker", None) is None


def test_statistics_of_a_trial_of_tune_can_be_deleted() -> None:
    trial = Trial("any", stub=True)
    trial.run_metadata.update_metric("loss", 1.0)
    assert trial.run_metadata.metric_analysis
    assert trial.run_metadata.metric_n_steps
    _compat.drop_metric_history(trial)
    assert not trial.run_metadata.metric_analysis
    assert not trial.run_metadata.metric_n_steps


def test_ray_reports_a_start_that_timed_out_in_these_words() -> None:
    assert _compat.STARTUP_TIMEOUT in Path(node.__file__).read_text(encoding="utf-8")
