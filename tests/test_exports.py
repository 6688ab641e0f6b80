"""Exports, word for word; and frames that a notebook reads as they were."""

import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import pandas as pd
import pytest
from study_fixtures import SEARCHED, SMALL, CommandLine, candidate_configs, done, places_in, planned, standing_of

import study
from dh2l.errors import UserError
from dh2l.names import METRICS
from study.exports import exported, tex, to_html, to_latex
from study.frames import FRAMES
from study.places import Places
from study.states import Standing
from study.tables import render


@pytest.fixture
def small(tmp_path: Path) -> Standing:
    plan = planned(
        tmp_path, SMALL.replace("A small study", "A & B <small>").replace("metric: cosine", "metric: cos_hm")
    )
    configs = [config for cell in range(2) for config in candidate_configs(plan, cell)[0]]
    return standing_of(plan, places_in(tmp_path), [done(c, 96 + c.seed + c.lambda_e) for c in configs])


def test_latex_reads_word_for_word(small: Standing) -> None:
    text = to_latex(render(small), "small")
    assert text.startswith(
        "% A \\& B $<$small$>$\n"
        "% Test accuracy in percent, the last epoch's; mean $\\pm$ sample standard deviation over seeds 0, 1; n = 2.\n"
        "% Protocol: validated. Nothing is selected: every cell has one configuration.\n"
        "% Data: digits (64696769). Commit: 0123456789. Hardware: a processor.\n"
        "% In the preamble: \\usepackage[T1]{fontenc}, \\usepackage{booktabs}, \\usepackage{longtable}\n"
        "{\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
        "\\begin{longtable}{@{}lll@{}}\n"
        "\\caption{A \\& B $<$small$>$. Test accuracy in percent, the last epoch's; mean $\\pm$ sample standard "
        "deviation over seeds 0, 1; n = 2. Protocol: validated. Nothing is selected: every cell has one configuration. "
        "Data: digits (64696769). Commit: 0123456789. Hardware: a processor.}\\label{tab:small-accuracy}\\\\\n"
        "\\toprule\n"
        "metric & arm & digits \\\\\n"
        "\\midrule\n"
        "\\endfirsthead\n"
        "\\toprule\n"
        "metric & arm & digits \\\\\n"
        "\\midrule\n"
        "\\endhead\n"
        "baseline+l2 &  & 96.50 $\\pm$ 0.71 (n=2) \\\\\n"
        "$D_{\\cos(\\mathrm{HM})}$ & E & 96.60 $\\pm$ 0.71 (n=2) \\\\\n"
        "\\bottomrule\n"
        "\\end{longtable}\n"
        "}\n"
    )
    assert "baseline+l2 &  & digits & 2 & 96.50 [90.15, 102.85] &  & is the reference &  \\\\\n" in text
    assert (
        "Study, protocol, seeds and commit as in Table~\\ref{tab:small-accuracy}.}\\label{tab:small-evidence}" in text
    )


@pytest.mark.parametrize(
    ("label", "formula"),
    [
        ("D_AM", r"$D_{\mathrm{AM}}$"),
        ("D'_HMcos", r"$D'_{\mathrm{HM}\cos}$"),
        ("D'_cos(GM)", r"$D'_{\cos(\mathrm{GM})}$"),
        ("D_h^ter", r"$D_h^{\mathrm{ter}}$"),
        ("(D_GM, D'_AM)", r"($D_{\mathrm{GM}}$, $D'_{\mathrm{AM}}$)"),
        ("lambda_e=0.1 & 50% {x} ~ \\", r"lambda\_e=0.1 \& 50\% \{x\} \textasciitilde{} \textbackslash{}"),
        ("[1] a note", "{}[1] a note"),
        ("α and Ω", r"$\alpha$ and $\Omega$"),
        ("λl ≥ −1", r"$\lambda$l $\ge$ $-$1"),
    ],
)
def test_texts_are_latex_and_names_of_metrics_formulas(label: str, formula: str) -> None:
    assert tex(label) == formula


def test_no_name_of_a_metric_keeps_a_letter_that_latex_would_misread() -> None:
    for metric in METRICS.values():
        outside = "".join(tex(metric.display_label).split("$")[::2])
        assert not set(outside) & set("_^")


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_html_page_is_whole_needs_nothing_else_and_takes_words_as_words(small: Standing) -> None:
    page = to_html(render(small))
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.addresses == []
    assert "A & B <small>" in reader.words
    assert (
        "<thead>\n"
        '<tr><th scope="col">metric</th><th scope="col">arm</th><th scope="col">digits</th></tr>\n'
        "</thead>\n"
        "<tbody>\n"
        '<tr><th scope="row">baseline+l2</th><th scope="row"></th><td>96.50 ± 0.71 (n=2)</td></tr>\n'
        '<tr><th scope="row">D_cos(HM)</th><th scope="row">E</th><td>96.60 ± 0.71 (n=2)</td></tr>\n'
        "</tbody>\n"
        "</table>\n"
    ) in page


def test_json_says_what_it_is_and_has_missing_numbers_as_null(small: Standing) -> None:
    value = json.loads(exported(small, "json"))
    assert list(value) == ["study", "title", "statements", "failures", "cells"]
    assert value["study"] == "small"
    assert value["cells"][1]["row"] == "D_cos(HM)"
    assert value["cells"][1]["accuracy"] == pytest.approx(96.6)
    assert value["cells"][1]["p"] is None


@pytest.mark.parametrize("of", ["cells", "trials", "epochs"])
def test_csv_and_parquet_are_the_frame(small: Standing, of: study.Of) -> None:
    frame = FRAMES[of](small)
    assert exported(small, "csv", of).decode() == frame.to_csv(index=False)
    back = pd.read_parquet(io.BytesIO(exported(small, "parquet", of)))
    assert back.attrs["statements"] == render(small).statements
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)


def test_parquet_takes_a_field_that_holds_words_numbers_and_lists(tmp_path: Path) -> None:
    text = SEARCHED.replace(
        "rows: [{arm: E}]", "rows: [{arm: E+H, set: {lambda_l: 0.1}}, {arm: H, set: {lambda_l: [0.1, 0.5]}}]"
    )
    now = standing_of(planned(tmp_path, text), places_in(tmp_path), [])
    frame = pd.read_parquet(io.BytesIO(exported(now, "parquet", "trials")))
    assert set(frame["lambda_l"]) == {"0.1", "[0.1, 0.5]"}


def test_the_trial_frame_has_a_row_per_trial_and_the_fields_in_which_they_differ(tmp_path: Path) -> None:
    plan = planned(tmp_path, SEARCHED)
    records = [done(c, 60 + c.seed + c.lambda_e, 50 + c.lambda_e) for c in plan.configs.values() if c.lambda_e < 10]
    frame = FRAMES["trials"](standing_of(plan, places_in(tmp_path), records))
    assert len(frame) == 6
    assert list(frame["lambda_e"]) == [0.1, 0.1, 1, 1, 10, 10]
    assert list(frame["candidate"]) == [0, 0, 1, 1, 2, 2]
    assert list(frame["state"]) == ["done"] * 4 + ["planned"] * 2
    assert not frame["shown"].any()  # while a trial is missing, the cell has no winner
    assert frame["accuracy"].tolist()[:4] == pytest.approx([60.1, 61.1, 61, 62])
    assert frame["accuracy"].isna().tolist()[4:] == [True, True]
    assert "lr" not in frame


def test_the_mean_over_the_shown_trials_is_the_cell_s_accuracy(tmp_path: Path) -> None:
    plan = planned(tmp_path, SEARCHED)
    records = [done(c, 60 + c.seed + c.lambda_e, 50 + c.lambda_e) for c in plan.configs.values()]
    now = standing_of(plan, places_in(tmp_path), records)
    trials, cells = FRAMES["trials"](now), FRAMES["cells"](now)
    shown = trials[trials["shown"]]
    assert set(shown["lambda_e"]) == {10}
    assert shown["accuracy"].mean() == pytest.approx(cells["accuracy"].iloc[0])


def test_one_call_gives_the_frame_of_a_study(tmp_path: Path, small: Standing) -> None:
    places = places_in(tmp_path)
    places.manifest("digits").parent.mkdir(parents=True)
    manifest = small.plan.specs[0].manifest_of("digits")
    places.manifest("digits").write_text(manifest.model_dump_json(), encoding="utf-8")
    frame = study.frame(tmp_path / "small.yaml", results=places.results, data=places.data)
    pd.testing.assert_frame_equal(frame, FRAMES["cells"](small))
    with pytest.raises(UserError, match=r"unknown frame 'cell'.*cells"):
        study.frame(tmp_path / "small.yaml", cast("study.Of", "cell"), results=places.results, data=places.data)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    return CommandLine(monkeypatch, capsys, places_in(tmp_path))


def test_export_writes_a_file_or_prints(shell: CommandLine, tmp_path: Path) -> None:
    target = tmp_path / "cells.parquet"
    code, _, error = shell("export", "quickstart", "--format", "parquet", "--output", target)
    assert (code, error) == (0, "")
    assert len(pd.read_parquet(target)) == 7
    code, printed, _ = shell("export", "quickstart", "--format", "csv", "--of", "trials")
    assert code == 0
    assert len(pd.read_csv(io.StringIO(printed))) == 18


def test_what_cannot_be_exported_is_a_sentence(shell: CommandLine, tmp_path: Path) -> None:
    assert shell.mistake("export", "quickstart", "--format", "parquet") == (
        "parquet is no text to print; give a file, for instance --output cells.parquet"
    )
    assert shell.mistake("export", "quickstart", "--of", "epochs") == (
        "--of epochs is a frame, so --format must be csv, json or parquet, not md"
    )
    blocked = tmp_path / "file"
    blocked.touch()
    assert f"--output {blocked / 'x.csv'} cannot be written" in shell.mistake(
        "export", "quickstart", "--format", "csv", "--output", blocked / "x.csv"
    )


def test_intervals_are_missing_where_there_are_none(tmp_path: Path) -> None:
    places = Places.of(tmp_path / "results", tmp_path / "data")
    plan = planned(tmp_path, SMALL)
    frame = FRAMES["cells"](standing_of(plan, places, [done(config, 90) for config in plan.configs.values()]))
    assert all(math.isnan(value) for value in frame["low"])


def test_a_search_that_has_not_begun_has_a_trial_frame_and_true_sentences(tmp_path: Path) -> None:
    text = SEARCHED.replace("grid: [0.1, 1, 10]", "loguniform: [0.1, 10]") + "searcher: {trials: 3}\n"
    now = standing_of(planned(tmp_path, text), places_in(tmp_path), [])
    frame = FRAMES["trials"](now)
    assert len(frame) == 0
    assert {"trial", "accuracy", "shown"} <= set(frame.columns)
    assert render(now).statements[1:] == [
        "Protocol: validated. Selection: highest mean validation accuracy over the seeds.",
        "Configurations suggested by Optuna (tpe).",
        "Data: digits (64696769). Commit: none yet. Hardware: none yet.",
    ]


def test_json_keeps_every_digit(small: Standing) -> None:
    frame = FRAMES["cells"](small)
    cells = json.loads(exported(small, "json"))["cells"]
    assert [cell["accuracy"] for cell in cells] == frame["accuracy"].tolist()
    assert [cell["std"] for cell in cells] == frame["std"].tolist()


def test_what_is_exported_to_standard_output_is_the_file(shell: CommandLine, tmp_path: Path) -> None:
    for kind in ("md", "latex", "csv", "html", "json"):
        target = tmp_path / kind
        shell("export", "quickstart", "--format", kind, "--output", target)
        assert shell("export", "quickstart", "--format", kind)[1] == target.read_text(encoding="utf-8")


def test_a_damaged_copy_of_a_manifest_is_a_sentence(shell: CommandLine) -> None:
    copy = shell.places.manifest("digits")
    copy.parent.mkdir(parents=True)
    copy.write_text("{", encoding="utf-8")
    assert f"{copy} is damaged, and digits is not under" in shell.mistake("table", "quickstart")


def test_extends_cannot_be_set_from_the_command_line(shell: CommandLine) -> None:
    assert shell.mistake("plan", "quickstart", "--set", "extends=planted").startswith("--set extends: what a study")
