"""Tests of the locks that defer calls, and of atomic changes."""

from __future__ import annotations

import ast
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from threading import Condition
from types import CodeType

import pytest

import otel_progress as progress
from otel_progress import locking
from otel_progress.interrupts import is_interrupt
from otel_progress.live.counter import LockCounter
from otel_progress.locking import CallerLock, create_once, store_together, uses_lock
from otel_progress.testing import recording
from tests.support.interruptions import PACKAGE, Interrupter, fail_on_deadlock

PATIENCE_S = 60.0


@pytest.fixture
def locking_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test count as a function of the package that holds a lock."""
    monkeypatch.setattr(locking, "_has_locking_frame", lambda frame: True)


class Box:
    """Object with two values."""

    def __init__(self) -> None:
        self.first: object = None
        self.second = 0


@pytest.mark.usefixtures("locking_caller")
def test_run_while_the_thread_holds_the_lock_defers_the_call_until_the_release() -> None:
    lock, order = CallerLock(), []
    with lock.lock:
        lock.run(order.append, "deferred")
        order.append("owner")
        assert lock
    lock.run_deferred()
    assert order == ["owner", "deferred"]
    assert not lock


def test_run_while_another_thread_holds_the_lock_waits_for_it() -> None:
    lock, order, held = CallerLock(), [], threading.Event()

    def hold() -> None:
        with lock.lock:
            held.set()
            order.append("owner")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE_S)
    lock.run(order.append, "caller")
    thread.join()
    assert order == ["owner", "caller"]


def test_defer_beyond_the_limit_drops_and_counts_the_call() -> None:
    dropped: list[None] = []
    lock = CallerLock(max_calls=2, on_dropped=lambda: dropped.append(None))
    with lock.lock:
        assert [lock.defer(str) for _ in range(3)] == [True, True, False]
    assert len(dropped) == 1


def test_deferred_call_that_raises_is_repeated_and_then_dropped() -> None:
    lock = CallerLock()
    calls: list[None] = []

    def fail() -> None:
        calls.append(None)
        raise TimeoutError

    lock.defer(fail)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            lock.run_deferred()
    lock.run_deferred()
    assert len(calls) == 3


def test_lock_that_a_left_frame_holds_is_released() -> None:
    """Only a tracer can raise between the end of a block and the release."""
    lock = CallerLock()
    lock.lock.acquire()
    assert lock.is_owned()
    assert not _check_interrupting(lock)
    assert not lock.is_owned()


def _check_interrupting(mutex: CallerLock) -> bool:
    return mutex.is_interrupting()


def test_create_once_interrupted_by_itself_returns_one_object() -> None:
    """A handler that counts first and the interrupted work use the same counter."""
    for target in range(1, 60):
        box = Box()
        found: list[object] = []

        def create(box: Box = box, found: list[object] = found) -> None:
            found.append(create_once(box, "first", object))

        calls = count(1)

        def interrupt(
            target: int = target, create: Callable[[], None] = create, calls: Iterator[int] = calls
        ) -> None:
            if next(calls) == target:
                create()

        interrupter = Interrupter(interrupt, event="opcode")
        interrupter.run(create)
        assert interrupter.errors == []
        # Why: Python 3.13.0 reports no bytecodes of the first call of a function.
        assert interrupter.calls > 5 or sys.version_info >= (3, 13)
        assert len(set(map(id, found))) == 1


def test_store_together_sets_each_attribute() -> None:
    box, other = Box(), Box()
    store_together((box, other), ("first", "second"), (1, 2))
    assert (box.first, other.second) == (1, 2)


def test_counter_with_a_lock_counts_calls_that_interrupt_it() -> None:
    """An interpreter without a GIL uses it. A handler that counts does not wait."""
    with fail_on_deadlock():
        counter = LockCounter()
        interrupter = Interrupter(counter.count_one, event="opcode")

        def count() -> None:
            counter.count_one()
            counter.add(5)
            counter.shift(-1)

        interrupter.run(count)
        assert interrupter.errors == []
        assert interrupter.calls > 50
        assert counter.value() == 5 + interrupter.calls


def _raise_in_handler(signum: int, frame: object) -> None:  # noqa: ARG001 - a handler's signature
    raise LookupError


def test_exception_of_a_called_function_is_no_interrupt() -> None:
    with pytest.raises(LookupError) as caught:
        _raise_in_handler(1, None)
    assert not is_interrupt(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit()])
def test_exception_that_no_function_may_catch_is_an_interrupt(error: BaseException) -> None:
    assert is_interrupt(error)


def test_exception_of_a_signal_handler_is_an_interrupt() -> None:
    """The interpreter passes the interrupted frame to the handler."""
    with pytest.raises(LookupError) as caught:
        _raise_in_handler(1, sys._getframe())
    assert is_interrupt(caught.value)


# --- locks that the package holds ----------------------------------------------------------------


def is_lock_name(name: str) -> bool:
    """Return whether a name is that of a lock or a condition."""
    return name in ("lock", "changed") or name.endswith(("_lock", "_changed"))


def list_lock_blocks(path: Path) -> Iterator[tuple[ast.With, str]]:
    """Yield the ``with`` statements of a module that acquire a lock, with its name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.With):
            for item in node.items:
                name = getattr(item.context_expr, "attr", getattr(item.context_expr, "id", ""))
                if is_lock_name(name):
                    yield node, name


def list_codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and all code objects in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from list_codes(constant)


MODULES = sorted(Path(PACKAGE).rglob("*.py"))


def test_with_statement_on_a_lock_is_found_by_the_names_of_its_function() -> None:
    """The detection of a lock that is held by mistake depends on it."""
    checked = 0
    for path in MODULES:
        codes = list(list_codes(compile(path.read_text(encoding="utf-8"), str(path), "exec")))
        for block, name in list_lock_blocks(path):
            place = f"{path}:{block.lineno}"
            # Why the smallest: the functions around it contain the line as well.
            lines = [[line for _, _, line in code.co_lines() if line] for code in codes]
            within = [(len(own), code) for own, code in zip(lines, codes, strict=True) if block.lineno in own]
            _, code = min(within, key=lambda pair: pair[0])
            assert not name.endswith("changed"), f"{place}: a condition is Python code, so use its lock"
            assert uses_lock(code), place
            checked += 1
    assert checked > 80


def test_lock_is_stored_under_the_name_of_a_lock() -> None:
    """The test above finds it then."""
    kinds = {"CallerLock", "Lock", "RLock", "fork_safe_lock"}
    exceptions = {"_runner", "_guard", "guard", "_importing", "busy", "_shutting_down"}
    found = 0
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
                kind = getattr(node.value.func, "attr", getattr(node.value.func, "id", ""))
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    name = getattr(target, "attr", getattr(target, "id", ""))
                    if kind in kinds:
                        found += 1
                        assert is_lock_name(name) or name in exceptions, f"{path}:{node.lineno}"
    assert found > 20


def test_owner_of_a_lock_has_a_function_on_its_stack_that_uses_a_lock() -> None:
    """Otherwise a call that interrupts it would release its lock."""
    with recording(strict=False) as recorder:
        gc.collect()
        locks = [each for each in gc.get_objects() if type(each) is CallerLock]
        held = 0

        def check() -> None:
            nonlocal held
            for lock in locks:
                if lock.is_owned():
                    held += 1
                    assert locking._has_locking_frame(sys._getframe())

        def work() -> None:
            with progress.batch("b"), progress.operation("job", total=3, stages=("a", "b")) as job:
                with job.stage("a") as stage, job.paused("waiting"):
                    stage.item("x", outcome="failed")
                with job.stage("b") as stage, stage.opaque(1):
                    for _ in stage.track([1, 2]):
                        stage.preview("text")
                job.snapshot()
            recorder.tick()
            recorder.runtime.force_flush()
            recorder.runtime.get_batch("b")

        interrupter = Interrupter(check)
        interrupter.run(work)
    assert interrupter.errors == []
    assert held > 300


def test_wait_that_an_exception_interrupts_after_the_release_raises_it() -> None:
    """A condition then leaves a lock that the thread does not hold."""
    lock = CallerLock()

    class Interrupted(Condition):
        def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:  # noqa: ARG002
            lock.lock.release()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lock.wait_for(Interrupted(lock.lock), bool, 1.0)
    assert not lock.is_owned()


def test_exit_of_a_block_exists_while_it_runs() -> None:
    """Otherwise a tick could end the level of a block that is just being left."""
    found: list[object] = []

    class Box:
        reference: weakref.ref[object]

        def __enter__(self) -> None: ...

        def leave(self, *_: object) -> None:
            found.append(self.reference())

        @property
        def __exit__(self) -> Callable[..., None]:
            method = self.leave
            self.reference = weakref.ref(method)
            return method

    for number in range(200):
        box = Box()
        try:
            with box:
                if number % 2:
                    raise LookupError
        except LookupError:
            pass
    assert len(found) == 200
    assert None not in found
