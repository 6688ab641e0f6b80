"""Foreign input runs nothing, leads nowhere, and reveals no password."""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import write_cub
from study_fixtures import (
    SMALL,
    CommandLine,
    clean_environment,
    command,
    made_manifest,
    planned,
    write_study,
)

from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest, read_tree
from dh2l.data.registry import check_name
from dh2l.data.sources.archives import members, unpack
from dh2l.data.sources.cub import read_cub200
from dh2l.errors import DataError, UserError
from dh2l.io import npz
from dh2l.io import yaml as yamlfile
from study.cli import mlflow
from study.execution.trial_data import load_trial_data
from study.records.paths import Places
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile, claim_name
from study.tracking.live import LiveView
from study.tracking.operations import view_links
from study.tracking.uri import public_uri, redact

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)


def archive(path: Path, *heads: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for head in heads:
            tar.addfile(head, io.BytesIO(b"x" * head.size) if head.isfile() else None)
    return path


def head(
    name: str, size: int = 4, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, link
    return made


def test_only_files_of_an_archive_that_stay_in_its_folder_are_unpacked(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.tgz",
        head("../outside"),
        head(str(tmp_path / "absolute")),
        head("in/../../outside"),
        head("link", 0, tarfile.SYMTYPE, "/etc/passwd"),
        head("hard", 0, tarfile.LNKTYPE, "/etc/passwd"),
        head("device", 0, tarfile.CHRTYPE),
        head("pipe", 0, tarfile.FIFOTYPE),
        head("in/file"),
    )
    unpack(path, tmp_path / "folder", re.compile(".*"), lambda _: None)
    assert sorted(p.name for p in (tmp_path / "folder").rglob("*")) == ["file", "in"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz", "folder"]


def test_a_member_that_is_too_large_is_named_and_not_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tgz", head("large", 5000))
    with pytest.raises(
        DataError, match=r"large has 5,000 bytes, but a file in it has 4,999 at most"
    ):
        list(members(path, re.compile("large"), 4999))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_says_it_is_absurdly_long_is_refused(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        assert tar.fileobj is not None
        tar.fileobj.write(head("first", 10**11, kind).tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match=r"100,000,000,000 bytes"):
        list(members(path, re.compile(".*"), 100))


@pytest.mark.parametrize("file", ["../../../secret.jpg", "/etc/passwd", "a/../b.jpg", "../b.jpg"])
def test_a_list_of_cub_names_no_image_elsewhere(file: str, tmp_path: Path) -> None:
    base = write_cub(tmp_path)
    lines = (base / "images.txt").read_text().splitlines()
    (base / "images.txt").write_text("\n".join([f"1 {file}", *lines[1:]]))
    with pytest.raises(DataError, match=r"but an image is CLASS/FILE"):
        read_cub200(base, tmp_path, lambda _: None)


def test_arrays_that_would_fill_memory_or_be_unpickled_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, zeros=np.zeros(10_000))
    monkeypatch.setattr(npz, "LARGEST", 80_000)
    with pytest.raises(ValueError, match=r"would have 80,128 bytes"):
        npz.read(path)
    promising = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        promising, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    )
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("zeros.npy", promising.getvalue())
    with pytest.raises(npz.UNREADABLE):
        npz.read(path)
    np.savez(path, objects=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        npz.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"more than 100,000 values, aliases counted each time"),
        ("[" * 100_000, r"more than 40 lists and mappings deep"),
        ("a: &a [*a]", r"\*a repeats itself"),
        ("a: 0x" + "f" * 5000, r"a number has more than 100 characters"),
        ("#" * 1_000_001, r"has more than 1,000,000 bytes"),
    ],
    ids=["laughs", "deep", "itself", "number", "large"],
)
def test_yaml_that_is_too_much_is_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, text)
    with pytest.raises(UserError, match=message):
        StudyFile(path)
    with pytest.raises(UserError, match=message):
        read_tree(path, (("a",),))


def test_a_pipe_is_no_study_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="is not a regular file, so it cannot be a study"):
        yamlfile.read_text(tmp_path / "pipe.yaml", "a study")


def test_a_study_that_would_expand_without_end_is_a_sentence(tmp_path: Path) -> None:
    text = SMALL + "samples: 1000000000\nsearch: {lr: {uniform: [0, 1]}}\n"
    with pytest.raises(UserError, match=r"more than 100,000 trials"):
        planned(tmp_path, text)


@pytest.mark.parametrize(
    "change",
    [
        "title: !!python/object/apply:os.mkdir ['{ran}']\n",
        "title: !!python/module:evil\n",
        "extends: evil.py\n",
        "extends: evil\n",
        "plugins: [evil.py]\n",
        "plugin: evil.py\n",
        "columns: [{{name: c, set: {{model: evil.run}}}}]\n",
        "columns: [{{name: c, set: {{model: os.system}}}}]\n",
        "config: {{metric: evil.run}}\n",
        "config: {{dataset: ../evil}}\n",
        "config: {{tree: evil.py}}\n",
        "config: {{evil.run: 1}}\n",
    ],
)
def test_a_study_file_alone_runs_no_code(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(ran)!r})\ndef run(*_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    key = change.partition(":")[0]
    lines = (
        SMALL.replace("columns:\n  -", "columns: [")
        .replace("}}\nrows", "}}]\nrows")
        .splitlines(keepends=True)
    )
    rest = "".join(line for line in lines if not line.startswith(f"{key}:"))
    file = write_study(tmp_path, change.format(ran=ran) + rest)

    def manifest_of(name: str) -> Manifest:
        check_name(name)
        return made_manifest(name)

    with pytest.raises(
        UserError, match=r"constructor for the tag|valid YAML|unknown|cannot name a data set|tree"
    ):
        make_plan(StudyFile(file), manifest_of)
    assert not ran.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("name", ["...yaml", "..yaml", "a b$(x).yaml", "é" * 60 + ".yaml"])
def test_a_study_is_a_folder_of_its_own_whatever_its_file_is_called(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(SMALL)
    folder = Places.of(tmp_path / "results", tmp_path).table(StudyFile(path).name)
    folder.mkdir(parents=True)
    assert folder.resolve().parent == tmp_path / "results" / "tables"


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "/etc", ".hidden", "a\0b", "$(x)"])
def test_no_name_from_a_file_leads_out_of_the_results(name: str, tmp_path: Path) -> None:
    places = Places.of(tmp_path / "results", tmp_path)
    for place in (places.manifest, places.tree, places.checkpoint, places.table):
        with pytest.raises(UserError, match="cannot name a file"):
            place(name)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"/" + b"x" * 5000, b"/a\0b"])
def test_a_damaged_note_of_a_study_s_file_gives_its_name_to_nobody(
    content: bytes, tmp_path: Path
) -> None:
    places, file = (
        Places.of(tmp_path / "results", tmp_path),
        StudyFile(write_study(tmp_path, SMALL, "mine")),
    )
    places.table("mine").mkdir(parents=True)
    (places.table("mine") / "file").write_bytes(content)
    claim_name(file, places)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match="belongs to"):
        claim_name(
            StudyFile(write_study(tmp_path / "elsewhere", SMALL.replace("0.1", "0.2"), "mine")),
            places,
        )


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (
            "postgresql://me:s3cr%40t@host:5432/runs?sslpassword=other",
            "postgresql://host:5432/runs",
        ),
        ("https://t0kenvalue@host/", "https://host/"),
        ("https://host/x?token=t0kenvalue#part", "https://host/x"),
        ("postgresql://me:s3/cr@host/runs", "postgresql://host/runs"),
        ("postgresql://me:s3?cr@host/runs", "postgresql://***"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("me:s3cr@t@host:1", "***@host:1"),
        ("http:/me:s3cr@host/x", "***@host/x"),
        ("./mlruns", "./mlruns"),
    ],
)
def test_the_name_of_a_store_has_no_user_password_or_query(uri: str, shown: str) -> None:
    assert public_uri(uri) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Could not parse URL from 'postgresql://me:s3cr%40t@host/runs?key=qu%3Dery'",
        "password 's3cr@t' is wrong",
        "url: /api/2.0/mlflow?key=qu%3Dery",
        "bad option qu=ery",
        "Failed to parse: https://somebody:s3cr%40t@elsewhere/x",
        "401 for url https://host with env-secret",
    ],
)
def test_no_error_repeats_a_password_encoded_or_not(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:s3cr%40t@host/runs?key=qu%3Dery")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "env-secret")
    said = redact(text)
    assert not [
        secret
        for secret in ("s3cr%40t", "s3cr@t", "qu%3Dery", "qu=ery", "env-secret")
        if secret in said
    ]


@pytest.mark.parametrize("uri", ["me:s3cret@host:1", "http:/me:s3cret@host:1"])
def test_no_error_repeats_a_password_of_an_address_without_its_slashes(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "s3cret" not in redact(f"unsupported URI '{uri}', and s3cret is wrong")


@pytest.mark.parametrize(
    "uri",
    ["nonsense+driver://me:s3cr%40t@127.0.0.1:1/x", "http://me:s3cr%40t@127.0.0.1:1/?k=s3cr@t"],
)
def test_a_store_that_fails_is_told_of_without_its_password(
    uri: str, empty: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as failed:
        view_links(empty)
    live = LiveView(empty, "small")
    live._on_failure(ValueError(f"cannot connect to {uri} with s3cr@t"))
    said = str(failed.value) + live.problem
    assert "s3cr" not in said


def test_the_ui_listens_on_127_0_0_1_alone(empty: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    empty.mlflow.mkdir(parents=True)
    (empty.mlflow / "mlflow.db").touch()
    monkeypatch.chdir(
        empty.local
    )  # `ui` leaves it, for a user's own files there are not the server's
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _file, words, _environment: commands.append(words))
    monkeypatch.setattr("study.tracking.operations.view_links", lambda _places, _say: {})
    mlflow.ui(str(empty.results), port=5999)
    (words,) = commands
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words.count("--host") == 1
    assert Path.cwd() == empty.mlflow


RAY = """
import os, psutil, ray
from study.execution.ray_backend.connection import cluster
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with cluster(None):
    print("CPUS", ray.cluster_resources()["CPU"])
    ray.get(ray.remote(lambda: 1).remote())
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                print("LISTENS", one.laddr.ip)
"""


def test_a_ray_of_our_own_listens_on_127_0_0_1_alone_and_has_the_cores_that_this_process_may_use() -> (
    None
):
    run = subprocess.run(
        [sys.executable, "-c", RAY],
        capture_output=True,
        text=True,
        timeout=180,
        env=clean_environment(),
        check=False,
    )
    if hasattr(os, "sched_setaffinity"):
        assert run.stdout.startswith("CPUS 1.0\n"), run.stderr
    found = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("LISTENS")]
    assert len(found) >= 3, run.stderr
    assert set(found) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_output_that_cannot_have_our_letters_still_shows_the_table(
    places: Places, tmp_path: Path
) -> None:
    study = write_study(tmp_path, SMALL.replace("A small study", "λ ± spread"))
    where = ("--results", places.results, "--data", places.data)
    run = command("table", study, *where, environment=clean_environment(PYTHONIOENCODING="ascii"))
    assert "Traceback" not in run.stderr
    assert run.returncode == 0
    assert "? ? spread" in run.stdout


def test_brackets_in_a_path_are_no_markup(cli: CommandLine, tmp_path: Path) -> None:
    study, file = write_study(tmp_path, SMALL), tmp_path / "[/x].md"
    code, shown, _ = cli("export", study, "--output", file)
    assert code == 0
    assert str(file) in shown


@pytest.mark.parametrize("content", [None, b"", b"[" * 100_000, b'{"a": 1}', b"[[1]]"])
def test_a_class_tree_beside_the_records_that_is_damaged_is_named(
    content: bytes | None, digits: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tree.json"
    if content is not None:
        file.write_bytes(content)
    config = TrainConfig(dataset="digits", tree="shapes")
    with pytest.raises(DataError, match=r"the class tree .*tree\.json"):
        load_trial_data(config, digits, file)
