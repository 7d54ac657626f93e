"""Start of a command that shares the terminal of this process, without a fork."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from otel_progress.runner.process import SpawnedCommand, to_spawn_error
from otel_progress.runner.signals import get_default_signals
from otel_progress.runner.streams import STDERR, STDOUT, StreamPlan

_SHELL: Final = "/bin/sh"


def spawn_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    plan: StreamPlan,
    blocked_signals: frozenset[int],
) -> SpawnedCommand:
    """Start a command with the planned streams. Raises SpawnError."""
    pipes = {
        number: os.pipe()
        for number, connection in ((STDOUT, plan.stdout), (STDERR, plan.stderr))
        if connection == "pipe"
    }
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_DUP2, writer, number) for number, (_, writer) in pipes.items()
    ]
    if plan.stderr == "stdout-pipe":
        actions.append((os.POSIX_SPAWN_DUP2, STDOUT, STDERR))
    try:
        pid = _spawn(command, environment, actions, blocked_signals)
    except (OSError, ValueError) as error:
        for reader, _ in pipes.values():
            os.close(reader)
        raise to_spawn_error(command[0], error) from None
    finally:
        for _, writer in pipes.values():
            os.close(writer)
    readers = {number: ends[0] for number, ends in pipes.items()}
    return SpawnedCommand(pid, readers.get(STDOUT), readers.get(STDERR))


def _spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    actions: Sequence[tuple[Any, ...]],
    blocked_signals: frozenset[int],
) -> int:
    options: dict[str, Any] = {
        "file_actions": actions,
        "setsigmask": blocked_signals,
        "setsigdef": get_default_signals(),
    }
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
