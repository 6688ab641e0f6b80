"""The templates for clusters do what they say: run here, on one machine that stands in for
several.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from cluster_fixtures import TINY, free_port, on_path
from ruamel.yaml import YAML
from study_fixtures import ROOT, CommandLine, clean_environment, write_study

TEMPLATES = ROOT / "study" / "cli" / "cluster_templates"
SCRIPTS = sorted(TEMPLATES.glob("*.sh"))
SRUN = """\
export ADDRESS=127.0.0.3
echo "$@" > srun
while [ "${1#--}" != "$1" ]; do shift; done
stat -c "%a %s" "$RAY_AUTH_TOKEN_PATH" > token
exec "$@"
"""

SUBMIT = """\
[ "$1 $2 $3 $4 $5" = "job submit --address http://head:8265 --" ] || exit 9
shift 5
RAY_ADDRESS={address} exec "$@"
"""


def bash(
    script: str, *words: object, folder: Path, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """A template run to its end in a folder."""
    with subprocess.Popen(
        ["bash", TEMPLATES / script, *map(str, words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            printed, error = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.terminate()  # not killed: it ends what it started
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, printed, error)


def records(folder: Path) -> int:
    return len(list((folder / "results" / "trials").glob("*.json")))


@pytest.fixture
def environment(tmp_path: Path, digits: Path) -> dict[str, str]:
    """Return variables by which templates find this project's commands and prepared data."""
    return on_path(tmp_path / "bin") | {
        "DH2L_DATA": str(digits),
        "DH2L_RESULTS": str(tmp_path / "results"),
    }


def test_every_template_is_listed_and_printed_as_it_lies_in_the_package(cli: CommandLine) -> None:
    code, listed, _ = cli("template", placed=False)
    assert code == 0
    assert [line.split()[0] for line in listed.splitlines()] == [
        "address",
        "kuberay",
        "ray-job",
        "slurm-array",
        "slurm",
    ]
    for file in TEMPLATES.iterdir():
        assert cli("template", file.stem, placed=False) == (0, file.read_text(encoding="utf-8"), "")


def test_a_template_that_is_not_there_is_a_sentence(cli: CommandLine) -> None:
    assert (
        cli.mistake("template", "slurn", placed=False)
        == "unknown template 'slurn'; did you mean 'slurm'?"
    )


def test_every_template_is_in_the_handbook() -> None:
    handbook = (ROOT / "docs" / "how-to" / "clusters.md").read_text(encoding="utf-8")
    assert all(f"`{file.stem}`" in handbook for file in TEMPLATES.iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_has_nothing_that_shellcheck_warns_of(script: Path) -> None:
    ended = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_without_its_words_says_how_it_is_called(script: Path, tmp_path: Path) -> None:
    ended = bash(script.name, folder=tmp_path, environment=clean_environment())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: ")
    assert script.name in ended.stderr


@pytest.mark.parametrize("script", ["slurm.sh", "slurm-array.sh"])
def test_a_job_of_slurm_keeps_its_log_and_starts_again_elsewhere(script: str) -> None:
    lines = (TEMPLATES / script).read_text(encoding="utf-8").splitlines()
    words = [
        line.removeprefix("#SBATCH --").partition("=")[0]
        for line in lines
        if line.startswith("#SBATCH --")
    ]
    assert {"output", "open-mode", "requeue", "signal", "cpus-per-task", "time"} <= set(words)


def test_a_batch_script_of_slurm_outside_a_job_says_how_it_is_submitted(tmp_path: Path) -> None:
    ended = bash("slurm.sh", "quickstart", folder=tmp_path, environment=clean_environment())
    assert ended.returncode == 2
    assert ended.stderr.endswith("slurm.sh quickstart\n")
    assert "Run: sbatch " in ended.stderr


def test_a_job_of_a_cluster_without_its_folders_says_which_variable_is_missing(
    tmp_path: Path,
) -> None:
    words = ("quickstart", "http://head:8265")
    ended = bash(
        "ray-job.sh",
        *words,
        folder=tmp_path,
        environment=clean_environment(DH2L_RESULTS="/shared/results"),
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: DH2L_DATA is not set; ")


def test_an_array_submits_itself_twice_the_second_after_the_first(tmp_path: Path) -> None:
    sbatch = (
        """printf '%s ' "$@" >> submitted; echo >> submitted; echo "$(wc -l < submitted);here\""""
    )
    slurm = on_path(tmp_path / "bin", sbatch=sbatch)
    ended = bash("slurm-array.sh", "quickstart", "--keep", folder=tmp_path, environment=slurm)
    assert (ended.returncode, ended.stdout) == (0, "submitted the arrays 1, and 2 after it\n"), (
        ended.stderr
    )
    script = TEMPLATES / "slurm-array.sh"
    assert (tmp_path / "submitted").read_text(encoding="utf-8").splitlines() == [
        f"--parsable {script} quickstart --keep ",
        f"--parsable --dependency=afterany:1 {script} quickstart --keep ",
    ]


def test_an_array_s_job_loads_modules_and_its_environment_and_passes_its_words_on(
    tmp_path: Path,
) -> None:
    """The stand-ins for `module` and an environment's `activate` leave what they were given."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text('echo "active" >> seen\n', encoding="utf-8")
    programs = {
        "module": 'printf "%s " module "$@" >> seen',
        "dh2l-study": 'printf "%s " "$@" >> seen',
    }
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "2"}
    chosen = {"DH2L_MODULES": "python/3.12 cuda/12.8", "DH2L_VENV": str(tmp_path / "venv")}
    environment = on_path(tmp_path / "bin", **programs) | task | chosen
    ended = bash("slurm-array.sh", "quickstart", "--keep", folder=tmp_path, environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "seen").read_text(encoding="utf-8").splitlines() == [
        "module load python/3.12 cuda/12.8 active",
        "run quickstart --shard 3/8 --cpus-per-trial 2 --keep ",
    ]


def test_the_manifest_for_kubernetes_fits_its_schema_and_asks_for_a_token_and_a_study_of_ours(
    cli: CommandLine,
) -> None:
    job = YAML(typ="safe", pure=True).load(TEMPLATES / "kuberay.yaml")
    schema = json.loads(
        (ROOT / "tests" / "support" / "rayjob.schema.json").read_text(encoding="utf-8")
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(job)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pinned = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']}\n" in pinned
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "dh2l-study"
    assert cli(*words[:1], "--help", placed=False)[0] == 0
    assert {"--address", "--results", "--data"} <= set(words)
    for pod in (
        group["template"]["spec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ):
        assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }


def test_a_slurm_job_brings_up_two_nodes_with_a_token_runs_a_study_and_leaves_nothing_running(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    study, port = write_study(tmp_path, TINY, "tiny"), free_port()
    slurm = {
        "SLURM_JOB_ID": str(port - 20000),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    on_path(tmp_path / "bin", srun=SRUN, hostname='echo "${ADDRESS:-127.0.0.2} 10.0.0.1"')
    try:
        ended = bash(
            "slurm.sh", study, "--no-mlflow", folder=tmp_path, environment=environment | slurm
        )
    finally:
        shutil.rmtree(f"/tmp/ray-{port - 20000}", ignore_errors=True)  # noqa: S108 where the job put it
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert records(tmp_path) == 2
    assert ended.stdout.count("✓ on") == 2  # nodes that ask for the token
    assert "(n=2)" in ended.stdout
    assert (tmp_path / "token").read_text(encoding="utf-8") == "600 64\n"
    assert " --cpus-per-task=1 " in (tmp_path / "srun").read_text(encoding="utf-8")
    assert list(tmp_path.glob(".ray-token*")) == []
    here = f"/tmp/ray-{port - 20000}"  # noqa: S108
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(here.encode() in command for command in commands)


def test_a_slurm_array_trains_every_trial_once(tmp_path: Path, environment: dict[str, str]) -> None:
    study = write_study(tmp_path, TINY, "tiny")
    for task in (1, 2):
        array = {
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_COUNT": "2",
            "SLURM_CPUS_PER_TASK": "1",
        }
        ended = bash("slurm-array.sh", study, folder=tmp_path, environment=environment | array)
        assert ended.returncode == 0, ended.stderr + ended.stdout
        assert records(tmp_path) == task


def test_a_job_and_a_driver_of_a_cluster_that_is_there_train_and_find_trained(
    tmp_path: Path, environment: dict[str, str], ray_cluster: str
) -> None:
    """The job's stand-in for `ray` does what a head does: runs the words after `--` where
    RAY_ADDRESS is set.
    """
    study = write_study(tmp_path, TINY, "tiny")
    submit = SUBMIT.format(address=ray_cluster)
    jobs = on_path(tmp_path / "jobs", ray=submit) | {
        k: v for k, v in environment.items() if k.startswith("DH2L_")
    }
    submitted = bash(
        "ray-job.sh", study, "http://head:8265", "--no-mlflow", folder=tmp_path, environment=jobs
    )
    assert submitted.returncode == 0, submitted.stderr + submitted.stdout
    assert submitted.stdout.count("/2] done ") == 2
    assert records(tmp_path) == 2
    refused = bash(
        "ray-job.sh", "/a/$(id).yaml", "http://head:8265", folder=tmp_path, environment=jobs
    )
    assert refused.returncode == 2
    assert "/a/$(id).yaml" in refused.stderr
    direct = bash(
        "address.sh", study, ray_cluster, "--no-mlflow", folder=tmp_path, environment=environment
    )
    assert direct.returncode == 0, direct.stderr + direct.stdout
    assert "/2] done" not in direct.stdout
    assert "(n=2)" in direct.stdout
