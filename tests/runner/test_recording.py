"""Tests of the progress that is read from the output of a command."""

from __future__ import annotations

import pytest

import otel_progress as progress
from otel_progress.parsers.ffmpeg import FfmpegParser
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
