"""The report: its page, and the numbers behind its figures."""

import re
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from mlflow import MlflowClient
from study_fixtures import (
    SEARCHED,
    SMALL,
    CommandLine,
    clean_environment,
    done,
    places_in,
    planned,
    standing_of,
    unfinished,
    write_study,
)

from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from dh2l.tree import ClassTree
from study.analysis.class_vectors import (
    Trees,
    angle_frame,
    blocks,
    by_height,
    cosines,
    height_name,
    tree_order,
)
from study.analysis.learning_curves import band, curve_frame
from study.records.paths import Places
from study.records.record import Record
from study.records.store import RecordStore
from study.reporting.html import report_html
from study.spec.plan import Plan, make_plan
from study.spec.study_file import StudyFile
from study.state.load import read_state
from study.state.results import StudyResults
from study.state.study_state import StudyState
from study.tracking.uri import tracking_uri

WITH_H = """\
title: Two ways, "a < b" & more
config: {dataset: made, epochs: 3, batch_size: 8}
columns:
  - {name: left, set: {model: resnet20}}
  - {name: right, set: {model: resnet32}}
rows:
  - arm: baseline+l2
  - {arm: [E, E+H], metric: cosine, set: {lambda_e: 0.1}}
search:
  lambda_l: {grid: [0.01, 0.1, 1]}
seeds: [0, 1, 2]
"""
DEEP = (
    ("a", "p", "0"),
    ("b", "q", "1"),
    ("a", "r", "2"),
    ("a", "p", "3"),
    ("b", "q", "4"),
    ("a", "r", "5"),
)
"""Three levels; the classes of a node do not stand together."""
SECTIONS = (
    "tables",
    "differences",
    "curves",
    "responses",
    "angles",
    "violations",
    "failures",
    "provenance",
)
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """A page read tag by tag; a tag that is closed out of turn is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every tag of a name."""
        return [attributes for name, attributes in self.tags if name == tag]


def history(config: TrainConfig, epochs: int = 3) -> dict[str, np.ndarray]:
    """Arrays as a trial leaves them."""
    rng = np.random.default_rng(config.seed)
    names = ["train_cross_entropy", "validation_accuracy", "test_accuracy"]
    names += [
        "violation_c1",
        "violation_c2",
        "violation_c3",
        "clamped_fraction",
    ] * config.hierarchical
    curves = {f"history.{name}": rng.random(epochs) for name in names}
    labels = np.arange(12, dtype=np.uint16) % 3
    predictions = np.where(rng.random(12) < 0.7, labels, 0).astype(np.uint16)
    vectors = rng.normal(size=(3, 4)).astype(np.float32)
    return {**curves, "predictions.last": predictions, "labels": labels, "vectors": vectors}


def filed(plan: Plan, places: Places, *, without: tuple[str, ...] = ()) -> StudyState:
    """The standing of a plan whose trials are all done, with their arrays but those of some
    identities.
    """
    store = RecordStore(places.trials)
    for i, (identity, config) in enumerate(plan.choosing.items()):
        arrays = None if identity in without else history(config)
        store.write(done(config, 60 + i % 7, 50 + i % 5), arrays)
    return read_state(plan, places)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudyState:
    """A finished study of two columns with a search, baseline, E and E+H."""
    folder = tmp_path_factory.mktemp("whole")
    return filed(planned(folder, WITH_H.replace("", "")), places_in(folder))


@pytest.fixture(scope="module")
def html(whole: StudyState) -> str:
    return report_html(StudyResults(whole))


def captions(html: str) -> list[str]:
    return [" ".join(text.split()) for text in Page(html).text["figcaption"]]


def section(html: str, name: str) -> str:
    """Return the text of a section, without its figures and tags."""
    found = re.search(rf'<section id="{name}".*?</section>', html, flags=re.DOTALL)
    assert found is not None
    return " ".join(
        re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", "", found[0], flags=re.DOTALL)).split()
    )


# -- the page


def test_every_tag_is_closed_and_every_section_is_there(html: str) -> None:
    page = Page(html)
    assert [attributes["id"] for attributes in page.all("section")] == list(SECTIONS)
    assert [attributes["href"] for attributes in page.all("a")] == [f"#{name}" for name in SECTIONS]


def test_the_page_needs_no_network_and_no_script(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, key)
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_ids_stand_once_and_what_is_referred_to_is_there(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:url\(|href=")#([^)"]+)', html))
    referred |= {
        attributes["aria-labelledby"]
        for _, attributes in page.tags
        if "aria-labelledby" in attributes
    }
    assert referred <= set(ids)


def test_every_figure_says_what_it_shows_and_every_table_names_its_rows_and_columns(
    html: str,
) -> None:
    page = Page(html)
    figures = page.all("svg")
    shown = [text.split(". ", 2)[2] for text in captions(html) if text.startswith("Figure ")]
    assert [figure["aria-label"] for figure in figures] == shown
    assert all(figure["role"] == "img" for figure in figures)
    assert {attributes.get("scope") for attributes in page.all("th")} == {"row", "col"}


def test_the_captions_read_word_for_word(html: str) -> None:
    left = [text for text in captions(html) if ", right" not in text]
    assert left == [
        "Table 1. Test accuracy in percent.",
        "Table 2. What each number is worth.",
        "Figure 1. Differences in accuracy. Difference in test accuracy, in percentage points, "
        "from the baseline of "
        "the same column with the same weight decay. Dot and thick line, over seeds: mean and "
        "Welch's 95% interval, of "
        "this cell alone and not adjusted for the number of cells; an open dot has no interval "
        "(Table 2 says why). "
        "Thin line, over test images: bootstrap 95% interval that takes the trained networks as "
        "fixed.",
        "Figure 2. Validation accuracy, left. Validation accuracy in percent against epochs, "
        "left: mean over seeds, "
        "shaded ± 1 sample standard deviation. A panel for each row of the table; the baselines, "
        "in grey, stand in "
        "each.",
        "Figure 3. Training loss, left. Training loss (its cross-entropy, the part that all arms "
        "share), in nats, "
        "against epochs, left: mean over seeds, shaded ± 1 sample standard deviation. A panel for "
        "each row of the "
        "table; the baselines, in grey, stand in each.",
        "Figure 6. Scores of the search, left. Validation accuracy in percent, mean ± sample "
        "standard deviation over "
        "seeds, of every configuration against the values of each searched field, left. A panel "
        "for each field and "
        "row. Circle: selected.",
        "The searched fields' shares of what explains the scores (fANOVA): 1 in sum, were it all "
        "noise too.",
        "Figure 8. Cosines between class vectors, left. Cosines of all pairs of class vectors, "
        "left, of the trial with "
        "seed 0. Classes stand in the order of the class tree; squares frame its nodes; the "
        "diagonal is left blank.",
        "Figure 9. Cosines by level, left. The same by what two classes share in the tree, left, "
        "over seeds 0, 1, 2: "
        "mean cosine, and the range that holds 90% of the pairs, each averaged over seeds.",
        "Figure 12. Violations, left. Mean violation of each constraint, in units of vector "
        "length and whether "
        "penalised or not, against epochs, left: mean over seeds, shaded ± 1 sample standard "
        "deviation. A line for "
        "each cell with H or H0. Last: pairs that the clamp at ±0.99 holds, in percent.",
        "The 18 trials behind the table.",
    ]


def test_the_page_states_protocol_rule_seeds_n_commit_and_hardware(html: str) -> None:
    lines = Page(html).text["ul"][0].strip().splitlines()
    assert [line for line in lines if line.strip()] == [
        "Test accuracy in percent, the last epoch's; mean ± sample standard deviation over seeds "
        "0, 1, 2; n = 3.",
        "Protocol: validated. Selection: highest mean validation accuracy over the seeds.",
        "Data: made (6d616465). Commit: 0123456789. Hardware: a processor.",
        "Complete: every cell has all its seeds. Trials: 30 done.",
    ]


def test_the_same_records_give_the_same_bytes(whole: StudyState, html: str) -> None:
    assert report_html(StudyResults(whole)) == html


def test_what_users_wrote_is_escaped(tmp_path: Path) -> None:
    text = SMALL.replace("- arm: baseline+l2", '- {arm: baseline+l2, name: "<b>$x_1$ & co</b>"}')
    html = report_html(StudyResults(filed(planned(tmp_path, text), places_in(tmp_path))))
    assert "<b>$x_1$" not in html
    assert "&lt;b&gt;$x_1$ &amp; co&lt;/b&gt;" in html
    Page(html)


def test_matplotlib_s_own_settings_of_a_user_change_nothing(whole: StudyState, html: str) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "black"}):
        assert report_html(StudyResults(whole)) == html
        assert mpl.rcParams["font.size"] == 20


def test_without_any_record_every_section_says_why_it_is_empty(tmp_path: Path) -> None:
    html = report_html(
        StudyResults(standing_of(planned(tmp_path, SEARCHED), places_in(tmp_path), []))
    )
    assert section(html, "differences").endswith(
        "No differences: no cell and its reference both have a finished trial."
    )
    assert section(html, "curves").endswith(
        "No curves: no trial that the table shows is done with its arrays."
    )
    assert section(html, "responses").endswith(
        "No responses: no configuration has all its seeds yet."
    )
    assert section(html, "angles").endswith(
        "No angles: no trial that the table shows is done with its class vectors."
    )
    assert section(html, "violations").endswith(
        "No violations: no finished trial that the table shows has a hierarchical classifier."
    )
    assert section(html, "failures").endswith("row arm column trials E E digits missing (6 of 6)")
    assert "No trial stands behind the table yet." in section(html, "provenance")
    assert "No super-class accuracy or mistake severity:" in section(html, "tables")
    assert "Incomplete: 0 of 1 cells have all their seeds. Trials: 6 planned." in html


def test_a_study_without_search_or_hierarchy_says_so(tmp_path: Path) -> None:
    html = report_html(StudyResults(filed(planned(tmp_path, SMALL), places_in(tmp_path))))
    assert section(html, "responses").endswith("No responses: nothing is searched.")
    assert "No violations:" in section(html, "violations")
    assert section(html, "failures").endswith("None: every trial that the study needs is done.")
    assert "an open dot has no interval" in section(html, "differences")


def test_failed_diverged_and_missing_trials_stand_there_with_their_reasons(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL)
    first, second, third, _ = plan.choosing.values()
    records = [unfinished(first, "failed"), unfinished(second, "diverged"), done(third, 90)]
    said = section(
        report_html(StudyResults(standing_of(plan, places_in(tmp_path), records))), "failures"
    )
    assert f"{first.identity} failed baseline+l2 baseline+l2 digits 1 disk on fire" in said
    assert (
        f"{second.identity} diverged cosine E digits 1 the energy became non-finite in epoch 1"
        in said
    )
    assert "cosine E digits diverged (1 of 2), missing (1 of 2)" in said


def test_provenance_names_every_trial_with_its_circumstances_and_the_study_s_text(
    tmp_path: Path,
) -> None:
    plan, places = planned(tmp_path, SMALL, overrides={"lr": 0.05}), places_in(tmp_path)
    configs = list(plan.choosing.values())
    records: list[Record] = [done(config, 90, dirty=config.seed == 1) for config in configs]
    said = section(report_html(StudyResults(standing_of(plan, places, records))), "provenance")
    for config in configs:
        row = "baseline+l2 baseline+l2" if config.arm == "baseline+l2" else "cosine E"
        commit = "0123456789" + "+changes" * (config.seed == 1)
        assert (
            f"{config.identity} {row} digits {config.seed} done {commit} a processor 1 0:00:02 "
            "2025-01-01 00:01 A" in said
        )
    assert "Versions. A: python 3.13." in said
    assert "dh2l-study report small.yaml --set lr=0.05" in said
    assert SMALL.strip().splitlines()[-1] in said


def test_trials_whose_arrays_are_gone_are_counted(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL)
    html = report_html(
        StudyResults(filed(plan, places_in(tmp_path), without=tuple(plan.choosing)[:1]))
    )
    sentence = "Left out: 1 of 4 trials, whose arrays are missing or damaged."
    assert sentence in section(html, "curves")
    assert sentence in section(html, "angles")
    assert "Figure 2." in section(html, "curves")


# -- what the figures show


def test_a_band_is_mean_and_sample_deviation_over_the_seeds_that_have_a_value() -> None:
    frame = band(
        [np.array([1.0, 2.0, np.nan]), np.array([3.0, np.nan, np.nan]), np.array([8.0, 4.0])]
    )
    assert list(frame["epoch"]) == [1, 2]
    assert list(frame["n"]) == [3, 2]
    assert list(frame["mean"]) == pytest.approx([4.0, 3.0])
    assert list(frame["std"]) == pytest.approx(
        [statistics.stdev([1, 3, 8]), statistics.stdev([2, 4])]
    )


def test_one_seed_has_no_band() -> None:
    assert band([np.array([1.0, 2.0])])["std"].isna().all()


def test_curves_are_in_percent_where_they_are_fractions(whole: StudyState) -> None:
    cell = StudyResults(whole).cells[0]
    frame = curve_frame([cell], whole.found).set_index(["metric", "epoch"])
    of_seeds = [history(TrainConfig.model_validate(record.config)) for record in cell.records]
    accuracy = [100 * arrays["history.validation_accuracy"][1] for arrays in of_seeds]
    loss = [arrays["history.train_cross_entropy"][1] for arrays in of_seeds]
    assert frame.loc[("validation_accuracy", 2), "mean"] == pytest.approx(
        statistics.fmean(accuracy)
    )
    assert frame.loc[("validation_accuracy", 2), "std"] == pytest.approx(statistics.stdev(accuracy))
    assert frame.loc[("train_cross_entropy", 2), "mean"] == pytest.approx(statistics.fmean(loss))


def test_cosines_by_level_are_those_of_a_double_loop() -> None:
    tree, vectors = ClassTree(DEEP), np.random.default_rng(0).normal(size=(6, 4))
    expected: dict[int, list[float]] = {}
    for i in range(6):
        for j in range(i + 1, 6):
            shared = sum(DEEP[i][: level + 1] == DEEP[j][: level + 1] for level in range(3))
            cos = (
                vectors[i]
                @ vectors[j]
                / (np.sqrt(vectors[i] @ vectors[i]) * np.sqrt(vectors[j] @ vectors[j]))
            )
            expected.setdefault(3 - shared, []).append(cos)
    found = by_height(cosines(vectors), tree)
    assert sorted(found) == [1, 2, 3]
    for height, values in found.items():
        assert values == pytest.approx(expected[height])


@given(
    vectors=arrays_of.arrays(np.float64, (4, 3), elements=st.floats(-9, 9, allow_subnormal=False)),
    lengths=arrays_of.arrays(np.float64, (4, 1), elements=st.floats(0.01, 100)),
)
def test_cosines_do_not_depend_on_lengths_and_never_leave_minus_one_to_one(
    vectors: np.ndarray, lengths: np.ndarray
) -> None:
    vectors = np.where(np.abs(vectors) < 1e-3, 0, vectors)
    found = cosines(vectors)
    assert np.abs(found).max() <= 1
    assert cosines(vectors * lengths) == pytest.approx(found, abs=1e-9)


def test_the_tree_s_order_keeps_every_node_s_classes_together() -> None:
    tree = ClassTree(DEEP)
    assert [DEEP[i][-1] for i in tree_order(tree)] == ["0", "3", "2", "5", "1", "4"]
    assert blocks(tree, 1) == [(0, 4), (4, 6)]
    assert blocks(tree, 2) == [(0, 2), (2, 4), (4, 6)]


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (1, ["all pairs"]),
        (2, ["within super-classes", "across super-classes"]),
        (3, ["siblings (same node of level 2)", "same node of level 1 only", "across the root"]),
    ],
)
def test_levels_are_named_by_what_two_classes_share(depth: int, names: list[str]) -> None:
    assert [height_name(height, depth) for height in range(1, depth + 1)] == names


def test_angles_of_every_seed_are_summarised_by_level(whole: StudyState) -> None:
    cell = StudyResults(whole).cells[0]
    frame = angle_frame([cell], whole.found, whole.plan)
    assert list(frame["seed"]) == [0, 0, 1, 1, 2, 2]
    assert list(frame["pairs"]) == [1, 2] * 3  # classes a/0, a/1, b/2
    cos = cosines(history(TrainConfig.model_validate(cell.records[1].config))["vectors"])
    assert list(frame["mean"][2:4]) == pytest.approx([cos[0, 1], (cos[0, 2] + cos[1, 2]) / 2])


def test_angles_go_by_the_tree_that_the_study_gives(tmp_path: Path) -> None:
    (tmp_path / "tree.yaml").write_text('x: ["0", "2"]\ny: ["1"]\n', encoding="utf-8")
    plan = planned(tmp_path, SMALL.replace("epochs: 2", "epochs: 2, tree: tree.yaml"))
    given = Trees(plan).of(next(iter(plan.choosing)))
    assert given.paths == (("x", "0"), ("y", "1"), ("x", "2"))
    own = planned(tmp_path, SMALL, "own")
    assert Trees(own).of(next(iter(own.choosing))).paths == (("a", "0"), ("a", "1"), ("b", "2"))


# -- the command


def test_the_command_writes_the_page_and_says_where(tmp_path: Path, cli: CommandLine) -> None:
    study = write_study(tmp_path, SMALL)
    plan = make_plan(StudyFile(study), lambda name: read_manifest(name, cli.places.data))
    for config in plan.choosing.values():
        RecordStore(cli.places.trials).write(done(config, 90))
    code, out, _ = cli("report", study)
    path = cli.places.table("small") / "report.html"
    assert (code, out) == (0, f"report: {path}\n")
    assert path.read_text(encoding="utf-8") == report_html(
        StudyResults(read_state(plan, cli.places))
    )
    assert not cli.places.mlflow.exists()
    path.unlink()
    assert cli("run", study, "--shard", "1/1")[0] == 0
    assert not path.exists()
    assert cli("run", study, "--shard", "1/1", "--report")[1].endswith(f"report:  {path}\n")
    assert path.exists()


def test_a_report_is_logged_with_the_study_where_there_is_a_store(
    tmp_path: Path, cli: CommandLine
) -> None:
    study = write_study(tmp_path, SMALL)
    assert cli("mlflow", "sync", study, "--report")[0] == 0
    client = MlflowClient(tracking_uri=tracking_uri(cli.places))
    experiment = client.get_experiment_by_name("dh2l-study")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`dh2l.kind` = 'study'")
    logged = Path(client.download_artifacts(parent.info.run_id, "report.html", str(tmp_path)))
    assert logged.read_bytes() == (cli.places.table("small") / "report.html").read_bytes()
    plan = make_plan(StudyFile(study), lambda name: read_manifest(name, cli.places.data))
    RecordStore(cli.places.trials).write(done(next(iter(plan.choosing.values())), 90))
    assert cli("report", study)[0] == 0
    logged = Path(client.download_artifacts(parent.info.run_id, "report.html", str(tmp_path)))
    assert b"90.00 (n=1)" in logged.read_bytes()


def test_a_report_is_made_without_torch_ray_and_mlflow() -> None:
    code = (
        "import study.reporting.html, sys; print({'torch', 'ray', 'mlflow', 'matplotlib.pyplot'} & "
        "set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    assert ended.stdout == "set()\n"
