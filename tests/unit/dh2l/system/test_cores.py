"""The cores that a process may use, by affinity and quotas."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from study_fixtures import ROOT

from dh2l.system.cores import usable_cores

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SECOND = "30 1 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
FIRST = "30 1 0:26 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def kernel(root: Path, mounts: str, groups: str, **files: str) -> Path:
    """A folder with the kernel's files that say which groups there are."""
    places = {
        "proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda rw\n" + mounts,
        "proc/self/cgroup": groups,
    }
    for name, text in (
        places | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    ).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is set so on Linux alone")
def test_a_process_bound_to_one_core_counts_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from "
        "dh2l.system.cores import usable_cores; "
        "print(usable_cores())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1"]


def test_a_machine_without_groups_has_the_cores_of_the_affinity(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == ALL


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", ALL), ("", ALL), ("x y", ALL)],
)
def test_a_quota_of_the_second_version_counts(tmp_path: Path, quota: str, cores: int) -> None:
    root = kernel(tmp_path, SECOND, "0::/job/step\n", **{"job/step/cpu.max": quota})
    assert usable_cores(root) == cores


def test_a_quota_of_a_group_above_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    files = {"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}
    assert usable_cores(kernel(tmp_path, SECOND, "0::/job/step\n", **files)) == 4


@pytest.mark.parametrize(
    ("root", "group"), [("/", "/box"), ("/docker/a", "/docker/a/box"), ("/docker/a", "/other")]
)
def test_a_quota_of_the_first_version_counts_where_a_container_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, group: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    where = "cpu,cpuacct" if group == "/other" else "cpu,cpuacct/box"
    files = {f"{where}/cpu.cfs_quota_us": "250000\n", f"{where}/cpu.cfs_period_us": "100000\n"}
    groups = f"4:memory:/else\n3:cpuset:/\n2:cpu,cpuacct:{group}\n"
    assert usable_cores(kernel(tmp_path, FIRST.format(root=root), groups, **files)) == 2


def test_no_quota_of_the_first_version_is_no_limit(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert (
        usable_cores(kernel(tmp_path, FIRST.format(root="/"), "2:cpu,cpuacct:/\n", **files)) == ALL
    )


def test_one_file_counts_the_cores() -> None:
    """The machine's number is shown in records and benchmarks; all that starts work asks for the
    usable ones.
    """
    root = ROOT
    files = [
        path
        for folder in ("dh2l", "study", "benchmarks")
        for path in sorted((root / folder).rglob("*.py"))
    ]
    counting = {
        path.relative_to(root).as_posix()
        for path in files
        if "cpu_count" in path.read_text(encoding="utf-8")
    }
    assert counting == {"dh2l/system/cores.py", "study/records/provenance.py"}
