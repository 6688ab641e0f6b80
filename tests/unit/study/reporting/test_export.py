"""Exports, word for word; and frames that a notebook reads as they were."""

import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import pandas as pd
import pytest
from study_fixtures import (
    SEARCHED,
    SMALL,
    CommandLine,
    candidate_configs,
    done,
    places_in,
    planned,
    standing_of,
)

import study
from dh2l.errors import UserError
from dh2l.registry.entries import METRICS
from study.analysis.frames import FRAMES
from study.formats import FrameKind
from study.records.paths import Places
from study.reporting.export import exported, to_html
from study.reporting.latex import Look, to_latex
from study.reporting.latex_text import tex
from study.reporting.page import Page
from study.reporting.tables import render
from study.state.results import StudyResults
from study.state.study_state import StudyState


@pytest.fixture
def small(tmp_path: Path) -> StudyState:
    plan = planned(
        tmp_path,
        SMALL.replace("A small study", "A & B <small>").replace("metric: cosine", "metric: cos_hm"),
    )
    configs = [config for cell in range(2) for config in candidate_configs(plan, cell)[0]]
    return standing_of(
        plan, places_in(tmp_path), [done(c, 96 + c.seed + c.lambda_e) for c in configs]
    )


def test_latex_reads_word_for_word(small: StudyState) -> None:
    text = to_latex(render(StudyResults(small)), "small")
    assert text.startswith(
        "% A \\& B $<$small$>$\n"
        "% Test accuracy in percent, the last epoch's; mean $\\pm$ sample standard deviation over "
        "seeds 0, 1; n = 2.\n"
        "% Protocol: validated. Nothing is selected: every cell has one configuration.\n"
        "% Data: digits (64696769). Commit: 0123456789. Hardware: a processor.\n"
        "% In the preamble: \\usepackage[T1]{fontenc}, \\usepackage{booktabs}, "
        "\\usepackage{graphicx}\n"
        "\\begin{table}[tbp]\n"
        "\\centering\n"
        "\\caption{A \\& B $<$small$>$. Test accuracy in percent, the last epoch's; mean $\\pm$ "
        "sample standard "
        "deviation over seeds 0, 1; n = 2. Protocol: validated. Nothing is selected: every cell "
        "has one configuration. "
        "Data: digits (64696769). Commit: 0123456789. Hardware: a "
        "processor.}\\label{tab:small-accuracy}\n"
        "\\smallskip\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        "\\begin{tabular}{@{}lll@{}}\n"
        "\\toprule\n"
        "metric & arm & digits \\\\\n"
        "\\midrule\n"
        "baseline+l2 &  & 96.50 $\\pm$ 0.71 \\\\\n"
        "$D_{\\cos(\\mathrm{HM})}$ & E & 96.60 $\\pm$ 0.71 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}}\n"
        "\\end{table}\n"
    )
    assert "baseline+l2 &  & 96.50 &  & a \\\\\n" in text
    assert "No test: a: is the reference; b: n $<$ 3.\n" in text
    assert (
        "Study, protocol, seeds and commit as in "
        "Table~\\ref{tab:small-accuracy}.}\\label{tab:small-evidence}" in text
    )


@pytest.mark.parametrize(
    ("label", "formula"),
    [
        ("D_AM", r"$D_{\mathrm{AM}}$"),
        ("D'_HMcos", r"$D'_{\mathrm{HM}\cos}$"),
        ("D'_cos(GM)", r"$D'_{\cos(\mathrm{GM})}$"),
        ("D_h^ter", r"$D_h^{\mathrm{ter}}$"),
        ("(D_GM, D'_AM)", r"($D_{\mathrm{GM}}$, $D'_{\mathrm{AM}}$)"),
        (
            "lambda_e=0.1 & 50% {x} ~ \\",
            r"$\lambda_{e}$=0.1 \& 50\% \{x\} \textasciitilde{} \textbackslash{}",
        ),
        ("lambda_c1=1, lambda_my_own=2", r"$\lambda_{c1}$=1, $\lambda_{\mathrm{my\_own}}$=2"),
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


def test_the_html_page_is_whole_needs_nothing_else_and_takes_words_as_words(
    small: StudyState,
) -> None:
    page = to_html(render(StudyResults(small)))
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


def test_json_says_what_it_is_and_has_missing_numbers_as_null(small: StudyState) -> None:
    value = json.loads(exported(StudyResults(small), "json"))
    assert list(value) == ["study", "title", "statements", "failures", "cells"]
    assert value["study"] == "small"
    assert value["cells"][1]["row"] == "D_cos(HM)"
    assert value["cells"][1]["accuracy"] == pytest.approx(96.6)
    assert value["cells"][1]["p"] is None


@pytest.mark.parametrize("of", ["cells", "trials", "epochs"])
def test_csv_and_parquet_are_the_frame(small: StudyState, of: FrameKind) -> None:
    frame = FRAMES[of](StudyResults(small))
    assert exported(StudyResults(small), "csv", of).decode() == frame.to_csv(index=False)
    back = pd.read_parquet(io.BytesIO(exported(StudyResults(small), "parquet", of)))
    assert back.attrs["statements"] == render(StudyResults(small)).statements
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)


def test_parquet_takes_a_field_that_holds_words_numbers_and_lists(tmp_path: Path) -> None:
    text = SEARCHED.replace(
        "rows: [{arm: E}]",
        "rows: [{arm: E+H, set: {lambda_l: 0.1}}, {arm: H, set: {lambda_l: [0.1, 0.5]}}]",
    )
    now = standing_of(planned(tmp_path, text), places_in(tmp_path), [])
    frame = pd.read_parquet(io.BytesIO(exported(StudyResults(now), "parquet", "trials")))
    assert set(frame["lambda_l"]) == {"0.1", "[0.1, 0.5]"}


def test_the_trial_frame_has_a_row_per_trial_and_the_fields_in_which_they_differ(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, SEARCHED)
    records = [
        done(c, 60 + c.seed + c.lambda_e, 50 + c.lambda_e)
        for c in plan.choosing.values()
        if c.lambda_e < 10
    ]
    frame = FRAMES["trials"](StudyResults(standing_of(plan, places_in(tmp_path), records)))
    assert len(frame) == 6
    assert list(frame["lambda_e"]) == [0.1, 0.1, 1, 1, 10, 10]
    assert list(frame["candidate"]) == [0, 0, 1, 1, 2, 2]
    assert list(frame["state"]) == ["done"] * 4 + ["planned"] * 2
    assert not frame["in_table"].any()  # while a trial is missing, the cell has no winner
    assert frame["accuracy"].tolist()[:4] == pytest.approx([60.1, 61.1, 61, 62])
    assert frame["accuracy"].isna().tolist()[4:] == [True, True]
    assert "lr" not in frame


def test_the_mean_over_the_shown_trials_is_the_cell_s_accuracy(tmp_path: Path) -> None:
    plan = planned(tmp_path, SEARCHED)
    records = [done(c, 60 + c.seed + c.lambda_e, 50 + c.lambda_e) for c in plan.choosing.values()]
    now = standing_of(plan, places_in(tmp_path), records)
    trials, cells = FRAMES["trials"](StudyResults(now)), FRAMES["cells"](StudyResults(now))
    shown = trials[trials["in_table"]]
    assert set(shown["lambda_e"]) == {10}
    assert shown["accuracy"].mean() == pytest.approx(cells["accuracy"].iloc[0])


def test_one_call_gives_the_frame_of_a_study(tmp_path: Path, small: StudyState) -> None:
    places = places_in(tmp_path)
    places.manifest("digits").parent.mkdir(parents=True)
    manifest = small.plan.cell_configs[0].manifest_of("digits")
    places.manifest("digits").write_text(manifest.model_dump_json(), encoding="utf-8")
    frame = study.frame(tmp_path / "small.yaml", results=places.results, data=places.data)
    pd.testing.assert_frame_equal(frame, FRAMES["cells"](StudyResults(small)))
    with pytest.raises(UserError, match=r"unknown frame 'cell'.*cells"):
        study.frame(
            tmp_path / "small.yaml",
            cast("FrameKind", "cell"),
            results=places.results,
            data=places.data,
        )


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    return CommandLine(monkeypatch, capsys, places_in(tmp_path))


def test_export_writes_a_file_or_prints(shell: CommandLine, tmp_path: Path) -> None:
    target = tmp_path / "cells.parquet"
    code, _, error = shell("export", "quickstart", "--format", "parquet", "--output", target)
    assert (code, error) == (0, "")
    assert len(pd.read_parquet(target)) == 7
    code, printed, _ = shell("export", "quickstart", "--format", "csv", "--of", "trials")
    assert code == 0
    assert (
        len(pd.read_csv(io.StringIO(printed))) == 12 + 5 * 3
    )  # E+H confirms what it has not chosen yet


def test_what_cannot_be_exported_is_a_sentence(shell: CommandLine, tmp_path: Path) -> None:
    assert shell.mistake("export", "quickstart", "--format", "parquet") == (
        "--format parquet is binary; expected a file. Pass e.g. --output cells.parquet."
    )
    assert shell.mistake("export", "quickstart", "--of", "epochs") == (
        "--format md has no --of epochs; expected csv, json or parquet. Pass one of them."
    )
    blocked = tmp_path / "file"
    blocked.touch()
    assert f"--output {blocked / 'x.csv'}: cannot be written" in shell.mistake(
        "export", "quickstart", "--format", "csv", "--output", blocked / "x.csv"
    )


def test_intervals_are_missing_where_there_are_none(tmp_path: Path) -> None:
    places = Places.of(tmp_path / "results", tmp_path / "data")
    plan = planned(tmp_path, SMALL)
    records = [done(config, 90) for config in plan.choosing.values()]
    frame = FRAMES["cells"](StudyResults(standing_of(plan, places, records)))
    assert all(math.isnan(value) for value in frame["low"])


def test_a_search_that_has_not_begun_has_a_trial_frame_and_true_sentences(tmp_path: Path) -> None:
    text = (
        SEARCHED.replace("grid: [0.1, 1, 10]", "loguniform: [0.1, 10]") + "searcher: {trials: 3}\n"
    )
    now = standing_of(planned(tmp_path, text), places_in(tmp_path), [])
    frame = FRAMES["trials"](StudyResults(now))
    assert len(frame) == 0
    assert {"trial", "accuracy", "in_table"} <= set(frame.columns)
    assert render(StudyResults(now)).statements[1:] == [
        "Protocol: validated. Selection: highest mean validation accuracy over the seeds.",
        "Configurations suggested by Optuna (tpe).",
        "Data: digits (64696769). Commit: none yet. Hardware: none yet.",
    ]


def test_json_keeps_every_digit(small: StudyState) -> None:
    frame = FRAMES["cells"](StudyResults(small))
    cells = json.loads(exported(StudyResults(small), "json"))["cells"]
    assert [cell["accuracy"] for cell in cells] == frame["accuracy"].tolist()
    assert [cell["std"] for cell in cells] == frame["std"].tolist()


def test_what_is_exported_to_standard_output_is_the_file(
    shell: CommandLine, tmp_path: Path
) -> None:
    for kind in ("md", "latex", "csv", "html", "json"):
        target = tmp_path / kind
        shell("export", "quickstart", "--format", kind, "--output", target)
        assert shell("export", "quickstart", "--format", kind)[1] == target.read_text(
            encoding="utf-8"
        )


def test_a_damaged_copy_of_a_manifest_is_a_sentence(shell: CommandLine) -> None:
    copy = shell.places.manifest("digits")
    copy.parent.mkdir(parents=True)
    copy.write_text("{", encoding="utf-8")
    assert f"{copy} is damaged, and digits is not under" in shell.mistake("table", "quickstart")


def test_extends_cannot_be_set_from_the_command_line(shell: CommandLine) -> None:
    assert shell.mistake("plan", "quickstart", "--set", "extends=planted").startswith(
        "--set extends: only a file can extend a study"
    )


WIDE = """\
title: As wide as the paper's Table 2
paper_table: 2
config: {dataset: cifar100}
columns: [{name: resnet-20, set: {model: resnet20}}, {name: resnet-110, set: {model: resnet110}}]
rows:
  - arm: baseline+l2
  - {arm: [E, E+H], metric: [n_euclidean2, hamming_ternary, cos_am_arccos]}
seeds: [0, 1]
confirm: {seeds: [5, 6, 7]}
search: {lambda_e: {grid: [0.1, 1]}, lambda_l: {grid: [0.1, 0.5]}}
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("wide")
    plan = planned(folder, WIDE)
    records = [done(config, 60, 60 + config.lambda_e) for config in plan.choosing.values()]
    records += [done(c, 70 + c.lambda_e + c.seed**2 / 50, None) for c in plan.confirming.values()]
    return render(StudyResults(standing_of(plan, places_in(folder), records)))


def test_the_best_value_of_a_column_is_bold_on_request_and_so_are_those_that_look_alike(
    small: StudyState,
) -> None:
    assert "\\textbf" not in to_latex(render(StudyResults(small)), "small")
    text = to_latex(render(StudyResults(small)), "small", Look(bold=True))
    assert re.findall(r"\\textbf\{(.*?)\}", text) == [r"96.60 $\pm$ 0.71"]
    page = render(StudyResults(small))
    alike = replace(
        page.tables[0],
        rows=[["a", "", "2.30"], ["b", "", "1.50 ± 0.10"], ["c", "", "1.50 ± 0.20 [1]"]],
    )
    text = to_latex(
        replace(page, tables=[replace(alike, name="severity")]), "small", Look(bold=True)
    )
    assert re.findall(r"\\textbf\{(.*?)\}", text) == [r"1.50 $\pm$ 0.10", r"1.50 $\pm$ 0.20 [1]"]


def test_the_best_probabilities_are_bold_in_each_column_of_the_study(small: StudyState) -> None:
    page = render(StudyResults(small))
    table = replace(
        page.tables[0],
        name="probabilities",
        header=["metric", "arm", "column", "NLL", "top-5, %"],
        rows=[
            ["a", "", "easy", "0.10", "99.00"],
            ["b", "E", "easy", "0.20", "98.00"],
            ["a", "", "hard", "2.10", "61.00"],
            ["b", "E", "hard", "1.90", "62.00"],
        ],
    )
    text = to_latex(replace(page, tables=[table]), "small", Look(bold=True))
    assert re.findall(r"\\textbf\{(.*?)\}", text) == ["0.10", "99.00", "1.90", "62.00"]


def test_n_stands_in_the_cells_only_where_they_differ(tmp_path: Path, small: StudyState) -> None:
    assert "(n=" not in to_latex(render(StudyResults(small)), "small")
    plan = planned(tmp_path, SMALL)
    fewer = standing_of(
        plan, places_in(tmp_path / "fewer"), [done(c, 90) for c in list(plan.choosing.values())[:3]]
    )
    assert "90.00 $\\pm$ 0.00 (n=2)" in to_latex(render(StudyResults(fewer)), "small")


def test_the_paper_s_numbers_stand_under_their_column_s_name_and_numbers_are_siunitx_s(
    wide: Page,
) -> None:
    text = to_latex(wide, "wide", Look(siunitx=True))
    assert "& & \\multicolumn{3}{c}{resnet-20} & \\multicolumn{3}{c}{resnet-110} \\\\\n" in text
    assert "\\cmidrule(lr){3-5}\\cmidrule(lr){6-8}\n" in text
    assert (
        "metric & arm & {ours} & {paper} & {difference} & {ours} & {paper} & {difference} \\\\\n"
        in text
    )
    assert "N-euclidean2 & E & 71.73 +- 0.24 & 67.59 & +4.14 & " in text
    assert (
        "lS[table-format=2.2(2)]S[table-format=2.2]S[table-format=+1.2]S[table-format=2.2(2)]S"
        in text
    )


PREAMBLE = r"\usepackage[T1]{fontenc}\usepackage{array,booktabs,graphicx,longtable,siunitx}"
NO_TEX = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a TeX")


@NO_TEX
@pytest.mark.parametrize(
    ("paper", "looks"),
    [
        (
            "onecolumn",
            [
                Look(),
                Look(bold=True, siunitx=True),
                Look("longtable"),
                Look("longtable", siunitx=True),
            ],
        ),
        ("twocolumn", [Look(), Look("wide", bold=True, siunitx=True)]),
    ],
)
def test_tables_compile_in_papers_of_one_and_two_columns_and_none_is_too_wide(
    tmp_path: Path, wide: Page, small: StudyState, paper: str, looks: list[Look]
) -> None:
    texts = [
        to_latex(page, f"{i}{j}", look)
        for i, look in enumerate(looks)
        for j, page in enumerate((wide, render(StudyResults(small))))
    ]
    body = "\\clearpage\n".join(texts)
    document = f"\\documentclass[{paper}]{{article}}{PREAMBLE}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    words = ["pdflatex", "-draftmode", "-halt-on-error", "-interaction=nonstopmode", "paper"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert "Overfull" not in ended.stdout
    assert "too large" not in ended.stdout
    assert set(re.findall(r"\\ref{(.+?)}", body)) <= set(re.findall(r"\\label{(.+?)}", body))


def test_one_table_is_chosen_by_its_name(shell: CommandLine) -> None:
    code, text, _ = shell("export", "quickstart", "--format", "latex", "--table", "evidence")
    assert code == 0
    assert text.count("\\begin{table}") == 1
    assert (
        "\\caption{Quickstart: E and H on the digits, resnet-20. What each number is worth. Test "
        "accuracy in" in text
    )
    assert shell("export", "quickstart", "--table", "accuracy")[1].count("\n## ") == 0
    assert shell.mistake("export", "quickstart", "--table", "evidense") == (
        "unknown table of this study 'evidense'; did you mean 'evidence'?"
    )


@pytest.mark.parametrize("words", [["--bold"], ["--siunitx"], ["--style", "wide"]])
def test_what_only_latex_has_is_refused_elsewhere(shell: CommandLine, words: list[str]) -> None:
    assert shell.mistake("export", "quickstart", *words) == (
        "--format md has no --style, --bold or --siunitx; expected latex. Use --format latex."
    )
    assert shell.mistake("export", "quickstart", "--format", "csv", "--table", "accuracy") == (
        "--format csv has no --table; expected md, latex or html. Use --of to choose a frame."
    )
