"""The type declarations of the client match the exports of its modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import otel_progress

PAGE = Path(otel_progress.__file__).parent / "server" / "page"


@pytest.mark.parametrize("module", ["progress-client", "use-progress"])
def test_declarations_match_the_exports(module: str) -> None:
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


def test_modules_never_parse_markup_or_call_other_hosts() -> None:
    """No module sets markup or evaluates text. No page has an inline script or style."""
    for path in sorted(PAGE.glob("*.js")):
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
        ), path.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|127\.0\.0\.1)", text), path.name
    for path in sorted(PAGE.glob("*.html")):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), path.name
