"""Invalid previews: refused with a reason and counted.

The work sees no exception and no delay.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import otel_progress as progress
from otel_progress.testing import Recorder, recording, wait_until
from tests.support.previews import PATIENCE_S, encoded, outcomes, settle, stored

np = pytest.importorskip("numpy", reason="numpy is not installed: it makes the arrays")


def build_png_bomb(width: int, height: int) -> bytes:
    """Return a PNG of some hundred bytes whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


class Odd:
    """An object that raises at every access."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError


async def coroutine() -> bytes:
    """Return bytes that are never awaited."""
    return b""


CYCLE: list[object] = []
CYCLE.append(CYCLE)

PNG = encoded(Image.effect_noise((64, 64), 100))
INVALID_VALUES: list[tuple[object, str]] = [
    (build_png_bomb(100_000, 100_000), "invalid image content|at most 50000000 pixels"),
    (build_png_bomb(8_000, 8_000), "invalid image of 8000x8000: expected at most 50000000 pixels"),
    (PNG[: len(PNG) // 2], "invalid image content"),
    (PNG[:4], "invalid image content"),
    (b"", "invalid image content"),
    (b"\0" * 1000, "invalid image content"),
    (
        b'\xef\xbb\xbf <?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "SVG is not accepted",
    ),
    (b"<svg onload='alert(1)'/>", "SVG is not accepted"),
    (b"<!DOCTYPE html><script>alert(1)</script>", "HTML is not accepted"),
    (b"%PDF-1.7", "PDF is not accepted"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "invalid image content"),
    (b"a" * (32 * 1024 * 1024 + 1), "expected at most 33554432"),
    (bytearray(32 * 1024 * 1024 + 1), "expected at most 33554432"),
    (b"\x1b]0;evil\x07 secret", "invalid image content"),
    (np.zeros((3, 40, 50)), r"channels last. Pass array.transpose\(1, 2, 0\)"),
    (np.zeros((7, 4, 5)), r"expected \(height, width\)"),
    (np.zeros(9), r"expected \(height, width\)"),
    (np.zeros(()), r"expected \(height, width\)"),
    (np.zeros((0, 5)), "expected at least one pixel"),
    (np.zeros((4, 4), complex), "invalid array of complex128"),
    (np.array([[object()]]), "invalid array of object"),
    (np.zeros((4, 4), "datetime64[s]"), "invalid array of datetime64"),
    (np.array([["text"]]), "invalid array of <U4"),
    (Image.new("L", (0, 5)), "expected at least one pixel"),
    (None, "invalid preview of type NoneType"),
    (3, "invalid preview of type int"),
    (Odd(), "invalid preview of type Odd"),
    ({"a": object()}, "invalid JSON value of type object"),
    ({"a": {1, 2}}, "invalid JSON value of type set"),
    (list(range(6_000)), "expected at most 5000 values"),
    (CYCLE, "expected at most 32 nested levels"),
    (coroutine, "asynchronous"),
    (lambda: lambda: 1, "returned a function"),
    (lambda: None, "invalid preview of type NoneType"),
    (Path("/dev/zero"), "expected a regular file"),
    (Path("/proc/self"), "cannot be opened|expected a regular file"),
    (Path("/no/such/\x1b[31mfile"), r"file '/no/such/\\+x1b\[31mfile' cannot be opened"),
    (Path("a\0b"), "cannot be opened"),
]


@pytest.mark.parametrize(
    ("value", "reason"), INVALID_VALUES, ids=[str(number) for number in range(len(INVALID_VALUES))]
)
def test_invalid_value_is_refused_and_logged(
    value: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is counted, and logged in one printable line with its reason."""
    with recording() as recorder, progress.operation("render", total=1) as op:
        op.preview(value, at="always")
        assert outcomes(recorder) == {"refused": 1}
        assert stored(recorder, op.operation_id) == []
    messages = [record.getMessage() for record in caplog.records if record.name == "otel_progress"]
    assert len(messages) == 1
    assert messages[0].isprintable()
    assert re.search(reason, messages[0]), messages


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_path_that_is_no_regular_file_is_refused(recorder: Recorder, tmp_path: Path, kind: str) -> None:
    """Pipes without a writer, folders and sockets are refused at once."""
    import socket

    path = tmp_path / "x.png"
    with socket.socket(socket.AF_UNIX) as server:
        create = {
            "pipe": lambda: os.mkfifo(path),
            "folder": path.mkdir,
            "socket": lambda: server.bind(str(path)),
        }
        create[kind]()
        with progress.operation("render", total=1) as op:
            op.preview(path, at="always")
            assert outcomes(recorder) == {"refused": 1}


def test_text_file_with_any_content_is_stored_and_invalid_json_is_refused(
    recorder: Recorder, tmp_path: Path
) -> None:
    """A text file may contain any bytes. A JSON file must be valid and not too long."""
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe<script>" + b"x" * 1_000_000)
    (tmp_path / "a.json").write_bytes(b"{'no': json}")
    (tmp_path / "b.json").write_bytes(b"[" * 100_000)
    (tmp_path / "c.json").write_bytes(b'"' + b"x" * 3_000_000 + b'"')
    with progress.operation("render", total=1) as op:
        for name in ("a.txt", "a.json", "b.json", "c.json"):
            op.preview(tmp_path / name, at="always")
            settle(recorder)
        assert outcomes(recorder) == {"stored": 1, "refused": 3}
        assert stored(recorder, op.operation_id)[0].size_bytes < 300_000


def test_function_that_raises_is_counted_and_later_previews_are_stored(
    lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a function does not reach the work and is logged once."""

    def fail() -> object:
        raise ZeroDivisionError("in the drawing")

    with progress.operation("render", total=1) as op:
        for value in (fail, fail, "good"):
            op.preview(value, at="always")
            settle(lenient)
        assert outcomes(lenient) == {"failed": 2, "stored": 1}
    assert sum("ZeroDivisionError" in record.getMessage() for record in caplog.records) == 1


def test_store_that_cannot_be_written_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failing disk or folder affects only the previews."""
    (tmp_path / "file").write_text("in the way")
    with (
        recording(previews=str(tmp_path / "file" / "below")) as recorder,
        progress.operation("render", total=1) as op,
    ):
        op.preview("text", at="always")
        assert outcomes(recorder) == {"failed": 1}
    assert "NotADirectoryError" in caplog.text or "FileExistsError" in caplog.text


def test_function_that_hangs_does_not_block_shutdown() -> None:
    """Shutdown ends within its timeout and reports that previews are missing."""
    gate, hanging = threading.Event(), []

    def hang() -> str:
        hanging.append(threading.current_thread())
        gate.wait()
        return "too late"

    with recording() as recorder:
        op = progress.operation("render", total=1).start()
        op.preview(hang, at="always")
        wait_until(lambda: hanging, PATIENCE_S)
        other = op.level("other").start()
        other.preview("waits behind it", at="always")
        assert recorder.runtime.shutdown(0.5) is False
        gate.set()
        hanging[0].join(PATIENCE_S)  # a late log line must not reach the next test
        assert not hanging[0].is_alive()


def test_invalid_at_is_refused_and_any_name_is_accepted(
    lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the expected values of ``at``."""
    moments: list[Any] = ["sometimes", -1, (2.0,), object(), {"a": 1}, float("nan"), [], ()]
    with progress.operation("render", total=1) as op:
        for at in moments:
            op.preview("text", at=at)
        assert outcomes(lenient) == {"refused": len(moments)}
        op.preview("text", "\x1b[31m" + "n" * 1000, at="always")
        op.level("odd").start().preview("text", Odd(), at="always")  # type: ignore[arg-type]
        assert [len(preview.name) for preview in stored(lenient, op.operation_id)] == [64, 5]
    assert "expected fractions of the work" in caplog.text


def test_level_with_a_hundred_preview_names_refuses_more(lenient: Recorder) -> None:
    """A loop that uses a new name each time is bounded."""
    with progress.operation("render", total=1) as op:
        for number in range(105):
            op.preview("text", f"name {number}", at="always")
            settle(lenient)
    assert outcomes(lenient)["refused"] == 5


@pytest.mark.parametrize("state", ["ended", "not configured", "switched off"])
def test_function_is_not_called_when_nothing_is_recorded(state: str) -> None:
    """The level has ended, nothing is configured, or ``previews`` is False."""
    called: list[int] = []
    if state == "not configured":
        with progress.operation("render", total=1) as op:
            op.preview(lambda: called.append(1), at="always")
    else:
        with recording(previews=state != "switched off") as recorder:
            with progress.operation("render", total=1) as op:
                pass
            if state == "switched off":
                op = progress.operation("other", total=1).start()
                assert recorder.runtime._previews is None
            op.preview(lambda: called.append(1), at="always")
    assert called == []


WITHOUT_PIL = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("PIL", "fsspec"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import otel_progress as progress
from otel_progress.errors import MissingExtraError
from otel_progress import semconv
with progress.configure(store="memory:", console=False, resources=False, preview_at="always") as runtime:
    with progress.operation("render", id="r", total=1) as op:
        for value in (b"no picture", b"no picture", "text", {"json": 1}):
            op.preview(value)
            assert runtime._previews.flush(60)
    print([preview.media_type for preview in runtime.reader.previews("r")])
    print(sorted(runtime._totals.read().counters[semconv.PREVIEWS].items()))
try:
    progress.configure(store="memory:", console=False, previews="s3://bucket/previews")
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.process
def test_previews_without_pil_store_texts_and_log_one_warning() -> None:
    """Without the extra, images are refused with the command that installs it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_PIL],
        capture_output=True,
        text=True,
        env=environ,
        timeout=2 * PATIENCE_S,
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "['text/plain; charset=utf-8', 'application/json']",
        "[(('refused',), 2), (('stored',), 2)]",
    ], done.stderr
    assert lines[2].endswith("pip install 'otel-progress[previews]'")
    assert done.stderr.count("pip install 'otel-progress[previews]'") == 1


def test_figure_of_enormous_size_is_drawn_small(recorder: Recorder) -> None:
    """A figure of a thousand inches is drawn with the usual number of pixels."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: it makes the figure")
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    with progress.operation("fit", total=1) as op:
        op.preview(Figure(figsize=(1000, 500), dpi=300), at="always")
        previews = stored(recorder, op.operation_id)
    assert [(preview.width, preview.height) for preview in previews] == [(512, 256)]


def test_pil_warnings_do_not_reach_the_log(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """An invalid image causes one warning of this package, and none of PIL."""
    with caplog.at_level(logging.WARNING), progress.operation("render", total=1) as op:
        for _ in range(5):
            op.preview(PNG[:200], at="always")
            settle(recorder)
    assert len([record for record in caplog.records if record.name == "otel_progress"]) == 1
