"""What the docs name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
each_page = pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])


@each_page
def test_a_link_leads_to_a_file_that_is_there(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))]
    dead = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert not dead


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
