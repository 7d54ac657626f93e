"""Tests of estimates between two estimates and with several threads."""

from __future__ import annotations

import logging

import pytest

import otel_progress as progress
from otel_progress.live.estimation.request import build_request_locked, run_estimate
from otel_progress.testing import Recorder


def test_estimate_with_a_point_newer_than_the_clock_uses_it(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Another thread may add a point after the clock was read."""
    op = progress.operation("job", total=10).start()
    for _ in range(4):
        recorder.clock.advance(1.0)
        op.increment()
        recorder.tick()
    estimation = op._node.estimation
    assert estimation is not None
    with caplog.at_level(logging.WARNING):
        asked = build_request_locked(op._node, estimation, (), (), recorder.clock.monotonic() - 0.5)
        assert asked is not None
        eta = run_estimate(asked)
    assert asked.elapsed == asked.points[-1][0] == pytest.approx(4.0)
    assert eta is not None
    assert eta.remaining_s == pytest.approx(6.0)
    assert [record.getMessage() for record in caplog.records if record.name == "otel_progress"] == []
    op.complete()


def test_estimate_of_advancing_work_counts_down_without_a_stall(recorder: Recorder) -> None:
    """It remains valid for a second, until the next one."""
    op = progress.operation("job", total=1_000).start()
    left = []
    for number in range(500):
        recorder.clock.advance(0.01)
        op.increment()
        if number % 10 == 9:
            recorder.tick()
            eta = op.eta
            if eta is not None:
                assert eta.state == "estimated"
                assert eta.remaining_s is not None
                left.append(eta.remaining_s - (10.0 - 0.01 * (number + 1)))
    assert len(left) > 38
    assert left == pytest.approx([0.0] * len(left), abs=0.2)
    op.complete()
