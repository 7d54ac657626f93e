"""Tests of fork hooks: order, owners, errors, locks, and imports."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import otel_progress
from otel_progress import fork
from otel_progress.diagnostics import internal_error_counts
from otel_progress.fork import ForkDelay, ForkPhase, fork_safe_lock, on_fork
from tests.support.forks import run_in_child

PATIENCE_S = 60.0
"""How long to wait for what is to happen; reached only when it never does."""
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def fork_and_import(
    code: int, defer_fork: Callable[[], AbstractContextManager[None]] = fork.defer_fork
) -> int:
    """Fork, and acquire the import guard in a thread of the child."""
    pid = os.fork()
    if pid == 0:
        try:
            free = threading.Event()

            def import_in_guard() -> None:
                with defer_fork():
                    free.set()

            threading.Thread(target=import_in_guard, daemon=True).start()
            os._exit(code if free.wait(PATIENCE_S) else 99)
        finally:
            # Why: a child with an error must not run further tests.
            os._exit(98)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_fork_during_an_import_waits_for_its_end() -> None:
    """Parent and child can import afterwards."""
    guard = ForkDelay(max_wait_s=PATIENCE_S)
    inside, done, order = threading.Event(), threading.Event(), []

    def work() -> None:
        with guard.defer_fork():
            inside.set()
            done.wait(PATIENCE_S)
            order.append("imported")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE_S)
    threading.Timer(0.05, done.set).start()
    assert fork_and_import(7, guard.defer_fork) == 7
    order.append("forked")
    thread.join()
    assert order == ["imported", "forked"]
    assert fork_and_import(8, guard.defer_fork) == 8


def test_fork_during_an_import_that_registers_hooks_waits_for_its_end() -> None:
    """The hooks of the imported module run at this fork, before it acquires locks."""
    guard = ForkDelay(max_wait_s=PATIENCE_S)
    owner = ForkDelay(PATIENCE_S)
    inside, forking, order = threading.Event(), threading.Event(), []

    def work() -> None:
        with guard.defer_fork():
            inside.set()
            forking.wait(PATIENCE_S)
            on_fork(
                phase=ForkPhase.CACHES,
                owner=owner,
                before=lambda _: order.append("before"),
                after_in_parent=lambda _: order.append("after"),
            )
            order.append("imported")

    on_fork(phase=ForkPhase.RUNTIME, owner=guard, before=lambda _: forking.set())
    on_fork(phase=ForkPhase.LOCKS, owner=guard, before=lambda _: order.append("locks"))
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE_S)
    assert fork_and_import(7, guard.defer_fork) == 7
    assert order == ["imported", "before", "locks", "after"]
    thread.join(PATIENCE_S)


def test_fork_during_an_endless_import_waits_a_limited_time() -> None:
    """The import may wait for the forking thread."""
    guard = ForkDelay(max_wait_s=0.01)
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with guard.defer_fork():
            inside.set()
            done.wait(PATIENCE_S)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE_S)
    assert fork_and_import(7, guard.defer_fork) == 7
    done.set()
    thread.join()
    assert fork_and_import(8, guard.defer_fork) == 8


def test_only_the_first_fork_waits_for_a_slow_reader() -> None:
    """A later one does not wait for the same write."""
    guard = ForkDelay(max_wait_s=0.01)
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with guard.defer_fork():
            inside.set()
            done.wait(PATIENCE_S)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE_S)
    assert run_in_child(lambda: None) == 0
    guard._max_wait_s = PATIENCE_S * 10
    assert run_in_child(lambda: None) == 0
    done.set()
    thread.join()


STALLED_READER = """
import multiprocessing, os, time
import otel_progress as progress
from otel_progress.console import streams

os.set_blocking(2, False)
for size in (4096, 1):
    try:
        while True:
            os.write(2, b"x" * size)
    except BlockingIOError:
        pass
os.set_blocking(2, True)
find_descriptor, writes = streams._find_descriptor, []
streams._find_descriptor = lambda stream: writes.append(1) or find_descriptor(stream)
progress.configure(store="memory:", otlp=False, resources=False)
with progress.operation("job"):
    while not writes:
        time.sleep(0.01)
    time.sleep(0.1)  # the thread of the console now waits for the reader
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    os.write(1, f"{process.exitcode}".encode())
    os._exit(0)
"""


def test_child_ends_while_the_console_of_its_parent_waits_for_a_slow_reader() -> None:
    """The start and the end of the child flush stderr, so its lock must be free."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", STALLED_READER], env=environ, **pipes) as process:
        try:
            assert process.stdout is not None
            waiting = threading.Timer(PATIENCE_S, process.kill)
            waiting.start()
            assert process.stdout.read(1) == b"0"
        finally:
            waiting.cancel()
            process.kill()


def test_fork_by_the_importing_thread_does_not_wait() -> None:
    """A module may start a process when it is imported."""
    with fork.defer_fork():
        assert fork_and_import(7) == 7
    assert fork_and_import(8) == 8


class Owner:
    """An object that has fork hooks."""

    def __init__(self) -> None:
        self.calls: list[str] = []


def fork_and_get(result: Callable[[], Any]) -> Any:
    """Fork, call ``result`` in the child, and return its value."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(result()).encode())
            os._exit(0)
        finally:
            os._exit(98)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(text)


def register(owner: Owner, phase: ForkPhase, name: str) -> None:
    """Register hooks of all three kinds that record their calls."""
    on_fork(
        phase=phase,
        owner=owner,
        before=lambda one: one.calls.append(f"before {name}"),
        after_in_parent=lambda one: one.calls.append(f"parent {name}"),
        after_in_child=lambda one: one.calls.append(f"child {name}"),
    )


def test_hooks_run_in_the_order_of_their_phases() -> None:
    """Hooks of one phase run in the order of registration, before a fork in reverse."""
    owner = Owner()
    shuffled = [
        ForkPhase.RUNTIME,
        ForkPhase.LOCKS,
        ForkPhase.OUTPUTS,
        ForkPhase.JOURNAL,
        ForkPhase.CACHES,
        ForkPhase.IMPORTS,
    ]
    for phase in shuffled:
        register(owner, phase, phase.name)
    register(owner, ForkPhase.CACHES, "CACHES 2")
    order = ["LOCKS", "IMPORTS", "CACHES", "CACHES 2", "JOURNAL", "OUTPUTS", "RUNTIME"]
    before = [f"before {name}" for name in reversed(order)]
    assert fork_and_get(lambda: owner.calls) == before + [f"child {name}" for name in order]
    assert owner.calls == before + [f"parent {name}" for name in order]


def test_hooks_end_with_their_owner() -> None:
    """They keep no owner alive, and are removed at the next registration."""
    owner, calls = Owner(), []
    on_fork(phase=ForkPhase.CACHES, owner=owner, before=lambda one: calls.append(type(one)))
    assert fork_and_get(lambda: len(calls)) == 1
    del owner
    gc.collect()
    assert fork_and_get(lambda: len(calls)) == 1
    last = Owner()
    register(last, ForkPhase.CACHES, "last")
    assert all(hook.is_alive for hook in fork._hooks)


def test_owner_lives_until_the_fork_has_ended() -> None:
    """A hook before the fork may drop the last other reference."""
    owners, calls = [Owner()], []
    on_fork(
        phase=ForkPhase.CACHES,
        owner=owners[0],
        before=lambda one: owners.clear(),
        after_in_parent=lambda one: calls.append(type(one)),
    )
    assert fork_and_get(lambda: 0) == 0
    assert calls == [Owner]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_error_in_a_hook_is_reported_and_stops_no_other_hook(kind: type[BaseException]) -> None:
    """It is reported after the fork, in the process that raised it."""
    owner = Owner()

    def fail(one: Owner) -> None:
        one.calls.append("failed")
        raise kind

    register(owner, ForkPhase.CACHES, "first")
    on_fork(phase=ForkPhase.CACHES, owner=owner, before=fail, after_in_parent=fail, after_in_child=fail)
    register(owner, ForkPhase.CACHES, "last")
    known = internal_error_counts["fork"]
    calls, count = fork_and_get(lambda: [owner.calls, internal_error_counts["fork"] - known])
    assert calls == ["before last", "failed", "before first", "child first", "failed", "child last"]
    assert count == 1
    assert owner.calls == ["before last", "failed", "before first", "parent first", "failed", "parent last"]
    assert internal_error_counts["fork"] - known == 2


def test_failed_reporter_stops_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next reporter is called."""
    owner, reported = Owner(), []

    def fail(error: BaseException) -> None:
        raise RuntimeError from error

    monkeypatch.setattr(fork, "_reporters", [fail, reported.append])
    on_fork(phase=ForkPhase.CACHES, owner=owner, before=lambda one: one.missing)  # type: ignore[attr-defined]
    assert fork_and_get(lambda: len(reported)) == 0
    assert [type(error) for error in reported] == [AttributeError]


def test_fork_safe_lock_is_free_in_the_child() -> None:
    """The fork waits for its release, and a signal handler may enter it again."""
    lock = fork_safe_lock()
    assert type(lock) is type(threading.RLock())
    held, release, order = threading.Event(), threading.Event(), []

    def hold() -> None:
        with lock:
            held.set()
            release.wait(PATIENCE_S)
            order.append("released")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE_S)
    threading.Timer(0.05, release.set).start()
    assert fork_and_get(lambda: [lock.acquire(timeout=PATIENCE_S), *order]) == [True, "released"]
    thread.join()
    assert lock.acquire(blocking=False)
    lock.release()


def test_forks_of_two_threads_wait_for_one_another() -> None:
    """Their hooks do not mix."""
    owner, results = Owner(), []
    register(owner, ForkPhase.CACHES, "x")
    threads = [
        threading.Thread(target=lambda: results.append(fork_and_get(lambda: "done"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["done"] * 4
    assert owner.calls == ["before x", "parent x"] * 4


def test_only_one_module_registers_with_the_interpreter() -> None:
    """All other modules use ``on_fork``."""
    root = Path(otel_progress.__file__).parent
    found = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "register_at_fork" in path.read_text("utf-8")
    ]
    assert found == ["fork.py"]
    lines = (root / "fork.py").read_text("utf-8").splitlines()
    assert sum("os.register_at_fork(" in line for line in lines) == 1
    assert not [line for line in lines if "otel_progress" in line and "import" in line]
