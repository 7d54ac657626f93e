"""The declarations of the client say what is there: each module has one, and names exactly what the module exports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import otel_progress

PAGE = Path(otel_progress.__file__).parent / "server" / "page"


@pytest.mark.parametrize("module", ["progress-client", "use-progress"])
def test_declarations_match_the_module(module: str) -> None:
    """Every value that is exported is declared, and nothing else is."""
    source = (PAGE / f"{module}.js").read_text()
    exported = set(re.findall(r"^export (?:async )?(?:class|function|const) (\w+)", source, re.M))
    for names in re.findall(r"^export \{([^}]*)\}", source, re.M):
        exported |= {name.strip() for name in names.split(",")}
    declared = set(
        re.findall(
            r"^export (?:declare )?(?:class|function|const) (\w+)",
            (PAGE / f"{module}.d.ts").read_text(),
            re.M,
        )
    )
    assert exported == declared


def test_nothing_is_parsed_as_markup() -> None:
    """No module sets markup, writes a document, evaluates text or asks another host; no page has a script or a style inside."""
    for path in sorted(PAGE.glob("*.js")):
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
        ), path.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|127\.0\.0\.1)", text), path.name
    for path in sorted(PAGE.glob("*.html")):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), path.name
