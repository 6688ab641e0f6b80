"""The rules of English that a program can check, on docstrings, comments and pages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [path for part in ("dh2l", "study", "benchmarks") for path in (ROOT / part).rglob("*.py")]
TESTS = list((ROOT / "tests").rglob("*.py"))
PAGES = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"]

FIRST_WORDS = {"What", "Where", "Whether", "Who", "Whose", "How", "Which", "When", "Why", "Of"}
MODULE_WORDS, SUMMARY_WORDS = 12, 25
PHRASES = {
    r"(?<![Tt]here\s)\b(is|are) no (?!longer\b|more\b|one\b|\w+er\b)\w+": "is not a ..., has no ...",
    r"\blikewise\b": "also",
    r"\bas said\b": "repeat the fact, or leave it out",
    r"\bat one stroke\b": "atomically",
    r"\b(tells|told|knows|known) of\b": "reports",
    r"(?<=[.;:!?] )Of [a-z]": "name the subject first",
}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(source: str) -> Iterator[tuple[Documented, int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node, getattr(node, "lineno", 1), text


def comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def summary(docstring: str) -> str:
    """Return the first paragraph as one line."""
    return " ".join(docstring.split("\n\n")[0].split())


def n_words(text: str) -> int:
    return len(text.split())


def docstring_faults(node: Documented, text: str) -> Iterator[str]:
    line = summary(text)
    if line.split()[0] in FIRST_WORDS:
        yield f"begins with {line.split()[0]!r}"
    first = re.split(r"(?<=[.:])\s", line)[0]
    if isinstance(node, ast.Module) and n_words(first) > MODULE_WORDS:
        yield f"{n_words(first)} words; expected at most {MODULE_WORDS}"
    for sentence in re.split(r"(?<=[.;:!?])\s", line):
        if n_words(sentence) > SUMMARY_WORDS:
            yield f"a sentence of {n_words(sentence)} words; expected at most {SUMMARY_WORDS}"


def phrase_faults(text: str) -> Iterator[str]:
    for pattern, better in PHRASES.items():
        if found := re.search(pattern, text):
            yield f"{found.group()!r}; write: {better}"


def without_code(page: str) -> str:
    return re.sub(r"```.*?```|`[^`]*`", "", page, flags=re.DOTALL)


def faults_of_code(path: Path) -> list[str]:
    source = path.read_text(encoding="utf-8")
    found = [
        f"{path}:{line}: {fault}"
        for node, line, text in docstrings(source)
        for fault in [*docstring_faults(node, text), *phrase_faults(text)]
    ]
    return found + [
        f"{path}:{line}: {fault}"
        for line, text in comments(source)
        for fault in phrase_faults(text)
    ]


def test_docstrings_and_comments_follow_the_rules() -> None:
    assert [fault for path in CODE for fault in faults_of_code(path)] == []


def test_docstrings_of_tests_do_not_begin_like_questions() -> None:
    found = [
        f"{path}:{line}: {text}"
        for path in TESTS
        for _, line, text in docstrings(path.read_text(encoding="utf-8"))
        if text.split()[0] in FIRST_WORDS
    ]
    assert found == []


def test_pages_follow_the_rules() -> None:
    pages = {path: without_code(path.read_text(encoding="utf-8")) for path in PAGES}
    assert [f"{p}: {fault}" for p, text in pages.items() for fault in phrase_faults(text)] == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('"""What comes next."""', "begins with 'What'"),
        ('"""One two three four five six seven eight nine ten eleven twelve more."""', "13 words"),
        (f'def f():\n    """Return {"a " * 25}thing."""', "a sentence of 27 words"),
        ('def f():\n    """Read a file that is no array."""', "'is no array'"),
        ('def f():\n    """Read it. Of many one is kept."""', "'Of m'"),
        ("# files are written at one stroke\n", "'at one stroke'"),
    ],
)
def test_each_rule_finds_its_fault(source: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(source, encoding="utf-8")
    assert fault in "".join(faults_of_code(path))
