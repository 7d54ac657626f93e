"""Handlers of SIGTERM and SIGHUP that cancel the running operations first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final

from otel_progress.errors import UnavailableError
from otel_progress.runtime.exit_hooks import original_exit
from otel_progress.runtime.threads import run_with_limit

TERMINATE_S: Final = 2.0
"""Maximum time that the handler of a signal delays the end of the process, in seconds. Changes that
are not written by then are lost.
"""


_SIGNALS: Final = ("SIGTERM", "SIGHUP")


_EXIT_STATUS_OF_SIGNALS: Final = 128
"""A shell reports a process that signal N ended with this exit status + N."""


class TerminateSignals:
    """Chained handlers of one runtime.

    ``finish`` cancels the running operations with a reason and writes all changes within a time
    limit in seconds. ``defer`` runs a function after a call of this package that the signal
    interrupted, or returns False.
    """

    def __init__(self) -> None:
        self.finish: Callable[[str, float], object] = lambda reason, timeout: None
        self.defer: Callable[[Callable[[], object]], bool] = lambda function: False
        self._previous: dict[int, Any] = {}
        self._is_finishing = False

    def install(self) -> None:
        """Install the handlers. Ignored signals stay ignored.

        Raises UnavailableError outside of the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            msg = (
                "Invalid thread for terminate_signals: expected the main thread, which alone can "
                "handle signals. Call configure() there."
            )
            raise UnavailableError(msg)
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            previous = None if number is None else signal.getsignal(number)
            # None is a handler that was not installed from Python, which cannot be called.
            if number is not None and previous not in (None, signal.SIG_IGN):
                self._previous[number] = previous
                signal.signal(number, self.handle_signal)

    def remove(self) -> None:
        """Restore the previous handlers, if that is possible.

        Another handler may have been installed since. Only the main thread can change handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self.handle_signal:
                signal.signal(number, previous)

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Cancel the running operations, write all changes, and call the previous handler."""
        respond = partial(self._respond, number, frame, [])
        if not self.defer(respond):
            respond()

    def _respond(self, number: int, frame: FrameType | None, responses: list[int]) -> None:
        # Why: a deferred call is repeated if the previous handler raises an exception.
        if responses:
            return
        responses.append(number)
        if not self._is_finishing:
            self._is_finishing = True
            try:
                reason = f"stopped by {signal.Signals(number).name}"
                run_with_limit(lambda: self.finish(reason, TERMINATE_S), TERMINATE_S)
            finally:
                self._is_finishing = False
        self._call_previous(number, frame)

    def _call_previous(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number, signal.SIG_DFL)
        if callable(previous):
            previous(number, frame)
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # The kernel ignores the default action of the first process of a container.
        original_exit(_EXIT_STATUS_OF_SIGNALS + number)
