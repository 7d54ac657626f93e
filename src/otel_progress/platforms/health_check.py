"""Health checks: pings at the start and the end of work, as of healthchecks.io.

The service raises an alarm if a ping is missing. A period of work starts with the first operation
and ends when no operation has run for a second. Its last ping reports a failure if an operation
failed or was cancelled.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from otel_progress.model import Status
from otel_progress.platforms.http_client import post
from otel_progress.platforms.report import PlatformReport, format_counts
from otel_progress.semconv import SinkName
from otel_progress.text import truncate

QUIET_S: Final = 1.0
"""Time without a running operation after which a period of work has ended, in seconds."""


MAX_BODY_CHARS: Final = 2_000
"""Longest text of a ping. Longer ones are cut."""


class HealthCheckPlatform:
    """Sends POST requests to ``URL/start``, ``URL`` and ``URL/fail``."""

    name: SinkName = "platforms.health_check"
    interval_s = 0.2
    is_always_active = False

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._run_id = ""
        """Id that joins the pings of a period. Empty outside of one."""
        self._ended_count = 0
        """Ended operations before the period."""
        self._unsuccessful_count = 0
        self._quiet_since: float | None = None

    def send(self, report: PlatformReport) -> float | None:
        """Send the ping that is due, if any."""
        if not self._run_id:
            if not report.running and report.ended_count == self._ended_count:
                return None
            run_id = str(uuid.uuid4())
            self._ping("/start", run_id, _describe(report))
            self._run_id = run_id
        if report.running:
            self._quiet_since = None
            return None
        now = self._clock()
        if self._quiet_since is None:
            self._quiet_since = now
        if not report.is_final and now - self._quiet_since < QUIET_S:
            return QUIET_S - (now - self._quiet_since)
        if report.ended_count == self._ended_count and not report.is_final:
            # Why: the end of the operation has not been collected yet.
            return QUIET_S
        is_failed = report.unsuccessful_count > self._unsuccessful_count
        self._ping("/fail" if is_failed else "", self._run_id, _describe(report))
        self._run_id, self._quiet_since = "", None
        self._ended_count, self._unsuccessful_count = report.ended_count, report.unsuccessful_count
        return None

    def _ping(self, suffix: str, run_id: str, text: str) -> None:
        parts = urlsplit(self._url)
        query = f"{parts.query}&rid={run_id}" if parts.query else f"rid={run_id}"
        url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix, query=query))
        body = truncate(text, MAX_BODY_CHARS).encode()
        post("the health check", url, body, {"Content-Type": "text/plain; charset=utf-8"})


def _describe(report: PlatformReport) -> str:
    """Return the operation and the numbers of ended operations."""
    lines = []
    operation = report.operation
    if operation is not None:
        root = operation.root
        name = operation.name if operation.name == root.info.type else f"{root.info.type} {operation.name}"
        lines.append(f"{name}: {root.status.value} {format_counts(root)}".rstrip())
    failed = next((each.root for each in reversed(report.ended) if each.root.status is Status.FAILED), None)
    if failed is not None and failed.error is not None:
        lines.append(f"{failed.info.name}: {failed.error.type}: {failed.error.message}")
    lines.extend(f"{status.value}: {count}" for status, count in sorted(report.counts.items()))
    return "\n".join(lines)
