"""Sink of the platforms: it stores ended operations and wakes the reporters."""

from __future__ import annotations

import time
from collections.abc import Callable

from otel_progress.diagnostics import report_internal_error
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.platforms.report import EndedOperations, PlatformReport, build_report, is_own
from otel_progress.platforms.reporter import Platform, PlatformReporter
from otel_progress.protocols import ChangeSet, Reader
from otel_progress.semconv import SinkName


class PlatformsSink:
    """Sink with a reporter for each platform.

    ``write`` only wakes the reporters. Each reads the current state when it is due.
    """

    def __init__(self, reader: Reader, on_error: Callable[[SinkName], object]) -> None:
        self._reader = reader
        self._on_error = on_error
        self._reporters: list[PlatformReporter] = []
        self._ended = EndedOperations()
        self._has_work = False
        """True after the start of the first operation."""
        self._is_closed = False

    def add(self, platform: Platform) -> None:
        """Report to a platform."""
        reporter = PlatformReporter(platform, self._get_report, self._on_error)
        self._reporters.append(reporter)
        if platform.is_always_active:
            reporter.notify()

    @property
    def is_used(self) -> bool:
        """True if there is a platform."""
        return bool(self._reporters)

    def write(self, change_set: ChangeSet) -> None:
        """Store the ended operations and wake the reporters."""
        roots = [each for each in change_set.snapshots if not each.info.path and is_own(each)]
        ended = [
            OperationSnapshot(root, (), change_set.at, change_set.clock, change_set.instance)
            for root in roots
            if root.status.finished
        ]
        if ended:
            # Why a copy: the threads of the reporters read it.
            self._ended = self._ended.add(ended)
        self._has_work = self._has_work or any(root.status is not Status.PENDING for root in roots)
        if self._has_work:
            for reporter in self._reporters:
                reporter.notify()

    def close(self) -> None:
        """Send the final reports, without a wait."""
        self._is_closed = True
        for reporter in self._reporters:
            reporter.close()

    def flush(self, timeout: float) -> bool:
        """Send the end of all operations at once. Return False after the timeout.

        Reports of running operations keep their interval, and are not waited for.
        """
        if self._get_report().running:
            return True
        return self._wait(timeout, PlatformReporter.flush)

    def finish(self, timeout: float) -> bool:
        """Wait for the final reports. Return False after the timeout."""
        is_complete = self._wait(timeout, PlatformReporter.wait)
        if not is_complete:
            report_internal_error("platforms", "The end of the work was not reported before the shutdown")
        return is_complete

    def _wait(self, timeout: float, wait: Callable[[PlatformReporter, float], bool]) -> bool:
        deadline = time.monotonic() + timeout
        results = [wait(each, max(0.0, deadline - time.monotonic())) for each in self._reporters]
        return all(results)

    def _get_report(self) -> PlatformReport:
        active = () if self._is_closed else self._reader.active(levels=False)
        return build_report(active, self._ended, is_final=self._is_closed)
