"""What the docs name is there."""

from __future__ import annotations

import ast
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
each_page = pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])


@each_page
def test_a_link_leads_to_a_file_that_is_there(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))]
    dead = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert not dead


@each_page
def test_a_link_leads_to_a_heading_that_is_there(page: Path) -> None:
    for link, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())):
        if anchor and "://" not in link:
            headings = re.findall(r"^#+ (.*)$", ((page.parent / link) if link else page).read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{link}#{anchor}: {slugs}"


def _said() -> str:
    """Every text that the code has, each on a line; what is put into it is left out."""
    trees = (ast.parse(file.read_text()) for file in (ROOT / "knocker").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


LOG_TABLES = {"README.md": 0, "docs/operations.md": 1, "docs/docker.md": 0}  # the column with the log's words


@pytest.mark.parametrize("page", LOG_TABLES)
def test_a_line_of_the_log_is_one_that_knocker_says(page: str) -> None:
    said = re.sub(r"\{[^}\n]*\}", "", _said())
    rows = re.findall(r"^\| (.*) \|$", (ROOT / page).read_text(), re.MULTILINE)
    tables = [row.split(" | ") for row in rows if row.count("`")]
    column = LOG_TABLES[page]
    cells = [row[column] for row in tables if len(row) == column + 2]
    quoted = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) >= 3
    for text in quoted:
        for piece in re.split(r" ?\.\.\. ?|\bphone ", re.sub(r"\b172[.\d]+ ?", "", text)):
            assert piece.strip() in said, text


@each_page
def test_a_test_that_holds_a_promise_is_there(page: Path) -> None:
    named = re.findall(r"`((?:tests|benchmarks)/[\w/.]+)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    for path, function in named:
        assert (ROOT / path).exists(), path
        assert not function or f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), function


def test_every_promise_of_the_threat_model_names_its_tests() -> None:
    rows = re.findall(r"^\| [0-9]+ \| .* \| (.*) \|$", (ROOT / "docs/threat-model.md").read_text(), re.MULTILINE)
    assert len(rows) == 11
    assert all(row.count("`tests/") for row in rows)


def test_every_dependency_is_named_with_its_range() -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]
    needed = [settings["options"]["install_requires"], extras["redis"], extras["demo"]]
    wanted = {line for text in needed for line in text.split("\n") if line}
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+)(?: \([\w, ]+\))? \| (>=\S+, <\S+) \| ", page, re.MULTILINE)
    assert {f"{name} {versions}" for name, versions in rows} == wanted
