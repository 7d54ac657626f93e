"""Port of ``/metrics``, which one of several processes serves.

The process that gets the port serves the metrics of all processes of its group. The others try to
bind the port until they succeed, so one of them continues when that process ends.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otel_progress.diagnostics import logger, report_internal_error, report_unavailable
from otel_progress.errors import ConfigurationError, UnavailableError, to_unavailable_error
from otel_progress.fork import defer_fork
from otel_progress.metrics.shared_totals import can_share_totals
from otel_progress.processes import this_host
from otel_progress.runtime.parent_process import is_multiprocessing_child
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.text import remove_credentials

if TYPE_CHECKING:
    from otel_progress.journal import Journal
    from otel_progress.metrics.http_server import MetricsServer
    from otel_progress.settings.fields import Settings


ATTEMPT_INTERVAL_S: Final = 1.0
"""Average time between two attempts to bind the port, in seconds."""


START_TIMEOUT_S: Final = 0.25
"""Maximum time that ``configure()`` waits for the process that has the port, in seconds."""


PROBE_TIMEOUT_S: Final = 2.0
"""Maximum time that an attempt waits for the process that has the port, in seconds."""


_MAX_UNANSWERED: Final = 3
"""Questions without an answer, after which the port belongs to another program. A busy process of
the group may not answer in time.
"""


_CLOSE_S: Final = 3.0
"""Time that a close waits for the thread of the attempts, in seconds."""


_MEMORY_HINT: Final = (
    "Without a shared journal, /metrics has only the operations of the process that serves it. "
    "Set store to sqlite: or redis:// to serve those of all processes."
)


def find_group(settings: Settings, journal: Journal | None) -> str | None:
    """Return the name of the processes that share the metrics of this one, or None.

    They run on this machine, and have the same journal and the same address of ``/metrics``.
    """
    if journal is None or not settings.prometheus_port or not can_share_totals():
        return None
    location = remove_credentials(settings.store) if journal.location is None else str(journal.location)
    address = f"{settings.prometheus_host}:{settings.prometheus_port}"
    return hashlib.sha256(f"{this_host()}\0{address}\0{location}".encode("utf-8", "replace")).hexdigest()[:32]


class MetricsPort:
    """Serves ``/metrics`` of this process or of its group.

    ``serve`` binds the port and returns the server. ``is_peer`` returns True if another process of
    the group serves the port, and None without an answer within the given seconds. It is None
    without a group. ``attempt_interval_s`` is the average time between two attempts to bind the
    port, in seconds.
    """

    def __init__(
        self,
        serve: Callable[[], MetricsServer],
        shared_url: str,
        is_peer: Callable[[float], bool | None] | None,
        *,
        is_strict: bool = False,
        attempt_interval_s: float = ATTEMPT_INTERVAL_S,
    ) -> None:
        self.url: str | None = None
        """URL of the metrics of this process, or None while they are not known to be served."""
        self._serve = serve
        self._shared_url = shared_url
        self._is_peer = is_peer
        self._is_strict = is_strict
        self._attempt_interval_s = attempt_interval_s
        self._server: MetricsServer | None = None
        self._is_warned = False
        self._is_peer_known = False
        self._unanswered = 0
        self._bind_error: Exception | None = None
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_inherited = False

    def restart(self) -> None:
        """Continue in a forked child, whose parent serves the port.

        The copy of the server has closed itself.
        """
        was_active = self._server is not None or self._thread is not None or self._is_inherited
        self._server = None
        self._reset()
        if self._is_peer is None:
            self.url = None
        self._is_inherited = was_active and self._is_peer is not None

    def start(self) -> None:
        """Bind the port, or wait in the background until that is possible.

        Raises UnavailableError or ConfigurationError if it is not served at all.
        """
        try:
            self._bind()
        except UnavailableError as error:
            if not _is_in_use(error):
                raise
            if self._is_peer is None:
                raise UnavailableError(f"{error}\n{_MEMORY_HINT}") from error
            # Why longer with strict: otherwise a busy process of the group stops this one.
            while self._is_strict and not self._is_peer_known:
                if self._ask_peer(PROBE_TIMEOUT_S) is False or self._unanswered >= _MAX_UNANSWERED:
                    raise
            self._check_peer(error, START_TIMEOUT_S)
            self._start_thread()

    def continue_inherited(self) -> None:
        """Start the attempts of a forked child that records something.

        The child serves the port after the end of its parent. Children of multiprocessing do not
        serve it.
        """
        if self._is_inherited:
            self._is_inherited = False
            if not is_multiprocessing_child():
                self._start_thread()

    def _bind(self) -> None:
        # Why: a child that is forked during the call would keep the port.
        with defer_fork():
            server = self._serve()
        with self._lock:
            is_closing = self._closing.is_set()
            if not is_closing:
                self._server, self.url = server, server.url
        if is_closing:
            server.close()

    def _start_thread(self) -> None:
        # Why weak: a runtime that was dropped without a shutdown ends its thread.
        reference, closing, interval_s = weakref.ref(self), self._closing, self._attempt_interval_s
        self._thread = start_daemon_thread(
            lambda: _run_attempts(reference, closing, interval_s),
            "metrics-port",
            "metrics",
            "The thread that waits for the port of the metrics could not be started",
        )

    def attempt(self) -> bool:
        """Try to bind the port. Return True if no further attempt is useful."""
        try:
            self._bind()
        except (ConfigurationError, RuntimeError, OSError) as error:
            if _is_in_use(error):
                self._check_peer(error, PROBE_TIMEOUT_S)
                return False
            unavailable = to_unavailable_error(error) if isinstance(error, Exception) else None
            self._warn(unavailable or error)
            return unavailable is None
        logger.debug("This process serves the metrics of its group at %s from now on.", self.url)
        return True

    def _check_peer(self, error: Exception, timeout_s: float) -> None:
        """Warn once if another program has the port."""
        if self._is_peer_known or self._is_warned:
            return
        self._bind_error = error
        if self._ask_peer(timeout_s) is False or self._unanswered >= _MAX_UNANSWERED:
            self._warn(error)

    def _ask_peer(self, timeout_s: float) -> bool | None:
        """Return whether a process of the group has the port, or None without an answer."""
        answer = None if self._is_peer is None else self._is_peer(timeout_s)
        if answer:
            self._is_peer_known = True
            self.url = self._shared_url
        elif answer is None:
            self._unanswered += 1
        return answer

    def _warn(self, error: Exception) -> None:
        if self._is_warned:
            return
        self._is_warned = True
        self.url = None
        text = "The metrics are not served until the port is free, and the work continues"
        if isinstance(error, ConfigurationError):
            report_unavailable("metrics", text, error)
        else:
            report_internal_error("metrics", text, error=error)

    def close(self) -> None:
        """Stop serving or waiting. Idempotent."""
        if self._pid != os.getpid():
            return
        self._closing.set()
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.close()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_S)
        # Why here: a short program ends before the answers are missing.
        if self.url is None and self._bind_error is not None:
            self._warn(self._bind_error)


def _run_attempts(reference: weakref.ref[MetricsPort], closing: threading.Event, interval_s: float) -> None:
    # Why at once: the first attempt finds out which process has the port.
    is_done = False
    while not is_done and not closing.is_set():
        port = reference()
        is_done = port is None or port.attempt()
        del port
        # Why random: otherwise all processes try at the same time.
        if not is_done:
            closing.wait(interval_s * random.uniform(0.5, 1.5))


def _is_in_use(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
