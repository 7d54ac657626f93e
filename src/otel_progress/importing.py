"""Imports by threads of ours, and forks by threads of the application.

A child that is forked while another thread imports inherits a module that is half there, and a lock on it that nobody will ever
release: its own import of that module fails or waits for good. So whatever our threads import, they import under this guard, and a
fork waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Final

PATIENCE_S: Final = 5.0
"""How long a fork waits for imports to end, in seconds: not for good, as the thread that forks may be importing what they wait for."""

_guard = RLock()
_taken: Final[list[bool]] = []


@contextmanager
def no_fork() -> Iterator[None]:
    """Let no other thread fork until the end of the block, which is to hold imports and nothing else that takes long."""
    guard = _guard
    with guard:
        yield


def _before() -> None:
    _taken.append(_guard.acquire(timeout=PATIENCE_S))


def _after_in_parent() -> None:
    if _taken.pop():
        _guard.release()


def _after_in_child() -> None:
    global _guard
    _taken.clear()
    _guard = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
