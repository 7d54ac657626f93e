"""Forked children that run one function, with a time limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar

import pytest

LIMIT_S: Final = 60.0
"""Maximum time a child may take, in seconds. Only a child that hangs reaches it."""

Test = TypeVar("Test", bound=Callable[..., object])


def needs_fork(test: Test) -> Test:
    """Mark a test that forks."""
    test = pytest.mark.process(test)
    test = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")(test)
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")(test)


def run_in_child(function: Callable[[], object]) -> int:
    """Fork and run ``function`` in the child. Return 0 if it returned, 97 if it hung, 98 if it raised."""
    pid = os.fork()
    if pid == 0:
        code = 98
        try:
            results: list[object] = []
            thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
            thread.start()
            thread.join(LIMIT_S)
            code = 97 if thread.is_alive() else 0 if results else 98
        finally:  # the child never continues with the tests
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_in_child_forked_under(
    lock: AbstractContextManager[object], function: Callable[[], object], *, held_s: float = 0.05
) -> int:
    """Fork while another thread holds ``lock`` for ``held_s`` seconds. Otherwise like :func:`run_in_child`."""
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            released.wait(LIMIT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LIMIT_S)
    timer = threading.Timer(held_s, released.set)
    timer.start()
    try:
        return run_in_child(function)
    finally:
        released.set()
        timer.join()
        holder.join()
