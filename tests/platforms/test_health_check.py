"""Health checks: pings against a real server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest

import otel_progress as progress
from otel_progress import Runtime
from otel_progress.diagnostics import internal_error_counts
from otel_progress.platforms.health_check import HealthCheckPlatform
from otel_progress.platforms.report import EndedOperations, build_report
from tests.support.factories import ended, operation
from tests.support.platform_servers import ReportServer, receiving_reports
from tests.support.servers import poll


@pytest.fixture
def server() -> Iterator[ReportServer]:
    """A server of health checks."""
    with receiving_reports() as received:
        yield received


def configure(*report_to: str) -> Runtime:
    """Record in memory and report to platforms."""
    return progress.configure(
        store="memory:", console=False, otlp=False, resources=False, tick=0.02, report_to=report_to
    )


def test_completed_work_is_a_start_and_a_success(server: ReportServer) -> None:
    with configure(f"{server.url}/uuid/?create=1"):
        list(progress.track(range(3), "import"))
        server.wait_for(1)
    assert server.paths == ["/uuid/start", "/uuid"]
    (start, _, _), (end, text, _) = server.requests
    assert start.partition("?")[2] == end.partition("?")[2]
    assert start.partition("?")[2].startswith("create=1&rid=")
    assert text.splitlines() == ["track import: completed 3/3", "completed: 1"]


def test_failed_work_is_a_failure_with_the_error(server: ReportServer) -> None:
    with configure(f"{server.url}/uuid"):
        with suppress(ValueError), progress.operation("import"):
            server.wait_for(1)
            raise ValueError("bad row")
        with progress.operation("report"):
            pass
    assert server.paths == ["/uuid/start", "/uuid/fail"]
    assert "ValueError: bad row" in server.requests[1][1]


def test_operation_with_the_name_of_its_type_is_named_once(server: ReportServer) -> None:
    with configure(f"{server.url}/uuid"), progress.operation("import", total=2) as op:
        op.increment(2)
    assert server.requests[1][1].splitlines() == ["import: completed 2/2", "completed: 1"]


def test_work_that_the_end_of_the_process_cancels_is_a_failure(server: ReportServer) -> None:
    with configure(f"{server.url}/uuid"):
        progress.operation("import").start()
        server.wait_for(1)
    assert server.paths == ["/uuid/start", "/uuid/fail"]


def test_work_after_a_quiet_second_is_another_period(server: ReportServer) -> None:
    with configure(f"{server.url}/uuid"):
        with suppress(ValueError), progress.operation("first"):
            raise ValueError("x")
        server.wait_for(2)
        with progress.operation("second"):
            pass
    assert server.paths == ["/uuid/start", "/uuid/fail", "/uuid/start", "/uuid"]


def test_process_without_work_sends_nothing(server: ReportServer) -> None:
    with configure(f"{server.url}/uuid"):
        pass
    assert server.requests == []


def test_error_is_counted_and_logged_once_without_the_url(
    server: ReportServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = 503
    with caplog.at_level(logging.DEBUG, logger="otel_progress"), configure(f"{server.url}/secret-uuid"):
        list(progress.track(range(3)))
        server.wait_for(1)
    assert "secret-uuid" not in caplog.text
    assert caplog.text.count("HTTP status 503") == 1
    assert internal_error_counts["sink platforms.health_check"] >= 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/secret-uuid", "http://host.invalid/secret-uuid"])
def test_unreachable_server_does_not_delay_the_work(url: str, caplog: pytest.LogCaptureFixture) -> None:
    runtime = configure(url)
    list(progress.track(range(3)))
    runtime.shutdown(0.5)
    assert "secret-uuid" not in caplog.text


def test_slow_server_delays_the_shutdown_by_its_limit_only(server: ReportServer) -> None:
    server.released.clear()
    runtime = configure(f"{server.url}/uuid")
    list(progress.track(range(3)))
    server.wait_for(1)
    assert not runtime.shutdown(0.2)
    server.released.set()
    poll(lambda: len(server.requests) == 2, what="the last ping")


def test_redirect_is_not_followed(server: ReportServer) -> None:
    server.status, server.location = 302, "/other"
    with configure(f"{server.url}/uuid"):
        list(progress.track(range(3)))
        server.wait_for(1)
    assert "/other" not in server.paths


def test_flush_sends_the_end_of_the_work(server: ReportServer) -> None:
    with configure(f"{server.url}/uuid") as runtime:
        list(progress.track(range(3)))
        assert runtime.force_flush()
        assert server.paths == ["/uuid/start"]
        # A second without work ends the period.
        server.wait_for(2)


def test_end_that_is_not_collected_yet_is_waited_for(server: ReportServer) -> None:
    """The reader knows the end of an operation before the next tick does."""
    platform = HealthCheckPlatform(server.url, clock=iter(range(0, 1000, 10)).__next__)
    nothing = EndedOperations()
    assert platform.send(build_report([], nothing)) is None
    assert platform.send(build_report([operation()], nothing)) is None
    assert platform.send(build_report([], nothing)) is not None
    assert platform.send(build_report([], nothing)) is not None
    assert platform.send(build_report([], nothing.add([operation(ended())]))) is None
    assert server.paths == ["/start", "/"]
