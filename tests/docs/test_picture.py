"""The picture of the README: well-formed SVG with the expected text."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from tests.support.documents import PROJECT
from tests.support.scripts import script

SVG = "{http://www.w3.org/2000/svg}"


def words(picture: str) -> str:
    """Return the text of an SVG."""
    return "".join(
        "".join(element.itertext()) for element in ElementTree.fromstring(picture).iter(f"{SVG}text")
    ).replace("\xa0", " ")


def fetched(picture: str) -> list[str]:
    """Return the external addresses in an SVG, without references to its own elements."""
    return [
        address
        for address in re.findall(r"url\(([^)]*)\)|href=\"([^\"]*)\"", picture)
        if not "".join(address).startswith("#")
    ]


def test_committed_picture_has_operation_stage_and_ratio() -> None:
    """The committed picture loads nothing from the network."""
    picture = (PROJECT / "docs" / "images" / "demo.svg").read_text(encoding="utf-8")
    assert "Survey of the sources of Python" in words(picture)
    assert re.search(r"stage analyse .*\d+%", re.sub(r"\s+", " ", words(picture)))
    assert fetched(picture) == []


@pytest.mark.skipif(sys.platform == "win32", reason="the script needs a pseudo terminal")
def test_pictures_of_the_gallery_show_progress_and_load_nothing() -> None:
    """Each program with a picture has one, and each picture has a program."""
    text = (PROJECT / "docs" / "gallery.md").read_text(encoding="utf-8")
    names = [f"{section.name}.{section.form}" for section in script("picture").read_gallery(text)]
    folder = PROJECT / "docs" / "images" / "gallery"
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    for name in names:
        if name.endswith(".svg"):
            picture = (folder / name).read_text(encoding="utf-8")
            assert re.search(r"\d+%", words(picture)), name
            assert fetched(picture) == []


def test_gallery_has_each_integration_of_the_how_to_guides() -> None:
    """A program of the gallery page imports each integration that a guide imports."""
    imported = re.compile(r"otel_progress\.integrations(?:\.| import )(\w+)")
    gallery = PROJECT / "docs" / "gallery.md"
    guides = (PROJECT / "docs" / "how-to").glob("*.md")
    wanted = {name for guide in guides for name in imported.findall(guide.read_text(encoding="utf-8"))}
    wanted.discard("tqdm")  # Its programs import otel_progress.tqdm.
    assert wanted - set(imported.findall(gallery.read_text(encoding="utf-8"))) == set()


def test_each_section_of_the_gallery_shows_a_result() -> None:
    """Each section has a picture or an output."""
    text = (PROJECT / "docs" / "gallery.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    without = [title for title, body in sections if "![" not in body and "```text" not in body]
    assert without == []


@pytest.mark.skipif(sys.platform == "win32", reason="the script needs a pseudo terminal")
def test_draw_terminal_screen_has_colours_and_escaped_text() -> None:
    """The picture has the colours of the terminal, and markup stays text."""
    import pyte

    screen = pyte.Screen(40, 5)
    pyte.Stream(screen).feed("\x1b[1;31mfailed <b>&\x1b[0m plain\r\n\x1b[92mok\x1b[0m")
    picture = script("picture").draw_screen(screen)
    assert "failed <b>& plain" in re.sub(r"\s+", " ", words(picture))
    assert "ok" in words(picture)
    assert len(set(re.findall(r"fill: (#[0-9a-f]{6})", picture))) >= 3
    assert fetched(picture) == []
