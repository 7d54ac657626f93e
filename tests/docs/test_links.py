"""Links between files of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, PROJECT, anchors, links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_of_document_have_targets(document: Path) -> None:
    """Relative links name existing files, and anchors name existing headings."""
    broken = []
    for target in links(document):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_links_of_readme_are_found() -> None:
    """The README links to the documents, so the test above can fail."""
    assert {"docs/tutorial.md", "docs/how-to/index.md", "docs/reference.md", "docs/design.md"} <= {
        link.partition("#")[0] for link in links(PROJECT / "README.md")
    }
