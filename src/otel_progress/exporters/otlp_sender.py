"""A thread between the SDK and an exporter, so that nobody waits longer for a collector than they meant to.

An OTLP exporter retries a dead collector for ten seconds a batch, logs each try, and ignores the timeouts it is given; the
processors of the SDK wait for it when they flush and when they close. Here the exporter runs on a thread of its own. In normal
work the caller (a thread of the SDK) waits for it. When the process closes, it waits as long as Patience says.
Failures are counted, and logged once for each outage.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

CLOSE_S: Final = 3.0
"""How long a closing process waits for its telemetry, all signals together, in seconds."""
_GRACE_S: Final = 0.25
_EXPORTER_MODULES: Final = "opentelemetry.exporter."

_logger = logging.getLogger(__name__)
_on_this_thread = threading.local()


class Patience:
    """How long to wait at the end: one limit in seconds, shared by all senders it is given to."""

    def __init__(self, limit_s: float = CLOSE_S) -> None:
        self._limit_s = limit_s
        self._deadline: float | None = None
        self._lock = threading.Lock()

    def deadline(self) -> float:
        """Return the moment (monotonic clock) to give up; the first call sets it, and whoever comes late has a short grace."""
        now = time.monotonic()
        with self._lock:
            if self._deadline is None:
                self._deadline = now + self._limit_s
            return max(self._deadline, now + _GRACE_S)


class _Job(Generic[T]):
    __slots__ = ("batch", "done", "ok", "sent")

    def __init__(self, batch: T) -> None:
        self.batch = batch
        self.sent = False  # the exporter has answered; what became of it is told by the sender's thread, and not by stop()
        self.done = False
        self.ok = False


class Sender(Generic[T]):
    """Runs ``export`` on a thread of its own, one batch at a time; ``stop`` ends the exporter. Nothing raises.

    ``name`` says in log lines what is sent. ``on_error`` is called once for each batch that was lost.
    """

    def __init__(
        self,
        name: str,
        export: Callable[[T], bool],
        stop: Callable[[], object],
        *,
        patience: Patience | None = None,
        on_error: Callable[[], object] | None = None,
    ) -> None:
        self._name = name
        self._export = export
        self._stop = stop
        self._patience = patience or Patience()
        self._on_error = on_error
        self._deadline: float | None = None
        self._job: _Job[T] | None = None
        self._stopped = False
        self._in_outage = False
        self.heard = ""
        self.failures = 0
        # The thread exists from the start: at exit, when the last batch is sent, Python 3.12 no longer lets one start.
        self._start()

    def send(self, batch: T) -> bool:
        """Export a batch and return whether that worked; False at once or in mid-wait when the time to close has run out."""
        if self._pid != os.getpid():
            self._start()  # a forked child has neither the thread nor a lock in a known state
        job = _Job(batch)
        with self._changed:
            if not self._wait(lambda: self._job is None):
                taken = False
            else:
                taken = True
                self._job = job
                self._changed.notify_all()
                self._wait(lambda: job.done)
        if not taken:
            self._failed("there was no time left to send it")
        return job.ok

    def closing(self) -> None:
        """Let waiting end when Patience says so, from now on."""
        self._deadline = self._patience.deadline()
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread and the exporter; what is being sent is given up. Safe to call twice."""
        with self._changed:
            already, self._stopped = self._stopped, True
            unfinished = self._job is not None and not self._job.sent
            self._changed.notify_all()
        if already:
            return
        if unfinished:
            self._failed("it was still being sent when the time to close had run out")
            within(_GRACE_S, self._end_exporter)  # up to 1.33 it waits here for the batch that is given up
        else:
            self._end_exporter()

    @contextmanager
    def stopped_on_error(self) -> Iterator[None]:
        """Stop when the block fails, which builds what feeds this: a setting that is refused leaves no thread behind."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _end_exporter(self) -> None:
        with _quiet(self):
            try:
                self._stop()
            except Exception as exc:  # foreign code at the end of the process; telemetry never breaks the work
                _logger.debug("closing the exporter of %s: %s", self._name, exc)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._job = None
        threading.Thread(target=self._run, args=(self._changed,), name=f"otel-progress-{self._name}", daemon=True).start()

    def _wait(self, ready: Callable[[], bool]) -> bool:
        """Wait, with the lock held, until ``ready()``; False when the sender stopped or the time ran out before."""
        while not ready():
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if self._stopped or (left is not None and left <= 0):
                return False
            self._changed.wait(left)
        return not self._stopped

    def _run(self, changed: threading.Condition) -> None:
        with _quiet(self):
            while True:
                with changed:
                    while self._job is None and not self._stopped:
                        changed.wait()
                    job = self._job
                if self._stopped or job is None:
                    return
                try:
                    self._send(job)
                except Exception:  # what counts or logs a failure failed itself; the thread has to live on
                    _logger.debug("after the export of %s", self._name, exc_info=True)
                with changed:
                    job.done = True
                    self._job = None
                    changed.notify_all()

    def _send(self, job: _Job[T]) -> None:
        self.heard = ""
        try:
            job.ok = self._export(job.batch)
        except Exception as exc:
            self.heard = f"{type(exc).__name__}: {exc}"
        with self._changed:
            if self._stopped:
                return  # given up by stop(), which has said so
            job.sent = True
        if job.ok:
            self._recovered()
        else:
            self._failed(self.heard or "the exporter gave no reason")

    def _failed(self, reason: str) -> None:
        with self._changed:  # the sender's thread and one that found no time left to send may fail at once
            self.failures += 1
            first, self._in_outage = not self._in_outage, True
        if self._on_error is not None:
            self._on_error()
        if first:
            _logger.warning(
                "OTLP export of %s failed: %s. The work goes on; further failures are only counted until it works again.",
                self._name,
                reason,
            )

    def _recovered(self) -> None:
        with self._changed:
            ended, self._in_outage = self._in_outage, False
        if ended:
            _logger.info("OTLP export of %s works again, after %d lost batches.", self._name, self.failures)


def within(timeout_s: float, call: Callable[[], object]) -> bool:
    """Run ``call`` on a thread and return whether it ended within ``timeout_s`` seconds; if not, it goes on in the background."""
    thread = threading.Thread(target=call, name="otel-progress-flush", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down; what is pending goes out when the provider is closed
        return False
    thread.join(max(0.0, timeout_s))
    return not thread.is_alive()


class _quiet:  # noqa: N801 - reads as a statement
    """Marks the current thread as working for a sender, which then speaks for the exporter."""

    def __init__(self, sender: Sender[Any]) -> None:
        self._sender = sender

    def __enter__(self) -> None:
        _on_this_thread.sender = self._sender

    def __exit__(self, *_: object) -> None:
        _on_this_thread.sender = None


def speak_for(exporter: object) -> None:
    """Keep the exporter's own warnings from the log where a Sender runs it, which tells them once; elsewhere nothing changes."""
    for cls in type(exporter).__mro__:
        if cls.__module__.startswith(_EXPORTER_MODULES):
            logging.getLogger(cls.__module__).addFilter(_speaks_itself)


def _speaks_itself(record: logging.LogRecord) -> bool:
    sender = getattr(_on_this_thread, "sender", None)
    if sender is None or record.levelno < logging.WARNING:
        return True
    sender.heard = record.getMessage()
    return False
