"""Links within the project lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, PROJECT, anchors, links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file that exists, and every anchor a heading in it."""
    broken = []
    for target in links(document):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_links_are_found() -> None:
    """The README links to the documents, so the test above has something to look at."""
    assert {"docs/tutorial.md", "docs/how-to/index.md", "docs/reference.md", "docs/design.md"} <= {
        link.partition("#")[0] for link in links(PROJECT / "README.md")
    }
