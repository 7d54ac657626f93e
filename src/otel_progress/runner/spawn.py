"""Start of a command without a fork of this process."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_progress.runner.exit_status import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND
from otel_progress.runner.signals import get_default_signals
from otel_progress.runner.streams import STDERR, STDIN, STDOUT, Connection, StreamPlan
from otel_progress.text import escape_controls, truncate

if TYPE_CHECKING:
    from otel_progress.runner.terminal import PseudoTerminal


_SHELL: Final = "/bin/sh"


class SpawnError(Exception):
    """The command could not be started. ``code`` is the exit code of a shell in that case."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class SpawnedCommand:
    """A running command, and the ends of the pipes from which its output is read."""

    pid: int
    stdout: int | None
    stderr: int | None


def spawn_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    plan: StreamPlan,
    terminal: PseudoTerminal | None,
    blocked_signals: frozenset[int],
) -> SpawnedCommand:
    """Start a command with the planned streams. Raises SpawnError if that is not possible.

    With a terminal it is the leader of a session whose controlling terminal this is.
    """
    pipes = {
        number: os.pipe()
        for number, connection in ((STDOUT, plan.stdout), (STDERR, plan.stderr))
        if connection == "pipe"
    }
    actions = _build_actions(plan, {number: ends[1] for number, ends in pipes.items()}, terminal)
    try:
        pid = _spawn(command, environment, actions, terminal is not None, blocked_signals)
    except (OSError, ValueError) as error:
        for reader, _ in pipes.values():
            os.close(reader)
        raise _to_spawn_error(command[0], error) from None
    finally:
        for _, writer in pipes.values():
            os.close(writer)
    readers = {number: ends[0] for number, ends in pipes.items()}
    return SpawnedCommand(pid, readers.get(STDOUT), readers.get(STDERR))


def _build_actions(
    plan: StreamPlan, writers: Mapping[int, int], terminal: PseudoTerminal | None
) -> list[tuple[Any, ...]]:
    """Return the file actions of the command, in the order of their execution."""
    actions: list[tuple[Any, ...]] = []
    opened: int | None = None
    connections: tuple[tuple[int, Connection], ...] = (
        (STDIN, plan.stdin),
        (STDOUT, plan.stdout),
        (STDERR, plan.stderr),
    )
    for number, connection in connections:
        if connection == "terminal" and terminal is not None:
            # Why by its path: a session leader that opens a terminal gets it as its own.
            if opened is None:
                actions.append((os.POSIX_SPAWN_OPEN, number, terminal.path, os.O_RDWR, 0))
                opened = number
            else:
                actions.append((os.POSIX_SPAWN_DUP2, opened, number))
        elif connection == "pipe":
            actions.append((os.POSIX_SPAWN_DUP2, writers[number], number))
        elif connection == "stdout-pipe":
            actions.append((os.POSIX_SPAWN_DUP2, STDOUT, number))
    return actions


def _spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    actions: Sequence[tuple[Any, ...]],
    is_leader: bool,
    blocked_signals: frozenset[int],
) -> int:
    options: dict[str, Any] = {
        "file_actions": actions,
        "setsigmask": blocked_signals,
        "setsigdef": get_default_signals(),
    }
    if is_leader:
        options["setsid"] = True
    try:
        return os.posix_spawnp(command[0], list(command), dict(environment), **options)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script without a first line that names its interpreter. Shells run it themselves.
    path = command[0] if "/" in command[0] else _find_in_path(command[0])
    return os.posix_spawn(_SHELL, [_SHELL, path, *command[1:]], dict(environment), **options)


def _find_in_path(name: str) -> str:
    from shutil import which

    return which(name) or name


def _to_spawn_error(name: str, error: OSError | ValueError) -> SpawnError:
    shown = escape_controls(truncate(name, 200))
    number = error.errno if isinstance(error, OSError) else errno.EINVAL
    if number in (errno.ENOENT, errno.ENOTDIR) and not os.path.exists(name):  # noqa: PTH110
        text = f"Invalid command {shown!r}: expected an executable file. Check its name and PATH."
        return SpawnError(text, EXIT_NOT_FOUND)
    reason = os.strerror(number) if number else str(error)
    text = f"Invalid command {shown!r}: it cannot be executed ({reason}). Check the file."
    code = EXIT_NOT_FOUND if number == errno.ENOENT and "/" not in name else EXIT_NOT_EXECUTABLE
    return SpawnError(text, code)
