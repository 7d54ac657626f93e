"""A running command: its streams, the signals for it, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_progress.runner.exit_status import ExitStatus
from otel_progress.runner.process_tree import signal_tree
from otel_progress.runner.relay import InputRelay, OutputRelay
from otel_progress.runner.session import CommandSession
from otel_progress.runner.spawn import spawn_command
from otel_progress.runner.streams import STDERR, STDIN, STDOUT, StreamPlan
from otel_progress.runner.terminal import PseudoTerminal, has_foreground_terminal

if TYPE_CHECKING:
    from otel_progress.runner.recording import OutputRecorder, StreamObserver
    from otel_progress.runner.signals import ReceivedSignal, SignalQueue


POLL_S: Final = 0.1
"""Seconds between two checks for a request to cancel, without a signal."""


_TERMINATING: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP})


_FOR_FOREGROUND: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP})
"""Signals that a terminal sends to all processes of its foreground."""


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """End of a command.

    ``interrupted_by`` is the terminating signal that this process received and passed on.
    ``is_cancelled`` is True after a request to cancel.
    """

    status: ExitStatus
    interrupted_by: int | None
    is_cancelled: bool


@dataclass(frozen=True, slots=True)
class CommandEvents:
    """Functions that the owner of a command provides.

    ``is_cancel_requested`` is polled. ``on_stopped`` and ``on_continued`` are called around the
    time in which the user has stopped the command, for example with Ctrl-Z.
    """

    is_cancel_requested: Callable[[], bool]
    on_stopped: Callable[[], None]
    on_continued: Callable[[], None]


class CommandChannel:
    """Streams of a command, prepared before this process has threads."""

    def __init__(self, plan: StreamPlan, signals: SignalQueue) -> None:
        self.plan = plan
        self.terminal: PseudoTerminal | None = None
        self.session: CommandSession | None = None
        if not plan.has_terminal:
            return
        real = next((number for number in (STDOUT, STDERR, STDIN) if os.isatty(number)), None)
        self.terminal = PseudoTerminal(real, STDIN if plan.stdin == "terminal" else None)
        self.session = CommandSession(plan, self.terminal, signals.original_mask)

    def close(self) -> None:
        """Restore the terminal of this process. The command has ended."""
        if self.terminal is not None:
            self.terminal.close()
        if self.session is not None:
            self.session.close()


class RunningCommand:
    """A command from its start to its end. Use it in the main thread.

    ``grace_s`` are the seconds from SIGTERM to SIGKILL after a request to cancel. ``recorder``
    observes the output, and is None if the plan inherits all streams.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        channel: CommandChannel,
        signals: SignalQueue,
        recorder: OutputRecorder | None,
        events: CommandEvents,
        *,
        grace_s: float,
    ) -> None:
        self._plan = plan = channel.plan
        self._session = channel.session
        self._signals = signals
        self._events = events
        self._grace_s = grace_s
        self._relays: list[OutputRelay] = []
        self._observers: list[StreamObserver] = []
        self._keyboard: InputRelay | None = None
        self._terminal = channel.terminal
        self._interrupted_by: int | None = None
        self._kill_at: float | None = None
        self._is_stopped = self._has_hung_up = False
        self._has_job_control = has_foreground_terminal()
        self._take_keyboard()
        try:
            if self._session is not None:
                spawned = self._session.spawn(command, environment)
            else:
                spawned = spawn_command(command, environment, plan, signals.original_mask)
        except BaseException:
            channel.close()
            raise
        self._channel = channel
        self._process = spawned
        self._pid = spawned.pid
        if recorder is not None:
            self._connect(spawned.stdout, spawned.stderr, recorder)

    def _connect(self, stdout: int | None, stderr: int | None, recorder: OutputRecorder) -> None:
        """Start the threads that copy the input and output."""
        terminal = self._terminal
        if terminal is not None:
            if self._plan.stdin == "terminal":
                self._keyboard = InputRelay(STDIN, terminal.main)
                self._keyboard.start()
                self._keyboard.set_active(terminal.is_raw)
            target = STDOUT if self._plan.stdout == "terminal" else STDERR
            self._add_relay(os.dup(terminal.main), target, recorder, has_errors=True, is_terminal=True)
        if stdout is not None:
            self._add_relay(stdout, STDOUT, recorder, has_errors=self._plan.stderr == "stdout-pipe")
        if stderr is not None:
            self._add_relay(stderr, STDERR, recorder, has_errors=True)

    def _add_relay(
        self,
        source: int,
        target: int,
        recorder: OutputRecorder,
        *,
        has_errors: bool,
        is_terminal: bool = False,
    ) -> None:
        observer = recorder.create_observer(has_errors=has_errors)
        relay = OutputRelay(source, target, observer.observe, is_terminal=is_terminal)
        self._observers.append(observer)
        self._relays.append(relay)
        relay.start()

    def _take_keyboard(self) -> None:
        """Pass the keys to the command if this process is in the foreground."""
        if self._terminal is None:
            return
        self._terminal.enter_raw_mode()
        if self._keyboard is not None:
            self._keyboard.set_active(self._terminal.is_raw)

    def wait(self) -> CommandEnd:
        """Pass on signals until the command has ended and its output was copied."""
        try:
            status = self._wait_for_status()
            self._drain()
        finally:
            if self._keyboard is not None:
                self._keyboard.close()
            self._channel.close()
        for observer in self._observers:
            observer.finish()
        return CommandEnd(status, self._interrupted_by, self._kill_at is not None)

    def _wait_for_status(self) -> ExitStatus:
        while True:
            event = self._process.poll() if self._session is None else self._session.poll()
            if event is not None and event.kind == "ended":
                return ExitStatus.from_wait_status(event.wait_status)
            if event is not None and event.kind == "stopped":
                self._stop()
            elif event is not None:
                self._end_stop()
            received = self._signals.wait(POLL_S)
            if received is not None:
                self._handle(received)
            self._check_requests()

    def _check_requests(self) -> None:
        """Stop the command after a request to cancel, or when its terminal was closed."""
        if self._kill_at is None:
            if self._events.is_cancel_requested():
                self._kill_at = time.monotonic() + self._grace_s
                signal_tree(self._pid, signal.SIGTERM)
                # Why: a stopped process does not receive SIGTERM until it continues.
                signal_tree(self._pid, signal.SIGCONT)
        elif time.monotonic() >= self._kill_at:
            self._kill_at = time.monotonic() + self._grace_s
            signal_tree(self._pid, signal.SIGKILL)
        if self._terminal is None or not self._relays:
            return
        if not self._has_hung_up and self._relays[0].is_broken:
            self._has_hung_up = True
            self._send(signal.SIGHUP, to_foreground=True)
        if not self._terminal.is_raw:
            # Why here: a shell sends no signal to a running job that it moves to the foreground.
            self._take_keyboard()

    # --- signals ---------------------------------------------------------------------------------

    def _handle(self, received: ReceivedSignal) -> None:
        number = received.number
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGWINCH:
            if self._terminal is not None:
                self._terminal.copy_size()
        elif number == signal.SIGCONT:
            self._continue()
        else:
            if number in _TERMINATING:
                self._interrupted_by = number
            self._forward(number, self._is_from_terminal(received))

    def _is_from_terminal(self, received: ReceivedSignal) -> bool:
        if received.number not in _FOR_FOREGROUND:
            return False
        if received.is_from_terminal is None:
            return self._has_job_control
        return received.is_from_terminal

    def _forward(self, number: int, is_from_terminal: bool) -> None:
        """Send a signal to the command, unless the terminal has sent it already."""
        if is_from_terminal and self._terminal is None:
            return
        self._send(number, to_foreground=is_from_terminal)

    def _send(self, number: int, *, to_foreground: bool) -> None:
        group = None if self._terminal is None else self._terminal.get_foreground_group()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if to_foreground and group is not None:
                os.killpg(group, number)
            else:
                os.kill(self._pid, number)

    def _stop(self) -> None:
        """Stop this process as well, so that the shell shows a stopped job."""
        self._is_stopped = True
        self._events.on_stopped()
        if not self._has_job_control:
            return
        if self._keyboard is not None:
            self._keyboard.set_active(False)
        if self._terminal is not None:
            self._terminal.restore_mode()
            # Why the group: the other commands of a pipeline stop as well.
            os.killpg(os.getpgrp(), signal.SIGTSTP)
        self._signals.stop_process()
        self._continue()

    def _continue(self) -> None:
        self._take_keyboard()
        if self._terminal is not None:
            self._terminal.copy_size()
        self._end_stop()
        self._send(signal.SIGCONT, to_foreground=True)

    def _end_stop(self) -> None:
        if self._is_stopped:
            self._is_stopped = False
            self._events.on_continued()

    # --- end -------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Copy the rest of the output. A signal or a cancellation ends this early.

        The receiver of the output may be slow, such as a pager.
        """
        for relay in self._relays:
            relay.drain()
        while not all([relay.join(0.0) for relay in self._relays]):
            received = self._signals.wait(0.01)
            if received is not None and received.number in _TERMINATING:
                self._interrupted_by = received.number
                return
            if self._kill_at is not None and time.monotonic() >= self._kill_at + self._grace_s:
                return
