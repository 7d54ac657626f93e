"""Session of a command with a terminal of its own.

A small process leads the session and starts the command in a process group of its own, as a shell
does. So the command can be stopped with Ctrl-Z, and processes that it leaves in the background do
not receive SIGHUP at its end. The process is forked before this process has threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pickle
import signal
import socket
import struct
import termios
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from otel_progress.runner.process import ProcessEvent, SpawnedCommand, to_spawn_error
from otel_progress.runner.signals import restore_default_signals
from otel_progress.runner.streams import STDERR, STDIN, STDOUT, StreamPlan

if TYPE_CHECKING:
    from otel_progress.runner.terminal import PseudoTerminal


_LENGTH: Final = struct.Struct("!I")


_SHELL: Final = "/bin/sh"


class CommandSession:
    """Session that waits for its command. Create it before other threads exist.

    ``blocked_signals`` are those of the command. This process and the leader block others.
    """

    def __init__(self, plan: StreamPlan, terminal: PseudoTerminal, blocked_signals: frozenset[int]) -> None:
        self._pipes = {
            number: os.pipe()
            for number, connection in ((STDOUT, plan.stdout), (STDERR, plan.stderr))
            if connection == "pipe"
        }
        self._socket, leader_socket = socket.socketpair()
        self._leader = os.fork()
        if self._leader == 0:  # pragma: no cover - it ends without writing the coverage
            self._socket.close()
            os.close(terminal.main)
            _lead(leader_socket, plan, terminal.path, self._pipes, blocked_signals)
        leader_socket.close()
        for _, writer in self._pipes.values():
            os.close(writer)
        terminal.close_replica()

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> SpawnedCommand:
        """Start the command. Raises SpawnError if that is not possible."""
        message = pickle.dumps((list(command), dict(environment)))
        self._socket.sendall(_LENGTH.pack(len(message)) + message)
        kind, value = self._receive()
        if kind != "started":
            self.close()
            for reader, _ in self._pipes.values():
                os.close(reader)
            raise to_spawn_error(command[0], OSError(value, os.strerror(value)))
        self._socket.setblocking(False)
        readers = {number: ends[0] for number, ends in self._pipes.items()}
        return SpawnedCommand(value, readers.get(STDOUT), readers.get(STDERR))

    def poll(self) -> ProcessEvent | None:
        """Return the next change of the command, or None without one."""
        try:
            kind, value = self._receive()
        except BlockingIOError:
            return None
        if kind == "lost":
            # The leader was killed. Its command has lost its terminal.
            return ProcessEvent("ended", signal.SIGKILL)
        return ProcessEvent(kind, value)

    def close(self) -> None:
        """Wait for the end of the leader."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._leader, 0)

    def _receive(self) -> tuple[Any, int]:
        data = self._socket.recv(_EVENT.size)
        if len(data) < _EVENT.size:
            return "lost", errno.ECHILD
        code, value = _EVENT.unpack(data)
        return _EVENTS[code], value


_EVENT: Final = struct.Struct("!Bi")


_EVENTS: Final = ("started", "failed", "stopped", "continued", "ended")


def _lead(
    owner: socket.socket,
    plan: StreamPlan,
    terminal_path: str,
    pipes: Mapping[int, tuple[int, int]],
    blocked_signals: frozenset[int],
) -> NoReturn:  # pragma: no cover - runs in a process that ends without writing the coverage
    """Lead the session: start the command and report its changes. Never returns."""
    try:
        os.setsid()
        # Why: this process changes the foreground while it is in the background itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        terminal = os.open(terminal_path, os.O_RDWR)
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        received = _receive_command(owner)
        if received is not None:
            command, environment = received
            pid = _fork_command(command, environment, plan, terminal, pipes, blocked_signals, owner)
            for number, connection in _list_connections(plan):
                # Why: the readers of these streams wait until all writers have closed them.
                if connection in ("terminal", "pipe", "stdout-pipe"):
                    os.close(number)
            for _, writer in pipes.values():
                os.close(writer)
            _report_changes(owner, pid, terminal)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _list_connections(plan: StreamPlan) -> tuple[tuple[int, str], ...]:
    return (STDIN, plan.stdin), (STDOUT, plan.stdout), (STDERR, plan.stderr)


def _receive_command(owner: socket.socket) -> tuple[list[str], dict[str, str]] | None:
    header = owner.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(header) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(header)
    message = owner.recv(size, socket.MSG_WAITALL)
    received: tuple[list[str], dict[str, str]] = pickle.loads(message)
    return received


def _fork_command(
    command: list[str],
    environment: dict[str, str],
    plan: StreamPlan,
    terminal: int,
    pipes: Mapping[int, tuple[int, int]],
    blocked_signals: frozenset[int],
    owner: socket.socket,
) -> int:
    """Start the command in the foreground of the terminal, and report that."""
    errors_reader, errors_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.tcsetpgrp(terminal, os.getpid())
            for number, connection in _list_connections(plan):
                if connection == "terminal":
                    os.dup2(terminal, number)
                elif connection == "pipe":
                    os.dup2(pipes[number][1], number)
            restore_default_signals()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked_signals)
            _execute(command, environment)
        except OSError as error:
            os.write(errors_writer, struct.pack("!i", error.errno or errno.EINVAL))
        except BaseException:
            os.write(errors_writer, struct.pack("!i", errno.EINVAL))
        os._exit(127)
    os.close(errors_writer)
    failed = os.read(errors_reader, 4)
    os.close(errors_reader)
    if failed:
        owner.sendall(_EVENT.pack(_EVENTS.index("failed"), *struct.unpack("!i", failed)))
        os._exit(0)
    owner.sendall(_EVENT.pack(_EVENTS.index("started"), pid))
    return pid


def _execute(command: list[str], environment: dict[str, str]) -> None:
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    from shutil import which

    # A script without a first line that names its interpreter. Shells run it themselves.
    path = command[0] if "/" in command[0] else which(command[0]) or command[0]
    os.execve(_SHELL, [_SHELL, path, *command[1:]], environment)


def _report_changes(owner: socket.socket, pid: int, terminal: int) -> None:
    """Report each change of the command until its end."""
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)
        if os.WIFSTOPPED(status):
            kind = "stopped"
        elif os.WIFCONTINUED(status):
            kind = "continued"
        else:
            kind = "ended"
            # Why: the end of this process sends SIGHUP to the foreground, which may contain
            # processes that the command left running.
            with contextlib.suppress(OSError):
                os.tcsetpgrp(terminal, os.getpgrp())
        with contextlib.suppress(OSError):
            owner.sendall(_EVENT.pack(_EVENTS.index(kind), status))
            os.kill(os.getppid(), signal.SIGCHLD)
        if kind == "ended":
            return
