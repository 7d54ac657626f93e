"""Form of the README, tutorial and how-to guides: line and page length, index."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, PROJECT, links

HOW_TO = PROJECT / "docs" / "how-to"
PAGES = [
    path
    for path in DOCUMENTS
    if path.parent == HOW_TO or path.name in ("README.md", "tutorial.md", "index.md")
]
MAX_COLUMNS = 100
MAX_LINES = 200
"""About three screens."""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_page_lines_fit_the_columns(page: Path) -> None:
    """Lines have at most 100 columns, except for tables and pictures."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    exempt = ("|", "![")
    assert [n for n, line in lines if len(line) > MAX_COLUMNS and not line.lstrip().startswith(exempt)] == []


@pytest.mark.parametrize(
    "page", [path for path in PAGES if path.parent == HOW_TO], ids=lambda path: path.name
)
def test_how_to_page_is_at_most_three_screens_and_indexed(page: Path) -> None:
    """A how-to page is short, and the index links to it."""
    assert len(page.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert page.name == "index.md" or page.name in set(links(HOW_TO / "index.md"))
