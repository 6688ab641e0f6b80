"""The doctor finds what would spoil a long run, on every node, and says how to mend it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster_fixtures import TINY, on_path
from mlflow import MlflowClient
from mlflow.entities import ViewType
from study_fixtures import CommandLine, command, places_in, write_study

from dh2l.data import prepare
from study.doctor.facts import OTHER_FOLDER, Disk, Gpu, NodeFacts, NodeQuery, collect_facts
from study.doctor.findings import (
    CHECKS,
    Finding,
    diagnose_node,
    missing_nodes,
    unreachable_node,
    worst_severity,
)
from study.records.paths import Places
from study.spec.study_file import StudyFile
from study.tracking.uri import tracking_uri

GIB = 1 << 30
SOUND = NodeFacts(
    versions={"python": "3.13.1", "torch": "2.11.0", "ray": "2.60.0", "dh2l-study": "0.1.0"},
    commit="0123456789abcdef",
    dirty=False,
    hashes={"birds": "aaaa"},
    data_problems={},
    disks={
        "results": Disk(Path("/results"), 50 * GIB, 100 * GIB),
        "Ray": Disk(Path("/ray"), 50 * GIB, 100 * GIB),
    },
    gpus=(Gpu("H100", 79 * GIB, 80 * GIB),),
    results="",
    token_on=True,
)


@pytest.fixture
def node(tmp_path: Path) -> NodeQuery:
    return NodeQuery(places_in(tmp_path), ("birds",), "node 1", Path("/ray"), 1.0, "note")


def told(json_text: str) -> dict[str, Any]:
    nodes: dict[str, Any] = json.loads(json_text)["nodes"]
    return nodes


def not_well(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "ok"]


def test_a_node_like_its_driver_is_well_in_every_check(node: NodeQuery) -> None:
    findings = diagnose_node(SOUND, node, SOUND)
    assert not_well(findings) == []
    assert worst_severity(findings) == "ok"
    assert {finding.check for finding in findings} == set(CHECKS) - {"MLflow"}


@pytest.mark.parametrize(
    ("changed", "check", "outcome", "says", "remedy"),
    [
        ({"versions": SOUND.versions | {"torch": "2.10.0"}}, "versions", "failed", "(driver: 2.11.0)", "install"),
        ({"versions": {}}, "versions", "failed", "dh2l-study missing (driver: 0.1.0)", "install"),
        ({"commit": "fedcba9876543210"}, "commit", "failed", "fedcba98, but the driver's 01234567", "bring both"),
        ({"commit": None}, "commit", "failed", "no checkout, but the driver's 01234567", "bring both"),
        ({"dirty": True}, "commit", "warning", "differs from commit 01234567", "commit the changes"),
        ({"hashes": {"birds": "bbbb"}}, "data", "failed", "another data set on the node (hash bbbb", "copy the driver's"),
        ({"hashes": {}, "data_problems": {"birds": "is gone; x"}}, "data", "failed", "birds cannot be read", "prepare"),
        ({"disks": {"results": Disk(Path("/r"), GIB - 1, 9 * GIB)}}, "disk", "failed", "free under /r", "make room"),
        ({"disks": {"Ray": Disk(Path("/t"), 4 * GIB, 90 * GIB)}}, "disk", "failed", "free under /t", "--temp-dir"),
        ({"gpus": ()}, "GPUs", "failed", "Ray reports 1 GPU, but torch sees 0", "--num-gpus"),
        ({"gpus": "no driver"}, "GPUs", "failed", "torch cannot use its GPUs (no driver)", "--num-gpus"),
        ({"gpus": SOUND.gpus * 2}, "GPUs", "warning", "torch sees 2 GPUs, but Ray uses only 1", "--num-gpus"),
        ({"gpus": (Gpu("H100", 39 * GIB, 80 * GIB),)}, "GPUs", "warning", "less than half of a GPU", "end the process"),
        ({"results": OTHER_FOLDER}, "results", "failed", "is not the driver's folder", "pass a --results"),
        ({"results": "cannot be written; mend"}, "results", "failed", "cannot be written", "mend"),
        ({"token_on": False}, "token", "warning", "everyone who reaches its ports can run code", "RAY_AUTH_MODE=token"),
    ],
)  # fmt: skip
def test_what_is_not_well_on_a_node_is_one_finding_with_its_remedy(
    node: NodeQuery, changed: dict[str, Any], check: str, outcome: str, says: str, remedy: str
) -> None:
    (finding,) = not_well(diagnose_node(replace(SOUND, **changed), node, SOUND))
    assert (finding.node, finding.check, finding.severity) == ("node 1", check, outcome)
    assert says in finding.problem
    assert remedy in finding.problem.partition(says)[2]
    assert "\n" not in finding.problem


def test_a_node_that_is_silent_or_absent_fails_with_a_remedy() -> None:
    for finding in (
        unreachable_node("node 1", "No module named 'study'"),
        missing_nodes("driver", 1, 2),
    ):
        assert worst_severity([finding]) == "failed"
        assert ";" in finding.problem


def test_a_folder_that_is_not_the_drivers_is_told_and_left_as_it_is(
    tmp_path: Path, node: NodeQuery
) -> None:
    (tmp_path / "results").mkdir()
    assert collect_facts(replace(node, marker=".doctor-1/driver")).results == OTHER_FOLDER
    assert list((tmp_path / "results").iterdir()) == []
    (tmp_path / "results" / ".doctor-1").mkdir()
    (tmp_path / "results" / ".doctor-1" / "driver").touch()
    assert collect_facts(replace(node, marker=".doctor-1/driver")).results == ""


def test_the_driver_reads_its_data_whole_and_a_node_says_that_it_did_not(tmp_path: Path) -> None:
    """As `run` does before it trains: labels of the right number and type, but others than were
    prepared.
    """
    asked = NodeQuery(places_in(tmp_path), ("digits",), "this machine")
    prepare("digits", asked.paths.data)
    labels = asked.paths.data / "digits" / "train_y.npy"
    content = bytearray(labels.read_bytes())
    content[-8] ^= 1
    labels.write_bytes(content)
    facts = collect_facts(asked)
    assert facts.hashes == {}
    assert facts.data_problems["digits"].startswith(f"{labels} was changed since it was prepared")
    glanced = replace(asked, verify_data=False)
    (data,) = (f for f in diagnose_node(collect_facts(glanced), glanced) if f.check == "data")
    assert (data.severity, data.found) == ("ok", "digits, sizes only")


def test_this_machine_is_well_and_its_probe_of_mlflow_is_deleted_again(
    cli: CommandLine, places: Places
) -> None:
    code, printed, error = cli("doctor", "quickstart", "--json")
    assert (code, error) == (0, "")
    (findings,) = told(printed).values()
    assert {
        check: f["outcome"] for check, f in findings.items() if check != "commit"
    } == dict.fromkeys(["versions", "data", "disk", "results", "GPUs", "MLflow"], "ok")
    client = MlflowClient(tracking_uri=tracking_uri(places))
    experiments = [e.experiment_id for e in client.search_experiments()]
    assert list(client.search_runs(experiments)) == []
    (probe,) = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY)
    assert probe.data.metrics == {"probe": 1.0}


def test_a_machine_without_what_a_study_needs_fails_and_every_failure_is_a_line_with_its_remedy(
    cli: CommandLine, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data set is damaged, the results are a file, and the server of MLflow is not there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:////proc/none/{tmp_path.name}.db")
    prepare("digits", tmp_path / "data")
    (tmp_path / "data" / "digits" / "manifest.json").write_text("{", encoding="utf-8")
    (tmp_path / "results").touch()
    cli.places = Places.of(places.results, tmp_path / "data")
    code, printed, _ = cli("doctor", "quickstart")
    assert code == 1
    assert printed.splitlines()[-1] == "not well"
    lines = [line for line in printed.splitlines() if line.startswith("✗ this machine, ")]
    assert [line.split(", ")[1].partition(":")[0] for line in lines] == [
        "data",
        "results",
        "MLflow",
    ]
    assert all(";" in line for line in lines)


def test_data_that_come_with_what_is_installed_are_a_warning_until_the_first_run(
    cli: CommandLine, empty: Places
) -> None:
    cli.places = empty
    code, printed, _ = cli("doctor", "quickstart", "--no-mlflow", "--json")
    assert code == 0
    (findings,) = told(printed).values()
    assert findings["data"]["outcome"] == "warning"


def test_every_node_of_a_cluster_is_asked_and_nothing_is_left(
    tmp_path: Path, places: Places, ray_cluster: str
) -> None:
    """Both nodes are this machine, whose code is the driver's; so what they can lack is the token
    alone.
    """
    study = write_study(tmp_path, TINY, "tiny")
    where = ["--results", places.results, "--data", places.data, "--no-mlflow", "--json"]
    environment = on_path(tmp_path / "bin")
    ended = command(
        "doctor", study, "--address", ray_cluster, "--nodes", 2, *where, environment=environment
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    driver, *nodes = told(ended.stdout).items()
    assert driver[0] == "driver"
    assert len(nodes) == len({name for name, _ in nodes}) == 2
    for _, findings in nodes:
        outcomes = {check: f["outcome"] for check, f in findings.items() if check != "commit"}
        assert outcomes.pop("token") == "warning"
        assert outcomes == dict.fromkeys(
            ["answers", "versions", "data", "disk", "results", "GPUs"], "ok"
        )
        assert "Ray" in findings["disk"]["found"]
    assert sorted(path.name for path in places.results.iterdir()) == ["running", "trials"]


def test_a_cluster_where_nothing_listens_is_a_sentence(cli: CommandLine) -> None:
    said = cli.mistake("doctor", "quickstart", "--no-mlflow", "--address", "127.0.0.1:1")
    assert "127.0.0.1:1 cannot be reached" in said
    assert "HOST:PORT" in said


def test_a_cluster_to_be_found_that_no_longer_listens_is_a_sentence(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    said = cli.mistake("doctor", "quickstart", "--no-mlflow", "--address", "auto")
    assert "127.0.0.1:1 cannot be reached" in said


def test_nodes_are_those_of_a_cluster(cli: CommandLine) -> None:
    assert "--address" in cli.mistake("doctor", "quickstart", "--nodes", "2")


def test_the_data_sets_of_a_study_are_all_that_it_names_and_no_default_that_it_never_uses(
    tmp_path: Path,
) -> None:
    text = """\
title: Data sets
columns: [{name: a, set: {dataset: birds}}, {name: b, set: {dataset: cars}}]
rows: [{arm: baseline}]
seeds: [0]
"""
    assert StudyFile(write_study(tmp_path, text)).datasets == ("birds", "cars")
    one = text.replace(", set: {dataset: cars}", "")
    assert StudyFile(write_study(tmp_path, one)).datasets == ("birds", "digits")
