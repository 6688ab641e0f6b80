"""Study files, and the sentence and place of every mistake in them."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from study_fixtures import SEARCHED, SMALL, TWO_STAGES, planned, write_study

from dh2l.config.conditions import CONDITIONS, needed_parts
from dh2l.errors import UserError
from dh2l.io.document import Document
from dh2l.registry.entries import METRICS
from study.spec.arms import ARMS
from study.spec.json_schema import study_schema
from study.spec.settings import OWN_KEYS, Axis, config_keys
from study.spec.study_file import StudyFile, find_study, shipped_studies


def sentences(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    """The mistakes in a study, without the file's folder."""
    with pytest.raises(UserError) as caught:
        StudyFile(write_study(folder, text), overrides)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


def changed(old: str, new: str, text: str = SMALL) -> str:
    """The text with one part replaced."""
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_a_shipped_study_parses_and_says_what_it_reproduces_expects_and_costs(name: str) -> None:
    study = find_study(name).study
    assert all((study.title, study.reproduces, study.expected, study.cost))


def test_the_quickstart_and_the_paper_s_tables_are_shipped() -> None:
    assert {"quickstart", *(f"table{n}" for n in range(1, 7))} <= set(shipped_studies())


def test_a_study_has_the_name_of_its_file(tmp_path: Path) -> None:
    file = StudyFile(write_study(tmp_path, SMALL, "mine"))
    assert file.name == "mine"
    assert file.study.title == "A small study"


@pytest.mark.parametrize("arm", [*ARMS, "mma", "E+H0+mma", "mma+orthogonality"])
def test_every_arm_is_known(tmp_path: Path, arm: str) -> None:
    assert StudyFile(
        write_study(tmp_path, changed("- arm: baseline+l2", f"- arm: {arm}"))
    ).study.rows[0].arms == [arm]


def test_an_unknown_arm_is_a_sentence_with_the_nearest_arm_and_its_place(tmp_path: Path) -> None:
    assert sentences(tmp_path, changed("- arm: baseline+l2", "- arm: baselin")) == [
        "small.yaml:6:5: unknown arm 'baselin'; did you mean 'baseline' or 'baseline+l2'?"
    ]


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        ("H+E", "arm H+E is written E+H"),
        ("E+E", "arm E+E is written E"),
        ("H+H0", "arm H+H0 has both H and H0, which is H without its regulariser; remove one"),
        ("E+mna", "unknown arm 'E+mna'; did you mean 'E+mma' or 'E+H+mma' or 'E+H0+mma'?"),
    ],
)
def test_parts_of_an_arm_stand_once_and_in_order(tmp_path: Path, arm: str, sentence: str) -> None:
    assert sentences(tmp_path, changed("- arm: baseline+l2", f"- arm: {arm}")) == [
        f"small.yaml:6:5: {sentence}"
    ]


def test_an_unknown_metric_is_a_sentence_with_the_nearest_metric_and_its_place(
    tmp_path: Path,
) -> None:
    assert sentences(tmp_path, changed("metric: cosine", "metric: cosin")) == [
        "small.yaml:7:5: unknown metric 'cosin'; did you mean 'cosine'?"
    ]


def test_an_unknown_key_of_the_study_is_a_sentence_with_the_nearest_key_and_its_place(
    tmp_path: Path,
) -> None:
    assert sentences(tmp_path, SMALL + "ruel: oracle\n") == [
        "small.yaml:9:1: unknown key 'ruel'; did you mean 'rule'?"
    ]


def test_an_unknown_key_of_a_row_is_a_sentence_with_the_nearest_key_and_its_place(
    tmp_path: Path,
) -> None:
    text = changed("metric: cosine, set", "metrik: cosine, set")
    assert sentences(tmp_path, text) == [
        "small.yaml:7:14: unknown key 'metrik'; did you mean 'metric'?"
    ]


def test_an_unknown_config_field_is_a_sentence_with_the_nearest_field_and_its_place(
    tmp_path: Path,
) -> None:
    assert sentences(tmp_path, changed("epochs: 2", "epoch: 2")) == [
        "small.yaml:2:27: unknown config field 'epoch'; did you mean 'epochs'?"
    ]
    assert sentences(tmp_path, changed("set: {lambda_e: 0.1}", "set: {lamda_e: 0.1}"))[
        0
    ].startswith("small.yaml:7:36: unknown config field 'lamda_e'; did you mean 'lambda_e'")


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_field_that_a_study_sets_by_other_means_cannot_be_set(tmp_path: Path, key: str) -> None:
    (sentence,) = sentences(tmp_path, changed("epochs: 2", f"{key}: 2"))
    assert f"{key} cannot be set here" in sentence


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    text = (
        changed("metric: cosine", "metric: cosin").replace("epochs: 2", "epoch: 2")
        + "ruel: oracle\n"
    )
    assert len(sentences(tmp_path, text)) == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words\n", "3\n"])
def test_a_file_that_is_not_a_mapping_is_a_sentence(tmp_path: Path, text: str) -> None:
    (sentence,) = sentences(tmp_path, text)
    assert sentence.startswith("small.yaml: not a study file; expected a mapping")


@pytest.mark.parametrize("key", ["title", "rows", "columns", "seeds"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    document = Document(write_study(tmp_path, SMALL), "a study").values
    del document[key]
    (sentence,) = sentences(tmp_path, json.dumps(document))
    assert sentence == f"small.yaml:1:1: {key} is missing"


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("{}", "exactly one of grid, choice, uniform and loguniform"),
        ("{grid: [1], choice: [2]}", "exactly one of grid, choice, uniform and loguniform"),
        ("{uniform: [1, 1]}", "two rising bounds"),
        ("{uniform: [2, 1]}", "two rising bounds"),
        ("{loguniform: [0, 1]}", "two rising bounds above 0"),
        ("{loguniform: [-1, 1]}", "two rising bounds above 0"),
        ("{uniform: [1]}", "search.lambda_e.uniform"),
        ("{grid: []}", "search.lambda_e.grid is []"),
        ("{gird: [1]}", "unknown key 'gird'; did you mean 'grid'?"),
    ],
)
def test_an_axis_that_makes_no_sense_is_a_sentence_with_its_place(
    tmp_path: Path, axis: str, said: str
) -> None:
    found = sentences(tmp_path, changed("{grid: [0.1, 1, 10]}", axis, SEARCHED))
    assert said in found[0]
    assert found[0].startswith("small.yaml:7:")


@pytest.mark.parametrize(
    "axis",
    [
        "{grid: [0.1]}",
        "{choice: [0.1, 1]}",
        "{uniform: [0, 1]}",
        "{uniform: [-1, 1]}",
        "{loguniform: [1e-3, 1]}",
    ],
)
def test_each_of_the_four_kinds_of_axis_is_taken(tmp_path: Path, axis: str) -> None:
    study = StudyFile(write_study(tmp_path, changed("{grid: [0.1, 1, 10]}", axis, SEARCHED))).study
    (kind,) = study.search["lambda_e"].model_fields_set
    assert isinstance(study.search["lambda_e"], Axis)
    assert kind in axis


def test_a_row_cannot_search_a_field_that_its_arm_lacks(tmp_path: Path) -> None:
    conditional = [
        field for field in (*CONDITIONS, "lambda_mma", "mma_scope") if needed_parts(field)
    ]
    for field in conditional:
        parts = needed_parts(field)
        for arm in (arm for arm in ARMS if not set(arm.split("+")) & set(parts)):
            row = f"- {{arm: {arm}, search: {{{field}: {{grid: [1]}}}}}}"
            (sentence,) = sentences(tmp_path, changed("- arm: baseline+l2", row))
            assert sentence.startswith(
                f"small.yaml:6:5: the axis {field} does not exist in arm {arm}, only in "
            )


def test_a_row_without_e_and_h_has_no_metric(tmp_path: Path) -> None:
    for arm in ("baseline", "baseline+l2", "H0", "mma", "H0+orthogonality"):
        (sentence,) = sentences(
            tmp_path, changed("- arm: baseline+l2", f"- {{arm: {arm}, metric: cosine}}")
        )
        assert (
            sentence
            == f"small.yaml:6:5: arm {arm} has no metric, but the row names one; leave `metric` out"
        )


def test_one_name_cannot_stand_for_several_rows(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, changed("metric: cosine", "metric: [cosine, am], name: mine"))
    assert sentence.startswith("small.yaml:7:5: the name 'mine' would belong to several rows")


@pytest.mark.parametrize("row", ["{arm: []}", "{arm: E, metric: []}"])
def test_a_row_of_nothing_is_a_mistake(tmp_path: Path, row: str) -> None:
    assert sentences(tmp_path, changed("- arm: baseline+l2", f"- {row}"))[0].startswith(
        "small.yaml:6:5: "
    )


def test_a_doubled_seed_and_a_doubled_column_are_mistakes(tmp_path: Path) -> None:
    assert "each may occur only once" in sentences(tmp_path, changed("[0, 1]", "[0, 0]"))[0]
    twice = changed("columns:\n", "columns:\n  - {name: digits}\n")
    assert "each name may occur only once" in sentences(tmp_path, twice)[0]


def test_a_negative_or_fractional_seed_is_a_sentence_at_its_place(tmp_path: Path) -> None:
    assert sentences(tmp_path, changed("[0, 1]", "[0, -1]"))[0].startswith(
        "small.yaml:8:12: seeds.1 is -1"
    )
    assert sentences(tmp_path, changed("[0, 1]", "[0, 1.5]"))[0].startswith(
        "small.yaml:8:12: seeds.1 is 1.5"
    )


def test_a_value_of_no_known_kind_is_one_sentence_at_its_place(tmp_path: Path) -> None:
    for mistake in ("{a: 1}", "[[1]]", ".nan"):
        found = sentences(tmp_path, changed("epochs: 2", f"epochs: {mistake}"))
        assert len(found) == 1, found
        assert found[0].startswith("small.yaml:2:27: ")


def test_an_override_of_a_config_field_changes_the_config_and_the_name(tmp_path: Path) -> None:
    file = StudyFile(write_study(tmp_path, SMALL), {"epochs": 7, "lr": 0.01})
    assert file.study.config == {"dataset": "digits", "epochs": 7, "batch_size": 256, "lr": 0.01}
    assert file.name == "small@epochs=7@lr=0.01"


def test_an_override_of_a_study_key_changes_the_study_and_the_name(tmp_path: Path) -> None:
    file = find_study(str(write_study(tmp_path, SMALL)), ["seeds=[4, 5]", "title=no"])
    assert file.study.seeds == [4, 5]
    assert file.study.title == "no"
    assert file.name == "small@seeds=4,5@title=no"


def test_a_name_with_overrides_is_one_folder(tmp_path: Path) -> None:
    file = StudyFile(write_study(tmp_path, SMALL), {"title": "../up and/away"})
    assert "/" not in file.name
    assert file.study.title == "../up and/away"


def test_an_override_of_a_study_without_config_makes_one(tmp_path: Path) -> None:
    text = changed("config: {dataset: digits, epochs: 2, batch_size: 256}\n", "")
    assert StudyFile(write_study(tmp_path, text), {"epochs": 7}).study.config == {"epochs": 7}


def test_a_mistake_in_an_override_is_placed_on_the_command_line(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, SMALL, {"epoch": 7})
    assert sentence == "--set epoch: unknown config field 'epoch'; did you mean 'epochs'?"
    assert sentences(tmp_path, SMALL, {"seeds": [-1]})[0].startswith("--set seeds: ")


def test_a_mistake_in_the_file_is_placed_in_the_file_whatever_is_overridden(tmp_path: Path) -> None:
    text = changed("set: {model: resnet20}", "set: {epochs: {a: 1}}")
    assert all(
        line.startswith("small.yaml:4:26: ") for line in sentences(tmp_path, text, {"epochs": 7})
    )


def test_an_override_beside_a_config_that_is_no_mapping_is_a_sentence(tmp_path: Path) -> None:
    text = changed("{dataset: digits, epochs: 2, batch_size: 256}", "[1]")
    assert "config is [1]" in sentences(tmp_path, text, {"epochs": 7})[0]


@pytest.mark.parametrize("override", ["epochs", "=2", " =2", ""])
def test_an_override_must_read_key_equals_value(tmp_path: Path, override: str) -> None:
    with pytest.raises(
        UserError, match="must have the form key=value; for instance --set epochs=2"
    ):
        find_study(str(write_study(tmp_path, SMALL)), [override])


def test_an_unknown_study_is_a_sentence_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        find_study("quikstart")
    assert (
        str(caught.value)
        == "unknown study 'quikstart'; did you mean 'quickstart'? (or give the path of a YAML file)"
    )


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return study_schema()


def test_the_schema_is_a_valid_json_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False)


@pytest.mark.parametrize("path", [*shipped_studies().values()], ids=lambda path: path.stem)
def test_the_schema_accepts_a_shipped_study(schema: dict[str, Any], path: Path) -> None:
    jsonschema.validate(Document(path, "a study").values, schema)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs: 2", "epoch: 2"),
        ("epochs: 2", "epochs: many"),
        ("epochs: 2", "epochs: 0"),
        ("epochs: 2", "seed: 2"),
        ("arm: baseline+l2", "arm: baselin"),
        ("metric: cosine", "metric: cosin"),
        ("lambda_e: 0.1", "lambda_e: -0.1"),
        ("seeds: [0, 1]", "seeds: []"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nruel: oracle"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nrule: test"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nsearch: {lamda_e: {grid: [1]}}"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nsearch: {lambda_e: {gird: [1]}}"),
        ("title: A small study", "reproduces: nothing"),
    ],
)
def test_the_schema_refuses_a_bad_study(
    schema: dict[str, Any], tmp_path: Path, old: str, new: str
) -> None:
    jsonschema.validate(Document(write_study(tmp_path, SMALL), "a study").values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            Document(write_study(tmp_path, changed(old, new)), "a study").values, schema
        )


def test_the_schema_asks_for_title_rows_columns_and_seeds_where_a_study_extends_no_other(
    schema: dict[str, Any], tmp_path: Path
) -> None:
    text = "config: {epochs: 7}\n"
    jsonschema.validate(
        Document(write_study(tmp_path, f"extends: quickstart\n{text}"), "a study").values, schema
    )
    with pytest.raises(jsonschema.ValidationError, match="'title' is a required property"):
        jsonschema.validate(Document(write_study(tmp_path, text), "a study").values, schema)


def test_the_schema_lists_every_config_field_with_its_description_and_every_metric(
    schema: dict[str, Any],
) -> None:
    fields = schema["properties"]["config"]["properties"]
    assert set(fields) == config_keys()
    assert all(field.get("description") for field in fields.values())
    assert schema["$defs"]["Row"]["properties"]["metric"]["anyOf"][0]["enum"] == list(METRICS)


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        (
            "dataset: digits",
            "dataset: 2020-01-01",
            "2:10",
            "2020-01-01 (a date) is not a value of a config field",
        ),
        (
            "name: digits",
            "name: 50",
            "4:6",
            "columns.0.name is 50; expected a word. Put it in quotes",
        ),
        (
            "title: A small study",
            "title: 2020-01-01",
            "1:1",
            "title is 2020-01-01 (a date); expected a word.",
        ),
        (
            "arm: E,",
            "arm: [E, 3],",
            "7:6",
            "arm is ['E', 3], but must be a string or a list of strings. Put it in quotes",
        ),
        (
            "seeds: [0, 1]",
            "seeds: [0, 1.0]",
            "8:12",
            "seeds.1 is 1.0; expected a whole number. Write 1",
        ),
        (
            "seeds: [0, 1]",
            "seeds: ['0', 1]",
            "8:9",
            "seeds.0 is '0'; expected a whole number. Remove the quotes",
        ),
        (
            "epochs: 2",
            "epochs: 2, learning_rate: 1",
            "2:38",
            "unknown config field 'learning_rate'; did you mean 'lr'?",
        ),
        (
            "seeds: [0, 1]",
            "seeds: [0, 1]\nbs: 3",
            "9:1",
            "bs (here batch_size) is a field of a trial's config",
        ),
        (
            "seeds: [0, 1]",
            "random_seeds: [0, 1]\nseeds: [1]",
            "8:1",
            "unknown key 'random_seeds'; did you mean 'seeds'",
        ),
        (
            "seeds: [0, 1]",
            "seeds: [0, 1]\n3: 4",
            "9:1",
            "the key 3 is a number; expected a word. Put it in quotes",
        ),
    ],
)
def test_what_yaml_1_2_reads_otherwise_than_meant_is_a_sentence_with_the_remedy(
    tmp_path: Path, old: str, new: str, place: str, said: str
) -> None:
    found = sentences(tmp_path, changed(old, new))
    assert any(line.startswith(f"small.yaml:{place}: {said}") for line in found), found


def test_a_study_that_is_not_there_is_told_as_a_file_where_a_path_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path, SMALL, "mine")
    monkeypatch.chdir(tmp_path)
    for name, said in (
        (
            "bad/nofile.yaml",
            "the study 'bad/nofile.yaml': no such file, nor its folder; expected a YAML file.",
        ),
        (
            "mien.yaml",
            "the study 'mien.yaml': no such file; expected a YAML file; did you mean 'mine.yaml'?",
        ),
        (
            "quickstart.yaml",
            "the study 'quickstart.yaml': no such file; expected a YAML file; did you mean "
            "'quickstart'?",
        ),
        ("./.", "the study './.' is a folder; expected a YAML file."),
    ):
        with pytest.raises(UserError) as caught:
            find_study(name)
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "key", "sentence"),
    [
        ("[10, 11, 12]", "[1, 2]", "seeds: [1, 2]", "seeds [1] both choose"),
        ("seeds: [0, 1]", "accuracy: oracle\nseeds: [0, 1]", "accuracy:", "confirm trains without"),
        ("metric: cosine", "lr_final: 0.2, schedule: cosine", "lr_final:", "lr_final is 0.2"),
        ("metric: cosine", "warmup_epochs: 2, schedule: rex", "warmup_epochs:", "warmup_epochs is"),
        ("metric: cosine", "nesterov: true, momentum: 0", "nesterov:", "nesterov needs"),
    ],
)
def test_a_mistake_between_two_settings_is_reported_at_one_of_them(
    tmp_path: Path, old: str, new: str, key: str, sentence: str
) -> None:
    text = TWO_STAGES.replace(old, new, 1)
    with pytest.raises(UserError) as caught:
        planned(tmp_path, text)
    line, column = next(
        (number, row.index(key) + 1)
        for number, row in enumerate(text.splitlines(), 1)
        if key in row
    )
    assert str(caught.value).startswith(f"{tmp_path / 'small.yaml'}:{line}:{column}: {sentence}")
