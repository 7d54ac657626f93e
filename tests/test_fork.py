"""A fork waits for what other threads import, but not for good."""

from __future__ import annotations

import os
import threading

import pytest

from otel_progress import importing

PATIENCE_S = 60.0
"""How long to wait for what is to happen; reached only when it never does."""
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def fork_and_import(code: int) -> int:
    """Fork, have the child take the guard from a thread of its own, and return its exit code: ``code`` when it could."""
    pid = os.fork()
    if pid == 0:
        try:
            free = threading.Event()

            def take() -> None:
                with importing.no_fork():
                    free.set()

            threading.Thread(target=take, daemon=True).start()
            os._exit(code if free.wait(PATIENCE_S) else 99)
        finally:  # whatever fails, the child runs no tests
            os._exit(98)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_waits_for_an_import_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread within the guard is waited for, and parent and child can both import afterwards."""
    monkeypatch.setattr(importing, "PATIENCE_S", PATIENCE_S)
    inside, done, order = threading.Event(), threading.Event(), []

    def work() -> None:
        with importing.no_fork():
            inside.set()
            done.wait(PATIENCE_S)
            order.append("imported")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE_S)
    threading.Timer(0.05, done.set).start()
    assert fork_and_import(7) == 7
    order.append("forked")
    thread.join()
    assert order == ["imported", "forked"]
    assert fork_and_import(8) == 8


def test_a_fork_does_not_wait_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that does not end, perhaps as it waits for the thread that forks, holds a fork up for a bounded time."""
    monkeypatch.setattr(importing, "PATIENCE_S", 0.01)
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with importing.no_fork():
            inside.set()
            done.wait(PATIENCE_S)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE_S)
    assert fork_and_import(7) == 7
    done.set()
    thread.join()
    assert fork_and_import(8) == 8


def test_a_fork_within_an_import_is_free() -> None:
    """The thread that imports may fork itself, as a module does that starts a process when it is imported."""
    with importing.no_fork():
        assert fork_and_import(7) == 7
    assert fork_and_import(8) == 8
