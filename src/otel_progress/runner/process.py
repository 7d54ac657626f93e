"""Started command: its process id, its changes, and the errors of its start."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from otel_progress.runner.exit_status import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND
from otel_progress.text import escape_controls, truncate

ProcessChange: TypeAlias = Literal["stopped", "continued", "ended"]
"""Change of a process."""


class SpawnError(Exception):
    """The command could not be started. ``code`` is the exit code of a shell then."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ProcessEvent(NamedTuple):
    """A change of a process, and its wait status."""

    kind: ProcessChange
    wait_status: int


@dataclass(slots=True)
class SpawnedCommand:
    """A running command, and the ends of the pipes from which its output is read."""

    pid: int
    stdout: int | None = None
    stderr: int | None = None

    def poll(self) -> ProcessEvent | None:
        """Return the next change of a child of this process, or None without one."""
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if not pid:
            return None
        if os.WIFSTOPPED(status):
            return ProcessEvent("stopped", status)
        return ProcessEvent("continued" if os.WIFCONTINUED(status) else "ended", status)


def to_spawn_error(name: str, error: OSError | ValueError) -> SpawnError:
    """Return the error of a failed start, with the exit code of a shell."""
    shown = escape_controls(truncate(name, 200))
    number = error.errno if isinstance(error, OSError) else errno.EINVAL
    if number in (errno.ENOENT, errno.ENOTDIR) and not os.path.exists(name):  # noqa: PTH110
        text = f"Invalid command {shown!r}: expected an executable file. Check its name and PATH."
        return SpawnError(text, EXIT_NOT_FOUND)
    reason = os.strerror(number) if number else str(error)
    text = f"Invalid command {shown!r}: it cannot be executed ({reason}). Check the file."
    return SpawnError(text, EXIT_NOT_EXECUTABLE)
