"""Plan of the standard streams of a command: inherited, a pipe, or a terminal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Connection: TypeAlias = Literal["inherit", "pipe", "stdout-pipe", "terminal"]
"""Connection of a stream. ``inherit`` is the stream of this process. ``stdout-pipe`` is the pipe of
stdout, so that the order of both is kept.
"""


STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Connections of the three standard streams."""

    stdin: Connection
    stdout: Connection
    stderr: Connection

    @property
    def has_terminal(self) -> bool:
        """True if the command gets a terminal of its own."""
        return "terminal" in (self.stdout, self.stderr)


def plan_streams(
    *, terminals: frozenset[int], is_parsing: bool, shares_output: bool, forces_terminal: bool
) -> StreamPlan:
    """Return the connections that change nothing that the command can see.

    ``terminals`` are the streams of this process that are terminals. Without parsing they are
    inherited. With parsing the command gets a terminal of its own in their place.
    ``shares_output`` is True if stdout and stderr are the same file or pipe. ``forces_terminal``
    connects stdout and stderr to a terminal, also if they are files or pipes.
    """
    if forces_terminal:
        return StreamPlan("terminal" if STDIN in terminals else "inherit", "terminal", "terminal")
    if is_parsing and (STDOUT in terminals or STDERR in terminals):
        stdin: Connection = "terminal" if STDIN in terminals else "inherit"
        return StreamPlan(
            stdin,
            "terminal" if STDOUT in terminals else "pipe",
            "terminal" if STDERR in terminals else "pipe",
        )
    if shares_output and STDOUT not in terminals:
        return StreamPlan("inherit", "pipe", "stdout-pipe")
    stdout: Connection = "pipe" if is_parsing else "inherit"
    stderr: Connection = "inherit" if STDERR in terminals else "pipe"
    return StreamPlan("inherit", stdout, stderr)


def find_terminals() -> frozenset[int]:
    """Return the standard streams of this process that are terminals."""
    return frozenset(number for number in (STDIN, STDOUT, STDERR) if os.isatty(number))


def shares_output() -> bool:
    """Return True if stdout and stderr of this process are the same file or pipe."""
    try:
        output, errors = os.fstat(STDOUT), os.fstat(STDERR)
    except OSError:
        return False
    return (output.st_dev, output.st_ino) == (errors.st_dev, errors.st_ino)


def reserve_standard_streams() -> None:
    """Open closed standard streams on the null device.

    Why: otherwise the next file that this process opens would get the number, and the command or
    its output would reach that file. The command still finds them closed.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
