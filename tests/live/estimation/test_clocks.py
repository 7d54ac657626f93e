"""Estimates are made once a second, and looked at by several threads: neither may be seen in what they say of work that goes on."""

from __future__ import annotations

import logging

import pytest

import otel_progress as progress
from otel_progress.live.estimation.request import build_request_locked, run_estimate
from otel_progress.testing import Recorder


def test_a_point_newer_than_the_clock_is_taken(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """The clock was read, another thread then took a point: the estimate is made as of that point, and nothing is logged."""
    op = progress.operation("job", total=10).start()
    for _ in range(4):
        recorder.clock.advance(1.0)
        op.increment()
        recorder.tick()
    course = op._node.estimation
    assert course is not None
    with caplog.at_level(logging.WARNING):
        asked = build_request_locked(op._node, course, (), (), recorder.clock.monotonic() - 0.5)
        assert asked is not None
        eta = run_estimate(asked)
    assert asked.elapsed == asked.points[-1][0] == pytest.approx(4.0)
    assert eta is not None
    assert eta.remaining_s == pytest.approx(6.0)
    assert [record.getMessage() for record in caplog.records if record.name == "otel_progress"] == []
    op.complete()


def test_work_that_goes_on_is_not_held_and_not_stalled_between_two_estimates(recorder: Recorder) -> None:
    """A level that advances every few milliseconds counts down all through the second for which its estimate has to stand."""
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
    assert len(left) > 38  # from the end of the first second on
    assert left == pytest.approx([0.0] * len(left), abs=0.2)
    op.complete()
