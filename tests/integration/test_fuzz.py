"""Whatever is in a file, what reads it gives a value or a sentence for its user, never another
exception.
"""

import hashlib
import io
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import EDITS, Edit, cases, mangled, sentence_or_value
from hypothesis import example, given
from hypothesis import strategies as st
from study_fixtures import SEARCHED, SMALL, done, made_manifest, planned

from dh2l.data import Manifest, read_tree
from dh2l.data.registry import check_name
from dh2l.system.processes import machine_id
from dh2l.training import checkpoint
from study.records.arrays import read_arrays
from study.records.leases import Claims
from study.records.record import Record, parse_record
from study.records.store import RecordStore
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile

WORDS = st.sampled_from(
    [
        *(
            "&a",
            "*a",
            "<<: ",
            "!!python/object:os.system",
            "!!float ",
            "!!timestamp ",
            "!!binary ",
            "!!set ",
            "? ",
            "- ",
        ),
        *(
            "[",
            "]",
            "{",
            "}",
            "|",
            ">",
            "\t",
            "\0",
            "\ufeff",
            "---",
            "...",
            "%YAML 1.1",
            "#",
            "'",
            '"',
            ": ",
        ),
        *(
            "0x",
            "1e999",
            ".nan",
            ".inf",
            "-1",
            "9" * 90,
            "null",
            "true",
            "~nobody",
            "/dev/zero",
            "..",
            "2001-01-01",
        ),
        *(
            "seeds",
            "search",
            "rows",
            "extends",
            "when",
            "samples",
            "tree",
            "weights",
            "dataset",
            "model",
            "set",
            "arm",
        ),
    ]
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


# ----------------------------------------------------------------------------------------------
# studies and trees


def plan_of(folder: Path, content: bytes) -> Any:
    path = folder / "study.yaml"
    path.write_bytes(content)
    return sentence_or_value(lambda: make_plan(StudyFile(path), manifest_of))


def manifest_of(name: str) -> Manifest:
    check_name(name)
    return made_manifest(name)


@cases(100)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_study_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    plan_of(tmp_path, content)


@cases(250)
@given(
    st.sampled_from([SMALL, SEARCHED]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), WORDS), max_size=3),
)
def test_a_mangled_study_is_a_study_or_a_sentence(
    tmp_path: Path, text: str, edits: list[tuple[float, int, str]]
) -> None:
    plan_of(
        tmp_path,
        mangled(text.encode(), [(place, length, word.encode()) for place, length, word in edits]),
    )


KEYS = st.sampled_from(
    ["title", "extends", "config", "rows", "columns", "seeds", "search", "samples", "confirm", "searcher", "scheduler",
     "paper_table", "rule", "accuracy", "search_seed"]
)  # fmt: skip
FIELDS = st.sampled_from(
    ["dataset", "model", "tree", "weights", "epochs", "metric", "lambda_e", "lambda_l", "lr_milestones", "lambda_mma",
     "statistics", "precision", "regularisers", "protocol"]
)  # fmt: skip


@cases(250)
@given(st.dictionaries(KEYS, PLAIN, max_size=2), st.dictionaries(FIELDS, PLAIN, max_size=2))
@example({"samples": 10**9, "search": {"lambda_e": {"uniform": [0, 1]}}}, {})
@example({"extends": "x" * 300}, {})
@example({"extends": "a\0b"}, {})
@example({}, {"tree": "a\0b"})
@example({}, {"weights": "a\0b"})
@example({}, {"weights": "~nobody/weights.pt"})
@example({}, {"weights": "/dev/zero"})
def test_a_study_with_any_value_anywhere_is_a_study_or_a_sentence(
    tmp_path: Path, keys: dict[str, Any], fields: dict[str, Any]
) -> None:
    study = {
        "title": "t",
        "rows": [{"arm": "E", "metric": "cosine", "set": {"lambda_e": 0.1}}],
        "columns": [{"name": "c"}],
        "seeds": [0],
        "config": {"dataset": "digits", **fields},
    }
    plan_of(tmp_path, json.dumps(study | keys).encode())


@cases(150)
@given(st.binary(max_size=60) | PLAIN.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_class_tree_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tree.yaml"
    path.write_bytes(content)
    sentence_or_value(lambda: read_tree(path, (("a", "0"), ("a", "1"))))


# ----------------------------------------------------------------------------------------------
# records and claims


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    plan = planned(tmp_path_factory.mktemp("study"), SMALL)
    return done(next(iter(plan.choosing.values())), 90)


def filed(folder: Path, record: Record, body: bytes) -> Path:
    """A file of that body whose checksum fits."""
    path = folder / f"{record.identity}.json"
    path.parent.mkdir(exist_ok=True)
    head = b'{"checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'", "record":\n'
    path.write_bytes(head + body + b"}\n")
    return path


def assert_read(folder: Path, path: Path) -> None:
    found = RecordStore(folder).read()
    assert (path.stem in found.records) + (path in found.damaged) + (
        path.stem in found.conflicts
    ) == 1
    sentence_or_value(lambda: parse_record(path))


@cases(150)
@given(EDITS)
def test_a_mangled_record_is_read_or_damaged(
    record: Record, tmp_path: Path, edits: list[Edit]
) -> None:
    path = filed(tmp_path, record, record.model_dump_json().encode())
    path.write_bytes(mangled(path.read_bytes(), edits))
    assert_read(tmp_path, path)


@cases(150)
@given(EDITS)
@example([(0, 10**6, b"[" * 100_000)])
@example([(0, 10**6, b'{"version": ' + b"[" * 100_000)])
@example([(0, 10**6, b'{"version": 99')])
@example([(0, 10**6, b"\xff")])
@example([(0, 10**6, b'{"version": ' + b"9" * 5000 + b"}")])
def test_a_record_of_any_content_whose_checksum_fits_is_read_or_damaged(
    record: Record, tmp_path: Path, edits: list[Edit]
) -> None:
    body = mangled(record.model_dump_json().encode(), edits)
    assert_read(tmp_path, filed(tmp_path, record, body))


@cases(150)
@given(st.sampled_from(sorted(Record.model_fields)), PLAIN)
@example("version", 99)
def test_a_record_with_any_value_in_a_field_is_read_or_damaged(
    record: Record, tmp_path: Path, field: str, value: Any
) -> None:
    body = json.dumps(json.loads(record.model_dump_json()) | {field: value}).encode()
    assert_read(tmp_path, filed(tmp_path, record, body))


def packed(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


ARRAYS = packed({"vectors": np.ones((3, 4)), "labels": np.arange(3, dtype=np.uint16)})


@cases(200)
@given(EDITS)
@example([(0, 10**6, b"PK")])
@example([(0, 10**6, packed({"objects": np.array([{}], dtype=object)}))])
def test_mangled_arrays_whose_hash_fits_are_read_or_a_sentence(
    record: Record, tmp_path: Path, edits: list[Edit]
) -> None:
    content = mangled(ARRAYS, edits)
    (tmp_path / "record.npz").write_bytes(content)
    fitting = record.model_copy(update={"arrays_sha256": hashlib.sha256(content).hexdigest()})
    sentence_or_value(lambda: read_arrays(fitting, tmp_path / "record.json"))


CLAIM = {
    "host": "h",
    "machine": "m",
    "pid": 1,
    "born": 1.0,
    "token": "t",
    "epoch": 1,
    "epochs": 2,
    "config": {"seed": 0},
}


@cases(200)
@given(st.binary(max_size=60) | st.dictionaries(st.sampled_from(sorted(CLAIM)), PLAIN, max_size=2).map(
    lambda changes: json.dumps(CLAIM | changes).encode()
))  # fmt: skip
@example(b"[" * 100_000)
def test_any_bytes_are_a_claim_or_none(tmp_path: Path, content: bytes) -> None:
    claims = Claims(tmp_path)
    (tmp_path / "trial.json").write_bytes(content)
    claims.alive("trial")
    assert set(claims.everyone()) <= {"trial"}


@pytest.mark.parametrize("pid", [-1, 0, 2**31, 2**80])
def test_a_claim_of_a_process_that_cannot_be_is_dead(tmp_path: Path, pid: int) -> None:
    content = json.dumps(CLAIM | {"pid": pid, "machine": machine_id()})
    (tmp_path / "trial.json").write_text(content, encoding="utf-8")
    assert Claims(tmp_path).alive("trial") is None


STATE = io.BytesIO()
torch.save({"version": checkpoint.VERSION, "identity": "another", "w": torch.ones(3)}, STATE)


@cases(120)
@given(EDITS)
@example([(0, 10**6, b"")])
@example([(0, 10**6, pickle.dumps([1, 2], protocol=2))])
@example([(0, 10**6, b"\x80\x02}r\xff\xff\xff\x7f.")])
def test_a_checkpoint_of_any_content_whose_digest_fits_is_left_out(
    tmp_path: Path, edits: list[Edit]
) -> None:
    content = mangled(STATE.getvalue(), edits)
    checkpoint.path_in(tmp_path).write_bytes(hashlib.sha256(content).digest() + content)
    with warnings.catch_warnings(
        record=True
    ) as said:  # torch may warn too, of a byte that was changed
        warnings.simplefilter("always")
        assert checkpoint.load(tmp_path, "mine") is None
    assert "is left out" in str(said[-1].message)
