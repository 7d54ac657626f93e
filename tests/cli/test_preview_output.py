"""``show --previews``: a list for pipes and programs, pictures on terminals that can show them, and never anything a terminal obeys."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import EVIL, TIMEOUT_S, clean_environ, documents, run, url_of

pytest.importorskip("PIL.Image", reason="pillow is not installed: it makes the previews")

from PIL import Image

import otel_progress as progress
from otel_progress.cli.preview_output import blocks, image_protocol, iterm, kitty
from otel_progress.testing import recording


@pytest.fixture
def kept(tmp_path: Path) -> str:
    """The URL of a journal with an operation that has a picture, a text and JSON."""
    url = url_of(tmp_path / "progress.db")
    with recording(store=url, preview_at="always", strict=False) as recorder:
        with progress.operation("render", id="r", total=1) as op:
            picture = Image.new("RGB", (40, 20), (200, 30, 10))
            for name, value in (("latent", picture), (EVIL, EVIL), ("state", {"loss": 0.5})):
                op.preview(value, name)
                assert recorder.runtime.previewer is not None
                assert recorder.runtime.previewer.flush(TIMEOUT_S)
        with progress.operation("render", id="none", total=1):
            pass
    return url


def test_a_pipe_gets_a_list(kept: str, tmp_path: Path) -> None:
    """Into a pipe goes one line for each, with where its content is, then texts with nothing in them a terminal obeys."""
    output = run("--store", kept, "show", "r", "--previews").output
    lines = output.splitlines()
    start = lines.index("Previews")
    assert re.fullmatch(r" +1  .*latent  40x20 image/png, .*  file://.*\.png", lines[start + 1])
    assert [name for name in tmp_path.glob("progress-previews/*/*.png") if name.as_uri() in output]
    assert "evil" in output
    assert '"loss": 0.5' in output
    assert all(line.isprintable() for line in lines)
    assert "▀" not in output
    assert "Previews" not in run("--store", kept, "show", "r").output
    assert run("--store", kept, "show", "none", "--previews").output.splitlines()[-2:] == [
        "Previews",
        "  none",
    ]


def test_json_has_their_records(kept: str) -> None:
    """Programs get the records, with the place of the content."""
    (document,) = documents(run("--store", kept, "show", "r", "--previews", "--json"))
    assert document["previews"] == 3
    assert [one["number"] for one in document["preview_records"]] == [1, 2, 3]
    assert document["preview_records"][0]["location"].startswith("file://")


def test_content_that_is_gone_is_told(kept: str, tmp_path: Path) -> None:
    """A preview whose file somebody deleted or changed costs a line, not the command; nor does a place that is switched off."""
    for path in tmp_path.glob("progress-previews/*/*.txt"):
        path.unlink()
    for path in tmp_path.glob("progress-previews/*/*.json"):
        path.write_text("changed")
    result = run("--store", kept, "show", "r", "--previews")
    assert result.exit_code == 0
    assert "no longer stored" in result.output
    assert "has changed since it was stored" in result.output
    off = run("--store", kept, "show", "r", "--previews", env={"OTEL_PROGRESS_PREVIEWS": "false"})
    assert "previews=false" in off.output


def test_removing_an_operation_removes_its_files(kept: str, tmp_path: Path) -> None:
    """``rm`` deletes the files with the operation."""
    assert len(list(tmp_path.glob("progress-previews/*/*"))) == 3
    assert run("--store", kept, "rm", "r").exit_code == 0
    assert list(tmp_path.glob("progress-previews/*")) == []


def test_a_batch_has_none(kept: str) -> None:
    """A batch is told apart with what to do."""
    with recording(store=kept), progress.batch("Many", id="many") as batch, batch.operation("one"):
        pass
    result = run("--store", kept, "show", "many", "--previews")
    assert (result.exit_code, "--previews are for the operations" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("environ", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1", "TMUX": "x"}, "blocks"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "screen.xterm", "LC_TERMINAL": "iTerm2"}, "blocks"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, None),
        ({"TERM": "dumb"}, None),
        ({}, None),
    ],
)
def test_the_terminal_says_what_it_shows(environ: dict[str, str], way: str | None) -> None:
    """By its environment a terminal is known; where colours are not wanted nothing is drawn."""
    assert image_protocol(environ, "UTF-8", None) == way
    assert image_protocol(environ, "UTF-8", False) is None
    if way == "blocks":
        assert image_protocol(environ, "latin-1", None) is None


def test_sequences_carry_the_content() -> None:
    """The content goes to kitty in pieces of at most 4096 characters, to iTerm2 in one; nothing of it is lost."""
    content = os.urandom(10_000)
    pieces = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", kitty(content, 24))
    assert base64.b64decode("".join(text for _, text in pieces)) == content
    assert max(len(text) for _, text in pieces) == 4096
    assert [options for options, _ in pieces] == ["a=T,f=100,q=2,r=24,m=1", "m=1", "m=1", "m=0"]
    told = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=10000;height=9;preserveAspectRatio=1:([A-Za-z0-9+/=]*)\x07",
        iterm(content, 9),
    )
    assert told is not None
    assert base64.b64decode(told[1]) == content


def test_half_blocks_show_two_pixels_a_cell() -> None:
    """A cell has the upper pixel in its foreground and the lower one in its background, in 24-bit colours or of the 256."""
    rows: Any = [[(255, 0, 0), (255, 0, 0)], [(0, 0, 255), (10, 10, 10)]]
    assert list(blocks(rows, deep=True)) == [
        "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[38;2;255;0;0;48;2;10;10;10m▀\x1b[0m"
    ]
    assert list(blocks(rows, deep=False)) == ["\x1b[38;5;196;48;5;21m▀\x1b[38;5;196;48;5;232m▀\x1b[0m"]


@pytest.mark.process
def test_on_a_terminal_the_picture_is_drawn(kept: str) -> None:
    """On a real terminal the newest picture is drawn as cells of its own colours."""
    pyte = pytest.importorskip("pyte", reason="pyte is not installed: it is the terminal")
    import pty

    parent, child = pty.openpty()
    environ = clean_environ()
    environ |= {
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "COLUMNS": "60",
        "LINES": "60",
        "PYTHONUTF8": "1",
    }
    for name in ("TMUX", "TERM_PROGRAM", "KITTY_WINDOW_ID", "LC_TERMINAL"):
        environ.pop(name, None)
    command = [sys.executable, "-m", "otel_progress", "--store", kept, "show", "r", "--previews"]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environ) as process:
        os.close(child)
        written = b""
        while True:
            try:
                piece = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            written += piece
        assert process.wait(TIMEOUT_S) == 0
    os.close(parent)
    screen = pyte.Screen(60, 120)
    pyte.ByteStream(screen).feed(written)
    cells = [cell for row in screen.buffer.values() for cell in row.values() if cell.data == "▀"]
    assert len(cells) >= 200
    assert {(cell.fg, cell.bg) for cell in cells} == {("c81e0a", "c81e0a")}
