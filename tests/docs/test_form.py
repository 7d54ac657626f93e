"""Form of the documents: line and page length, blank lines, index."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, PROJECT, links

HOW_TO = PROJECT / "docs" / "how-to"
PAGES = sorted(
    {
        *DOCUMENTS,
        PROJECT / "CONTRIBUTING.md",
        PROJECT / "SECURITY.md",
        *(PROJECT / "benchmarks").rglob("*.md"),
    }
)
GENERATED = re.compile(r"^<!-- generated: \w+ -->$.*?^<!-- end -->$", re.DOTALL | re.MULTILINE)
MAX_COLUMNS = 100
MAX_LINES = 200
"""About three screens."""


def name_page(page: Path) -> str:
    """Return the path of a page in the project."""
    return page.relative_to(PROJECT).as_posix()


def read_written_lines(page: Path) -> list[str]:
    """Return the lines of a page, with empty ones for its generated parts."""
    text = page.read_text(encoding="utf-8")
    return GENERATED.sub(lambda part: "-\n" * part[0].count("\n") + "-", text).split("\n")


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_page_lines_fit_the_columns(page: Path) -> None:
    """Lines have at most 100 columns, except for tables, pictures and generated parts."""
    exempt = ("|", "![")
    lines = enumerate(read_written_lines(page), 1)
    assert [n for n, line in lines if len(line) > MAX_COLUMNS and not line.lstrip().startswith(exempt)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_page_text_has_single_blank_lines_and_a_final_newline(page: Path) -> None:
    """Code has two blank lines between functions, so blocks of code are exempt."""
    lines, is_code, found = read_written_lines(page), False, []
    for number, (line, following) in enumerate(pairwise(lines), 1):
        is_code ^= line.lstrip().startswith("```")
        if not is_code and line == following == "":
            found.append(number)
    assert found == []
    assert lines[-1] == ""
    assert not is_code


@pytest.mark.parametrize(
    "page", [path for path in DOCUMENTS if path.parent == HOW_TO], ids=lambda path: path.name
)
def test_how_to_page_is_at_most_three_screens_and_indexed(page: Path) -> None:
    """A how-to page is short, and the index links to it."""
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert page.name == "index.md" or page.name in set(links(HOW_TO / "index.md"))
