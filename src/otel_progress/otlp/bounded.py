"""OTLP exporters with bounded shutdown.

All signals share one time budget. Failures are counted, and each outage is logged once. The SDK
runs an exporter on its own threads and retries within the exporter's timeout. By default, shutdown
waits 30 s per signal.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from otel_progress.otlp.causes import describe_cause, get_endpoint, names_no_cause
from otel_progress.processes import allows_daemon_threads
from otel_progress.suppression import suppressed_instrumentation

T = TypeVar("T")


SHUTDOWN_S: Final = 3.0
"""Maximum time that all signals together delay the end of a process, in seconds."""


_GRACE_S: Final = 0.12
"""Time that a signal may use after the others have used up the budget, in seconds."""


_MAX_WAITS: Final = 5
"""Waits with a reserved grace: events, spans, metrics, the provider at exit, and one spare."""


_EXPORTER_MODULES: Final = "opentelemetry.exporter."


_GRPC_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"


_logger = logging.getLogger("otel_progress.otlp")


_on_this_thread = threading.local()


class ShutdownBudget:
    """Time that all signals together may wait at shutdown.

    The budget of ``limit_s`` seconds is used only while a signal waits. Thread-safe.
    """

    def __init__(self, limit_s: float = SHUTDOWN_S, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._grace_s = min(_GRACE_S, limit_s / (2 * _MAX_WAITS))
        self._left_s = limit_s - _MAX_WAITS * self._grace_s
        # Why reentrant: a signal handler may shut down while its thread does.
        self._lock = threading.RLock()

    @contextmanager
    def wait(self) -> Iterator[float]:
        """Yield the seconds that the block may wait. Its duration reduces the budget."""
        started = self._clock()
        yield max(self._left_s, self._grace_s)
        elapsed_s = self._clock() - started
        with self._lock:
            # Why without a call: no signal handler can run within the statement.
            self._left_s -= elapsed_s


class ExportMonitor(Generic[T]):
    """Calls an exporter, counts its failures and logs one line per outage.

    It never raises. ``name`` is the signal in log lines. ``export`` returns whether the collector
    accepted the batch. ``stop`` closes the exporter. ``on_error`` is called once for each lost
    batch. The SDK never exports two batches of one exporter at the same time.
    """

    def __init__(
        self,
        name: str,
        export: Callable[[T], bool],
        stop: Callable[[], object],
        *,
        budget: ShutdownBudget | None = None,
        on_error: Callable[[], object] | None = None,
    ) -> None:
        self.budget = budget or ShutdownBudget()
        self.last_log_message = ""
        self.last_problem = ""
        """Why the last attempt of the running export failed, if the exporter's session knows."""
        self.failures = 0
        self.exports = 0
        """Number of exports that were started."""
        self._name = name
        self._export = export
        self._stop = stop
        self._on_error = on_error
        self._in_flight: list[int] = []
        """Holds the id of this process during an export. The thread that removes it reports the
        outcome.
        """
        self._stopped = False
        self._in_outage = False

    @property
    def is_failing(self) -> bool:
        """True from a failed export to the next successful one."""
        return self._in_outage

    def export(self, batch: T) -> bool:
        """Export one batch on the current thread.

        Return whether the collector accepted it. Return False after :meth:`stop`.
        """
        if self._stopped:
            return False
        self.exports += 1
        self._in_flight[:] = [os.getpid()]  # replaces an entry that a forked child inherited
        self.last_log_message = self.last_problem = ""
        accepted = False
        with suppressed_instrumentation(), _capturing_logs(self):
            try:
                accepted = self._export(batch)
            except Exception as exc:
                self.last_log_message = f"{type(exc).__name__}: {exc}"
        if not self._finish_export():
            return False  # stop() has counted this batch as lost
        try:
            if accepted:
                self._report_success()
            else:
                self._report_failure(self._describe_cause() or "the exporter gave no reason")
        except Exception:
            _logger.debug("The outcome of an export of %s could not be reported.", self._name, exc_info=True)
        return accepted

    def stop(self) -> None:
        """Close the exporter.

        A batch that is still being exported is lost. Safe to call twice.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._finish_export():
            self._report_failure(self._describe_late_batch())
        with suppressed_instrumentation(), _capturing_logs(self):
            try:
                self._stop()
            except Exception as exc:
                _logger.debug("The exporter of %s could not be closed: %s", self._name, exc)

    def report_unsent(self) -> None:
        """Report that waiting records were lost when the exporter was closed.

        Why: on a busy machine, the thread of the SDK may not start an export within the budget.
        """
        self._report_failure("the last batch was not sent within the time for shutdown")

    def report_waiting(self) -> None:
        """Log that records wait at the end of the shutdown, once per outage.

        They are not lost yet. The exporter is closed when the process exits.
        """
        self._log_outage(self._describe_late_batch())

    @contextmanager
    def stopped_on_error(self) -> Iterator[None]:
        """Close the exporter if the block fails.

        An invalid setting of a processor then leaves no open connection.
        """
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def flush(self, timeout_s: float, flush: Callable[[], object]) -> bool:
        """Run ``flush`` for at most ``timeout_s`` seconds.

        Return whether it ended in time and every batch was accepted.
        """
        failures = self.failures
        return run_with_timeout(timeout_s, flush) and self.failures == failures

    def _finish_export(self) -> bool:
        """Remove the mark of a running export.

        Return True for the one thread that has to report the outcome.
        """
        try:
            return self._in_flight.pop() == os.getpid()
        except IndexError:
            return False

    def _describe_cause(self) -> str:
        return describe_cause(self.last_problem or self.last_log_message)

    def _describe_late_batch(self) -> str:
        text, cause = "the last batch was not accepted within the time for shutdown", self._describe_cause()
        return f"{cause} ({text})" if cause else text

    def _report_failure(self, reason: str) -> None:
        self.failures += 1
        self._log_outage(reason)
        if self._on_error is not None:
            self._on_error()

    def _log_outage(self, reason: str) -> None:
        first, self._in_outage = not self._in_outage, True
        if first:
            endpoint = get_endpoint(self._name)
            _logger.warning(
                "OTLP export of %s%s failed: %s. The work continues. "
                "Further failures are only counted until an export succeeds.",
                self._name,
                f" to {endpoint}" if endpoint else "",
                reason,
            )

    def _report_success(self) -> None:
        ended, self._in_outage = self._in_outage, False
        if ended:
            _logger.info(
                "OTLP export of %s succeeds again, after %d lost batches.", self._name, self.failures
            )


def report_unsent_records(processor: Any, monitor: ExportMonitor[Any]) -> None:
    """Report records in the queue of a batch processor after its shutdown."""
    queue = getattr(processor, "_queue", ())
    if queue:
        queue.clear()  # so that a second shutdown does not report them again
        monitor.report_unsent()


def run_with_timeout(timeout_s: float, call: Callable[[], object]) -> bool:
    """Run ``call`` on a thread.

    Return whether it ended within ``timeout_s`` seconds. If not, it continues in the background.
    """
    thread = threading.Thread(target=call, name="otel-progress-flush", daemon=allows_daemon_threads())
    try:
        thread.start()
    except RuntimeError:  # at interpreter shutdown; closing the provider exports pending batches
        return False
    thread.join(max(0.0, timeout_s))
    return not thread.is_alive()


class _capturing_logs:  # noqa: N801 - it is used like a function
    """Redirects the exporter's warnings on the current thread to a monitor."""

    def __init__(self, monitor: ExportMonitor[Any] | _DroppedLogs) -> None:
        self._monitor = monitor

    def __enter__(self) -> None:
        _on_this_thread.monitor = self._monitor

    def __exit__(self, *_: object) -> None:
        _on_this_thread.monitor = None


@contextmanager
def capturing_constructor_logs() -> Iterator[None]:
    """Drop the log records of exporters that the block creates on this thread."""
    logger = logging.getLogger(_GRPC_EXPORTER)
    logger.addFilter(_is_not_captured)
    with _capturing_logs(_DroppedLogs()):
        yield


class _DroppedLogs:
    """Receiver of log messages that are dropped."""

    last_log_message = ""
    last_problem = ""


def capture_exporter_logs(exporter: object) -> None:
    """Let an ExportMonitor report the warnings of this exporter.

    Exporters that run without a monitor log as before.
    """
    for cls in type(exporter).__mro__:
        if cls.__module__.startswith(_EXPORTER_MODULES):
            logging.getLogger(cls.__module__).addFilter(_is_not_captured)


def _is_not_captured(record: logging.LogRecord) -> bool:
    monitor = getattr(_on_this_thread, "monitor", None)
    if monitor is None or record.levelno < logging.WARNING:
        return True
    message = record.getMessage()
    if not (monitor.last_log_message and names_no_cause(message)):
        monitor.last_log_message = message
    return False


def note_problem(problem: str) -> None:
    """Store why an export on this thread failed. Empty: it is not known.

    Why: some exporters log only that they gave up, without the cause.
    """
    monitor = getattr(_on_this_thread, "monitor", None)
    if monitor is not None:
        monitor.last_problem = problem
