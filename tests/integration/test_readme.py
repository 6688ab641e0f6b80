"""The README and the site are true as they stand."""

import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch
from study_fixtures import ROOT
from torch import nn
from typer.main import get_command

from study.cli import app
from study.execution.trial import run_to_completion, run_trial
from study.records.paths import Places
from study.spec.study_file import StudyFile
from study.state.load import open_study_to_run

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language on a page."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def backbone_of_512_features() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 512, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_the_readme_is_short_and_its_picture_small() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert (DOCS / "images" / "quickstart.png").stat().st_size < 300_000


def test_the_library_in_ten_lines_trains_backbone_and_classifier() -> None:
    (lines,) = code_blocks(README, "python")
    backbone = backbone_of_512_features()
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    names: dict[str, object] = {"backbone": backbone, "images": images, "labels": labels}
    exec(lines, names)  # noqa: S102 the README's own example
    loss, head = names["loss"], names["head"]
    assert isinstance(loss, torch.Tensor)
    assert isinstance(head, nn.Module)
    loss.backward()  # type: ignore[no-untyped-call]
    assert has_gradients(backbone)
    assert has_gradients(head)


def test_the_training_loop_trains_backbone_and_classifier() -> None:
    backbone = backbone_of_512_features()
    before = [parameter.detach().clone() for parameter in backbone.parameters()]
    loader = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])) for _ in range(2)]
    (loop,) = code_blocks(DOCS / "how-to" / "library.md", "python")
    names: dict[str, object] = {"backbone": backbone, "loader": loader}
    exec(loop, names)  # noqa: S102 the page's own example
    head = names["head"]
    assert isinstance(head, nn.Module)
    assert has_gradients(head)
    assert not torch.equal(next(backbone.parameters()), before[0])


def has_gradients(module: nn.Module) -> bool:
    return all(
        parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for parameter in module.parameters()
    )


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/how-to/write-a-study.md", "docs/tutorial/own-data.md"],
)
def test_the_studies_it_shows_are_valid(page: str, tmp_path: Path) -> None:
    (text,) = code_blocks(ROOT / page, "yaml")
    path = tmp_path / "my_study.yaml"
    path.write_text(text, encoding="utf-8")
    assert StudyFile(path).study.rows[0].arms == ["baseline+l2"]


def test_the_lines_for_a_notebook_give_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = Places.of(Path("results"), Path("data"))
    now = open_study_to_run("quickstart", None, places, warn=print)
    config = next(iter(now.plan.choosing.values()))
    run_to_completion(run_trial(config, places, threads=1), lambda _: None, pytest.fail)
    names: dict[str, pd.DataFrame] = {}
    for lines in code_blocks(DOCS / "how-to" / "notebooks.md", "py"):
        exec(lines, names)  # noqa: S102 the page's own example
    assert len(names["cells"]) == 7
    assert len(names["curves"]) == config.epochs
    assert names["curves"]["validation_accuracy"].between(0, 100).all()


def test_every_command_that_the_pages_name_exists() -> None:
    known = set(getattr(get_command(app), "commands"))  # noqa: B009 Typer's group is a Click group at run time
    for page in PAGES:
        commands = re.findall(r"dh2l-study ([a-z]+)", page.read_text(encoding="utf-8"))
        assert set(commands) <= known, page


def test_every_file_of_the_repository_that_the_pages_name_exists() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:dh2l|study|benchmarks|docs|tests)/[\w/.-]+?)/?`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"


def test_every_test_file_of_the_table_of_faults_exists() -> None:
    page = (DOCS / "how-to" / "resume-and-faults.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(test_\w+)`", page))
    assert len(names) > 10
    assert names <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


class Loaded(HTMLParser):
    """Addresses that a browser loads by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get("href") or "")


def test_the_site_builds_without_a_warning_and_loads_nothing_from_other_hosts(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert not [one for one in loaded.addresses if "//" in one], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text("utf-8")), (
            style
        )
    config = unescape((tmp_path / "reference" / "config.html").read_text(encoding="utf-8"))
    assert "lambda_e" in config
    assert "an arm with E" in config
    command_line = (tmp_path / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert "--trials-per-gpu" in command_line
    study_file = unescape((tmp_path / "reference" / "study-file.html").read_text(encoding="utf-8"))
    assert "grace_epochs" in study_file
    assert "HierarchicalClassifier" in (tmp_path / "reference" / "api.html").read_text("utf-8")
