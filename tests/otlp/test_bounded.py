"""ExportMonitor and ShutdownBudget: bounded waits, failures and log lines."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

import pytest

from otel_progress.otlp.bounded import (
    SHUTDOWN_S,
    ExportMonitor,
    ShutdownBudget,
    capture_exporter_logs,
    note_problem,
    run_with_timeout,
)
from otel_progress.testing import FakeClock

LOGGER = "otel_progress.otlp"
LONG_S = 60.0
"""Far longer than any test. No test may wait this long."""


def make_monitor(export: Callable[[str], bool], **options: object) -> ExportMonitor[str]:
    """Return a monitor of an exporter that needs no closing."""
    return ExportMonitor("spans", export, lambda: None, **options)  # type: ignore[arg-type]


def test_export_returns_whether_the_batch_was_accepted() -> None:
    """The result is that of the exporter, and failures are counted."""
    monitor = make_monitor(lambda batch: batch == "good")
    assert [monitor.export("good"), monitor.export("bad"), monitor.export("good")] == [True, False, True]
    assert monitor.failures == 1


def test_budget_bounds_the_sum_of_all_waits() -> None:
    """Four signals that each wait as long as allowed stay below the limit."""
    clock = FakeClock(monotonic=100.0)
    budget = ShutdownBudget(clock=clock.monotonic)
    waits = []
    for _ in range(4):
        with budget.wait() as timeout_s:
            clock.advance(timeout_s)
        waits.append(timeout_s)
    assert waits[0] > 2.0
    assert min(waits) > 0.05
    assert sum(waits) < SHUTDOWN_S


def test_budget_is_used_only_while_a_signal_waits() -> None:
    """A signal that is closed much later has what the others left."""
    clock = FakeClock(monotonic=100.0)
    budget = ShutdownBudget(10.0, clock=clock.monotonic)
    with budget.wait() as first:
        clock.advance(1.0)
    clock.advance(1000.0)
    with budget.wait() as second:
        pass
    assert second == pytest.approx(first - 1.0)


def test_outage_is_logged_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    """All failures are counted."""
    answers = iter([False, False, False, True, True, False])
    errors: list[int] = []
    monitor = make_monitor(lambda _: next(answers), on_error=lambda: errors.append(1))
    with caplog.at_level(logging.INFO, logger="otel_progress"):
        for number in range(6):
            monitor.export(str(number))
    assert [record.levelname for record in caplog.records if record.name == LOGGER] == [
        "WARNING",
        "INFO",
        "WARNING",
    ]
    assert len(errors) == monitor.failures == 4


def test_stop_reports_a_running_export_as_lost_once(caplog: pytest.LogCaptureFixture) -> None:
    """The export fails later and is not counted again."""
    entered, release, errors, results = threading.Event(), threading.Event(), [], []

    def export(_: str) -> bool:
        entered.set()
        release.wait(LONG_S)
        return False

    monitor = make_monitor(export, on_error=lambda: errors.append(1))
    busy = threading.Thread(target=lambda: results.append(monitor.export("lost")))
    busy.start()
    assert entered.wait(LONG_S)
    monitor.stop()
    release.set()
    busy.join(LONG_S)
    assert results == [False]
    assert monitor.failures == len(errors) == 1
    assert "not accepted within the time for shutdown" in caplog.text


def test_stop_while_a_failure_is_reported_counts_it_once() -> None:
    """The exporter is closed during the report."""
    counting, release, errors = threading.Event(), threading.Event(), []

    def count() -> None:
        errors.append(1)
        counting.set()
        release.wait(LONG_S)

    monitor = make_monitor(lambda _: False, on_error=count)
    busy = threading.Thread(target=monitor.export, args=("lost",))
    busy.start()
    assert counting.wait(LONG_S)
    monitor.stop()
    release.set()
    busy.join(LONG_S)
    assert monitor.failures == len(errors) == 1


def test_exception_of_an_exporter_is_a_failure_with_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """The next batch is exported."""

    def export(batch: str) -> bool:
        if batch == "bad":
            msg = "cannot encode"
            raise ValueError(msg)
        return True

    monitor = make_monitor(export)
    assert [monitor.export("bad"), monitor.export("good")] == [False, True]
    assert "ValueError: cannot encode" in caplog.text


def test_log_lines_of_an_exporter_become_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Without a monitor the exporter logs as before."""
    logger = logging.getLogger("opentelemetry.exporter.otel_progress_test")

    class Exporter:
        def export(self, _: str) -> bool:
            logger.error("Failed to export: code %d", 503)
            return False

    Exporter.__module__ = logger.name
    exporter = Exporter()
    capture_exporter_logs(exporter)
    make_monitor(exporter.export).export("x")
    assert [record.name for record in caplog.records if record.name in (LOGGER, logger.name)] == [LOGGER]
    assert "Failed to export: code 503" in caplog.text
    exporter.export("x")
    assert [record.name for record in caplog.records if record.name in (LOGGER, logger.name)] == [
        LOGGER,
        logger.name,
    ]


@pytest.mark.parametrize("has_transient_message", [True, False])
@pytest.mark.parametrize("has_problem", [True, False])
def test_message_that_the_exporter_gave_up_is_no_reason(
    has_transient_message: bool, has_problem: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is that of an earlier message, or that of the session."""
    logger = logging.getLogger("opentelemetry.exporter.otel_progress_test_retries")

    class Exporter:
        def export(self, _: str) -> bool:
            if has_problem:
                note_problem("[Errno 111] Connection refused")
            if has_transient_message:
                logger.warning("Transient error Connection refused encountered, retrying in 1s.")
            logger.error("Failed to export spans batch due to timeout, max retries or shutdown.")
            return False

    Exporter.__module__ = logger.name
    exporter = Exporter()
    capture_exporter_logs(exporter)
    make_monitor(exporter.export).export("x")
    is_known = has_transient_message or has_problem
    assert ("failed: connection refused." in caplog.text) == is_known
    assert ("max retries" in caplog.text) != is_known


def test_records_that_wait_after_the_shutdown_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """They are counted when they are lost."""
    errors: list[int] = []
    monitor = make_monitor(lambda _: False, on_error=lambda: errors.append(1))
    monitor.report_waiting()
    monitor.report_waiting()
    assert (monitor.failures, errors) == (0, [])
    monitor.report_unsent()
    assert (monitor.failures, errors) == (1, [1])
    assert len(caplog.records) == 1


def test_error_in_counting_does_not_stop_the_export() -> None:
    """The callback of a lost batch raises."""

    def count() -> None:
        msg = "cannot count"
        raise RuntimeError(msg)

    monitor = make_monitor(lambda batch: batch == "good", on_error=count)
    assert [monitor.export("bad"), monitor.export("good")] == [False, True]


def test_stop_is_safe_twice_and_ignores_an_error_of_the_exporter() -> None:
    """The exporter is closed once, and later batches are refused."""
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        msg = "already gone"
        raise OSError(msg)

    monitor: ExportMonitor[str] = ExportMonitor("spans", lambda _: True, stop)
    monitor.stop()
    monitor.stop()
    assert calls == [1]
    assert monitor.export("late") is False


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_exports_although_its_parent_was_exporting() -> None:
    """The child does not report the parent's batch as lost."""
    entered, release = threading.Event(), threading.Event()
    parent = os.getpid()

    def export(_: str) -> bool:
        if os.getpid() == parent:
            entered.set()
            release.wait(2 * LONG_S)
        return True

    monitor, idle = make_monitor(export), make_monitor(export)
    busy = [threading.Thread(target=one.export, args=("parent",)) for one in (monitor, idle)]
    for thread in busy:
        thread.start()
    assert entered.wait(LONG_S)
    while not (monitor._in_flight and idle._in_flight):
        pass
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(LONG_S))  # a child that hangs fails the test
            accepted = monitor.export("child")
            monitor.stop()
            idle.stop()
            os._exit(0 if accepted and monitor.failures == idle.failures == 0 else 1)
        finally:  # the child runs no other tests
            os._exit(2)
    _, status = os.waitpid(child, 0)
    release.set()
    for thread in busy:
        thread.join(LONG_S)
    assert os.waitstatus_to_exitcode(status) == 0, "the child could not export"


def test_run_with_timeout_returns_whether_the_call_ended_in_time() -> None:
    """A call that takes longer continues in the background."""
    release = threading.Event()
    assert run_with_timeout(LONG_S, lambda: None) is True
    assert run_with_timeout(0.01, lambda: release.wait(4 * LONG_S)) is False
    release.set()
