"""Processes that a command started, so that a cancellation reaches all of them."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


_PARENT_FIELD: Final = 1
"""Index of the parent in /proc/PID/stat after the command's closing parenthesis (proc(5))."""


def find_descendants(pid: int, proc: Path = _PROC) -> list[int]:
    """Return the processes below a process, children before grandchildren.

    Empty on systems without ``/proc``.
    """
    children: defaultdict[int, list[int]] = defaultdict(list)
    try:
        names = [entry.name for entry in os.scandir(proc) if entry.name.isdigit()]
    except OSError:
        return []
    for name in names:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (proc / name / "stat").read_bytes().rpartition(b")")[2].split()
            children[int(fields[_PARENT_FIELD])].append(int(name))
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.pop(pending.pop(0), [])
        found += below
        pending += below
    return found


def signal_tree(pid: int, number: int) -> None:
    """Send a signal to a process and to all processes below it."""
    for target in (pid, *find_descendants(pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(target, number)
