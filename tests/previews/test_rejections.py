"""What is no preview: refused with a reason, counted, and never an exception, a wait or a secret in the work."""

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


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that claims to have so many pixels and is some hundred bytes."""

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
    """Something that breaks whoever looks at it."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError


async def coroutine() -> bytes:
    """Return nothing that anybody waits for."""
    return b""


CYCLE: list[object] = []
CYCLE.append(CYCLE)

PNG = encoded(Image.effect_noise((64, 64), 100))
NO_PICTURES: list[tuple[object, str]] = [
    (bomb(100_000, 100_000), "no picture that can be decoded|too large"),
    (bomb(8_000, 8_000), "8000x8000 is too large"),
    (PNG[: len(PNG) // 2], "no picture that can be decoded"),
    (PNG[:4], "no picture that can be decoded"),
    (b"", "no picture that can be decoded"),
    (b"\0" * 1000, "no picture that can be decoded"),
    (
        b'\xef\xbb\xbf <?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "SVG is not taken",
    ),
    (b"<svg onload='alert(1)'/>", "SVG is not taken"),
    (b"<!DOCTYPE html><script>alert(1)</script>", "HTML is not taken"),
    (b"%PDF-1.7", "PDF is not taken"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that can be decoded"),
    (b"a" * (32 * 1024 * 1024 + 1), "at most 33554432 are taken"),
    (bytearray(32 * 1024 * 1024 + 1), "at most 33554432 are taken"),
    (b"\x1b]0;evil\x07 secret", "no picture that can be decoded"),
    (np.zeros((3, 40, 50)), r"channels first: pass array.transpose\(1, 2, 0\)"),
    (np.zeros((7, 4, 5)), r"expected \(height, width\)"),
    (np.zeros(9), r"expected \(height, width\)"),
    (np.zeros(()), r"expected \(height, width\)"),
    (np.zeros((0, 5)), "has no pixels"),
    (np.zeros((4, 4), complex), "array of complex128 is no picture"),
    (np.array([[object()]]), "array of object is no picture"),
    (np.zeros((4, 4), "datetime64[s]"), "is no picture"),
    (np.array([["text"]]), "is no picture"),
    (Image.new("L", (0, 5)), "has no pixels"),
    (None, "a NoneType is no preview"),
    (3, "a int is no preview"),
    (Odd(), "a Odd is no preview"),
    ({"a": object()}, "JSON cannot hold a object"),
    ({"a": {1, 2}}, "JSON cannot hold a set"),
    (list(range(6_000)), "more than 5000 values"),
    (CYCLE, "nested deeper than 32"),
    (coroutine, "asynchronous"),
    (lambda: lambda: 1, "returned a function"),
    (lambda: None, "a NoneType is no preview"),
    (Path("/dev/zero"), "no regular file"),
    (Path("/proc/self"), "cannot be opened|no regular file"),
    (Path("/no/such/\x1b[31mfile"), r"file '/no/such/\\+x1b\[31mfile' cannot be opened"),
    (Path("a\0b"), "cannot be opened"),
]


@pytest.mark.parametrize(
    ("value", "reason"), NO_PICTURES, ids=[str(number) for number in range(len(NO_PICTURES))]
)
def test_what_is_no_picture_is_refused(value: object, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted as refused, the log says why in one line that no terminal is harmed by, and the work hears nothing."""
    with recording() as recorder, progress.operation("render", total=1) as op:
        op.preview(value, at="always")
        assert outcomes(recorder) == {"refused": 1}
        assert stored(recorder, op.operation_id) == []
    said = [record.getMessage() for record in caplog.records if record.name == "otel_progress"]
    assert len(said) == 1
    assert said[0].isprintable()
    assert re.search(reason, said[0]), said


@pytest.mark.parametrize("what", ["pipe", "folder", "socket"])
def test_only_regular_files_are_read(recorder: Recorder, tmp_path: Path, what: str) -> None:
    """A pipe that nobody writes to is refused at once, as are folders and sockets."""
    import socket

    path = tmp_path / "x.png"
    with socket.socket(socket.AF_UNIX) as server:
        {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "socket": lambda: server.bind(str(path))}[
            what
        ]()
        with progress.operation("render", total=1) as op:
            op.preview(path, at="always")
            assert outcomes(recorder) == {"refused": 1}


def test_a_file_that_only_looks_like_a_text_is_harmless(recorder: Recorder, tmp_path: Path) -> None:
    """A text file may hold anything; a JSON file has to be JSON, and not too long."""
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


def test_a_function_that_fails_is_counted_and_the_next_one_is_made(
    lenient: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a function raises stays out of the work, is logged once, and harms no other preview."""

    def fail() -> object:
        raise ZeroDivisionError("in the drawing")

    with progress.operation("render", total=1) as op:
        for value in (fail, fail, "good"):
            op.preview(value, at="always")
            settle(lenient)
        assert outcomes(lenient) == {"failed": 2, "stored": 1}
    assert sum("ZeroDivisionError" in record.getMessage() for record in caplog.records) == 1


def test_a_place_that_cannot_be_written_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk or folder that refuses costs the previews, and nothing else."""
    (tmp_path / "file").write_text("in the way")
    with (
        recording(previews=str(tmp_path / "file" / "below")) as recorder,
        progress.operation("render", total=1) as op,
    ):
        op.preview("text", at="always")
        assert outcomes(recorder) == {"failed": 1}
    assert "NotADirectoryError" in caplog.text or "FileExistsError" in caplog.text


def test_a_function_that_hangs_does_not_hold_up_the_end() -> None:
    """The process ends within the time of a shutdown, and says that not everything was done."""
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
        hanging[0].join(PATIENCE_S)  # what it would still say is none of the next test's
        assert not hanging[0].is_alive()


def test_bad_moments_and_names_are_harmless(lenient: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """A bad ``at`` is refused with what was expected; a name can be anything."""
    moments: list[Any] = ["sometimes", -1, (2.0,), object(), {"a": 1}, float("nan"), [], ()]
    with progress.operation("render", total=1) as op:
        for at in moments:
            op.preview("text", at=at)
        assert outcomes(lenient) == {"refused": len(moments)}
        op.preview("text", "\x1b[31m" + "n" * 1000, at="always")
        op.level("odd").start().preview("text", Odd(), at="always")  # type: ignore[arg-type]
        assert [len(preview.name) for preview in stored(lenient, op.operation_id)] == [64, 5]
    assert "expected fractions of the work" in caplog.text


def test_a_level_has_a_bounded_number_of_names(lenient: Recorder) -> None:
    """A loop that makes up a name each time is refused from the hundredth on."""
    with progress.operation("render", total=1) as op:
        for number in range(105):
            op.preview("text", f"name {number}", at="always")
            settle(lenient)
    found = outcomes(lenient)
    assert found["refused"] == 5


@pytest.mark.parametrize("state", ["ended", "not configured", "switched off"])
def test_where_nothing_is_recorded_nothing_is_taken(state: str) -> None:
    """On an ended level, without configure and with previews=False a function is never called."""
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
def test_without_pil_there_are_texts_and_one_warning() -> None:
    """Where the extra is missing, pictures are refused with one line that says what to install; texts and JSON work."""
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


def test_an_enormous_figure_is_drawn_small(recorder: Recorder) -> None:
    """A figure of a thousand inches costs no more than any other."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: it makes the figure")
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    with progress.operation("fit", total=1) as op:
        op.preview(Figure(figsize=(1000, 500), dpi=300), at="always")
        found = stored(recorder, op.operation_id)
    assert [(preview.width, preview.height) for preview in found] == [(512, 256)]


def test_logging_of_pil_does_not_reach_the_work(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """A library's own chatter about a broken picture is its own; ours is one warning."""
    with caplog.at_level(logging.WARNING), progress.operation("render", total=1) as op:
        for _ in range(5):
            op.preview(PNG[:200], at="always")
            settle(recorder)
    assert len([record for record in caplog.records if record.name == "otel_progress"]) == 1
