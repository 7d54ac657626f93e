"""``show --previews``: a list, images on terminals, and escaped texts."""

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
from otel_progress.cli.preview_output import draw_blocks, encode_iterm, encode_kitty, image_protocol
from otel_progress.testing import recording


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """URL of a journal with an operation that has an image, a text and JSON."""
    url = url_of(tmp_path / "progress.db")
    with recording(store=url, preview_at="always", strict=False) as recorder:
        with progress.operation("render", id="r", total=1) as op:
            picture = Image.new("RGB", (40, 20), (200, 30, 10))
            for name, value in (("latent", picture), (EVIL, EVIL), ("state", {"loss": 0.5})):
                op.preview(value, name)
                assert recorder.runtime._previews is not None
                assert recorder.runtime._previews.flush(TIMEOUT_S)
        with progress.operation("render", id="none", total=1):
            pass
    return url


def test_previews_in_pipe_are_list_and_texts(stored: str, tmp_path: Path) -> None:
    """The text has no control characters."""
    output = run("--store", stored, "show", "r", "--previews").output
    lines = output.splitlines()
    start = lines.index("Previews")
    assert re.fullmatch(r" +1  .*latent  40x20 image/png, .*  file://.*\.png", lines[start + 1])
    assert [name for name in tmp_path.glob("progress-previews/*/*.png") if name.as_uri() in output]
    assert "evil" in output
    assert '"loss": 0.5' in output
    assert all(line.isprintable() for line in lines)
    assert "▀" not in output
    assert "Previews" not in run("--store", stored, "show", "r").output
    assert run("--store", stored, "show", "none", "--previews").output.splitlines()[-2:] == [
        "Previews",
        "  none",
    ]


def test_previews_as_json_have_location(stored: str) -> None:
    (document,) = documents(run("--store", stored, "show", "r", "--previews", "--json"))
    assert document["previews"] == 3
    assert [preview["number"] for preview in document["preview_records"]] == [1, 2, 3]
    assert document["preview_records"][0]["location"].startswith("file://")


def test_preview_with_missing_or_changed_content_is_one_line(stored: str, tmp_path: Path) -> None:
    """The command succeeds, also with previews=false."""
    for path in tmp_path.glob("progress-previews/*/*.txt"):
        path.unlink()
    for path in tmp_path.glob("progress-previews/*/*.json"):
        path.write_text("changed")
    result = run("--store", stored, "show", "r", "--previews")
    assert result.exit_code == 0
    assert "no longer stored" in result.output
    assert "has changed since it was stored" in result.output
    off = run("--store", stored, "show", "r", "--previews", env={"OTEL_PROGRESS_PREVIEWS": "false"})
    assert "previews=false" in off.output


def test_rm_deletes_preview_files(stored: str, tmp_path: Path) -> None:
    assert len(list(tmp_path.glob("progress-previews/*/*"))) == 3
    assert run("--store", stored, "rm", "r").exit_code == 0
    assert list(tmp_path.glob("progress-previews/*")) == []


def test_previews_of_batch_are_rejected(stored: str) -> None:
    with recording(store=stored), progress.batch("Many", id="many") as batch, batch.operation("one"):
        pass
    result = run("--store", stored, "show", "many", "--previews")
    assert (result.exit_code, "--previews are for the operations" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("environ", "protocol"),
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
def test_image_protocol_follows_terminal_environment(environ: dict[str, str], protocol: str | None) -> None:
    assert image_protocol(environ, "UTF-8", None) == protocol
    assert image_protocol(environ, "UTF-8", False) is None
    if protocol == "blocks":
        assert image_protocol(environ, "latin-1", None) is None


def test_image_sequences_contain_whole_content() -> None:
    """kitty receives chunks of at most 4096 characters."""
    content = os.urandom(10_000)
    chunks = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", encode_kitty(content, 24))
    assert base64.b64decode("".join(text for _, text in chunks)) == content
    assert max(len(text) for _, text in chunks) == 4096
    assert [options for options, _ in chunks] == ["a=T,f=100,q=2,r=24,m=1", "m=1", "m=1", "m=0"]
    sequence = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=10000;height=9;preserveAspectRatio=1:([A-Za-z0-9+/=]*)\x07",
        encode_iterm(content, 9),
    )
    assert sequence is not None
    assert base64.b64decode(sequence[1]) == content


def test_half_blocks_draw_two_pixels_per_cell() -> None:
    """The upper pixel is the foreground, the lower one the background."""
    rows: Any = [[(255, 0, 0), (255, 0, 0)], [(0, 0, 255), (10, 10, 10)]]
    assert list(draw_blocks(rows, is_true_colour=True)) == [
        "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[38;2;255;0;0;48;2;10;10;10m▀\x1b[0m"
    ]
    assert list(draw_blocks(rows, is_true_colour=False)) == [
        "\x1b[38;5;196;48;5;21m▀\x1b[38;5;196;48;5;232m▀\x1b[0m"
    ]


@pytest.mark.process
def test_previews_on_terminal_draw_image(stored: str) -> None:
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
    command = [sys.executable, "-m", "otel_progress", "--store", stored, "show", "r", "--previews"]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environ) as process:
        os.close(child)
        written = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            written += chunk
        assert process.wait(TIMEOUT_S) == 0
    os.close(parent)
    screen = pyte.Screen(60, 120)
    pyte.ByteStream(screen).feed(written)
    cells = [cell for row in screen.buffer.values() for cell in row.values() if cell.data == "▀"]
    assert len(cells) >= 200
    assert {(cell.fg, cell.bg) for cell in cells} == {("c81e0a", "c81e0a")}
