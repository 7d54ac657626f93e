"""Tests of the progress that is read from the output of a command."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress.parsers.detection import DetectingParser
from otel_progress.parsers.ffmpeg import FfmpegParser
from otel_progress.parsers.numbers import PercentParser
from otel_progress.runner.recording import MAX_OPEN_LINE_BYTES, OutputRecorder
from otel_progress.testing import Recorder

HEADER = b"Input #0, matroska\n  Duration: 00:00:02.00, start: 0.000000\n    Stream #0:0: Video\n"
BLOCK = b"frame=17\nout_time_us=1700000\nprogress=continue\n"
HEADER_END = len(HEADER)


@pytest.mark.parametrize("split", range(1, HEADER_END))
def test_observer_reads_a_line_that_arrives_in_two_parts(recorder: Recorder, split: int) -> None:
    """ffmpeg writes the duration in several parts."""
    with progress.operation("command", id="c") as operation:
        outputs = OutputRecorder(operation, FfmpegParser(), has_total=False, is_automatic=False)
        errors = outputs.create_observer(has_errors=True)
        errors.observe(HEADER[:split])
        errors.observe(HEADER[split:])
        outputs.create_observer(has_errors=False).observe(BLOCK)
        root = recorder.operation("c").root
        assert (root.current, root.total) == (1.7, 2.0)
    assert outputs.tail.text is not None
    assert [line.strip() for line in outputs.tail.text.splitlines()] == [
        line.strip() for line in HEADER.decode().splitlines()
    ]


def test_observer_with_a_long_line_keeps_a_bounded_part(recorder: Recorder) -> None:
    """The tail has the text nevertheless."""
    with progress.operation("command", id="c") as operation:
        outputs = OutputRecorder(operation, FfmpegParser(), has_total=False, is_automatic=False)
        errors = outputs.create_observer(has_errors=True)
        for _ in range(10):
            errors.observe(b"x" * MAX_OPEN_LINE_BYTES)
            assert len(errors._open_line) <= MAX_OPEN_LINE_BYTES
        errors.finish()
    assert recorder.operation("c").root.current == 0


def test_observer_ignores_progress_in_binary_output(recorder: Recorder) -> None:
    """An archive on stdout has random percentages. Those of the other stream are read."""
    with progress.operation("command", id="c") as operation:
        outputs = OutputRecorder(operation, DetectingParser(), has_total=False, is_automatic=True)
        archive = outputs.create_observer(has_errors=False)
        errors = outputs.create_observer(has_errors=True)
        archive.observe(b"\x1f\x8b\0\0\r2%\r7%\r")
        archive.observe(b"\xe1\r9%\r11%\r")
        root = recorder.operation("c").root
        assert (root.current, root.total) == (0, None)
        errors.observe(b"\r10%\r20%\r30%")
        archive.observe(b"\xe1\r3%\r4%")
        archive.finish()
        root = recorder.operation("c").root
        assert (root.current, root.total) == (20, 100)
        errors.observe(b"\ndisk\0full\n")
        errors.finish()
    assert outputs.tail.text is not None
    assert outputs.tail.text.endswith("diskfull")


def test_observer_with_a_given_format_reads_output_with_zero_bytes(recorder: Recorder) -> None:
    with progress.operation("command", id="c") as operation:
        outputs = OutputRecorder(operation, PercentParser(), has_total=False, is_automatic=False)
        outputs.create_observer(has_errors=False).observe(b"\x00 37%\n")
    assert recorder.operation("c").root.current == 37
