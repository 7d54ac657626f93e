"""Signals of this process as a queue, without handlers that interrupt its threads."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Final, NamedTuple

FORWARDED: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTSTP")
    if hasattr(signal, name)
)
"""Signals that the command receives."""


OBSERVED: Final = tuple(
    getattr(signal, name) for name in ("SIGCONT", "SIGWINCH", "SIGCHLD") if hasattr(signal, name)
)
"""Signals that are handled here."""


_FROM_KERNEL: Final = 0x80
"""``si_code`` of a signal that the kernel sent, for example for Ctrl-C."""


class ReceivedSignal(NamedTuple):
    """A signal of this process.

    ``is_from_terminal`` is True if a terminal sent it to all processes of the foreground. It is
    None if the system does not report the sender.
    """

    number: int
    is_from_terminal: bool | None


class SignalQueue:
    """Context manager that queues signals instead of delivering them.

    Signals that this process ignores stay ignored, also in the command. Enter it in the main
    thread, before other threads exist.
    """

    def __init__(self, *, has_sender: bool = hasattr(signal, "sigtimedwait")) -> None:
        self._has_sender = has_sender
        self._signals = frozenset(
            number for number in (*FORWARDED, *OBSERVED) if signal.getsignal(number) is not signal.SIG_IGN
        ) | {signal.SIGCHLD}
        self._handlers: dict[int, signal._HANDLER] = {}
        self._pipe: tuple[int, int] | None = None
        self._queued: list[int] = []
        self.original_mask: frozenset[int] = frozenset()
        """Blocked signals before. The command starts with them."""

    def __enter__(self) -> SignalQueue:
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            # Why: otherwise the exit status of the command would be lost.
            self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._has_sender:
            self.original_mask = frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, self._signals))
        else:
            self.original_mask = frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            self._install_handlers()
        return self

    def _install_handlers(self) -> None:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in self._signals:
            self._handlers.setdefault(number, signal.signal(number, _ignore_signal))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            for end in self._pipe:
                os.close(end)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._has_sender:
            self.discard()
            signal.pthread_sigmask(signal.SIG_SETMASK, self.original_mask)

    def wait(self, timeout_s: float) -> ReceivedSignal | None:
        """Return the next signal, or None after ``timeout_s`` seconds."""
        if self._has_sender:
            try:
                info = signal.sigtimedwait(self._signals, timeout_s)
            except InterruptedError:
                return None
            return None if info is None else ReceivedSignal(info.si_signo, info.si_code == _FROM_KERNEL)
        if not self._queued and self._pipe is not None:
            select.select([self._pipe[0]], (), (), timeout_s)
            with contextlib.suppress(BlockingIOError):
                self._queued.extend(os.read(self._pipe[0], 1024))
        return ReceivedSignal(self._queued.pop(0), None) if self._queued else None

    def discard(self) -> None:
        """Discard all queued signals."""
        while self.wait(0.0) is not None:
            pass

    def stop_process(self) -> None:
        """Stop this process like Ctrl-Z. Returns when it continues.

        Without a shell that could continue it, the system ignores this.
        """
        os.kill(os.getpid(), signal.SIGTSTP)
        if self._has_sender:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
            signal.sigtimedwait({signal.SIGCONT}, 0.0)
        else:
            handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, handler)


def get_default_signals() -> Iterable[int]:
    """Return the signals that Python ignores and that a command expects as defaults."""
    names = ("SIGPIPE", "SIGXFSZ")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def restore_default_signals() -> None:
    """Restore the signals of ``get_default_signals``, before this process is replaced."""
    for number in get_default_signals():
        signal.signal(number, signal.SIG_DFL)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    """Do nothing. The wakeup descriptor reports the signal."""
