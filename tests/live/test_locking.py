"""Tests of the live store's lock: held where required, not in foreign code."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import otel_progress
import otel_progress as progress
from otel_progress.live.node import Spec
from otel_progress.model import NO_METADATA
from otel_progress.testing import Recorder
from tests.support.lock_assertions import find_unlocked_calls, find_unmarked_methods


class ReadingHandler(logging.Handler):
    """Log handler that waits for another thread to read progress."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the protocol's signature
        """Read in another thread, with a timeout in case the lock is held."""
        thread = threading.Thread(target=progress.get_active_operations, daemon=True)
        thread.start()
        thread.join(60.0)
        self.finished.append(not thread.is_alive())


@pytest.fixture
def reading_handler() -> Iterator[ReadingHandler]:
    """Add the handler to this package's logger."""
    handler, logger = ReadingHandler(), logging.getLogger("otel_progress")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda op: op.update(current=-1), id="value"),
        pytest.param(lambda op: op.level("x", 1).start(), id="duplicate"),
        pytest.param(lambda op: op.stage("no").start(), id="stage"),
        pytest.param(lambda op: [op.increment(5), op.snapshot()], id="beyond"),
    ],
)
@pytest.mark.usefixtures("lenient")
def test_warning_is_logged_without_the_lock(
    reading_handler: ReadingHandler, use: Callable[[progress.Level], object]
) -> None:
    """Other threads read progress while a log handler runs."""
    with progress.operation("o", id="o", total=1, stages={"a": 1}) as op, op.level("x", 1):
        use(op)
    assert reading_handler.finished
    assert reading_handler.finished[0]


def test_loop_closed_by_the_garbage_collector_during_a_tick_or_start_ends_its_level(
    lenient: Recorder,
) -> None:
    """The finalizer runs in the thread that holds the lock, and causes no deadlock."""
    clock = lenient.runtime._store.clock
    loops: list[Iterator[int]] = []

    def close_loop() -> float:
        if loops:
            loops.pop()
        return clock()

    with progress.operation("o", id="o") as op:
        for _ in range(6):
            loops.append(iter(op.track(range(3))))
            next(loops[-1])
        lenient.runtime._store._state.tree._clock = close_loop
        lenient.runtime._store._state.clock = close_loop
        lenient.tick()
        with op.level("x"):
            lenient.operation("o")
        lenient.tick()
        assert loops == []
        cancelled = [level for level in lenient.operation("o").levels if level.status.value == "cancelled"]
        assert len(cancelled) == 6
        assert op.snapshot().current == 1
    assert lenient.runtime.get_active_operations() == []


# --- the lock is held where it is required -------------------------------------------------------


def test_locked_method_without_the_lock_raises(recorder: Recorder, unlocked_calls: list[str]) -> None:
    """All tests of this folder use this assertion."""
    state = recorder.runtime._store._state
    spec = Spec("job", "a", None, None, None, 1, None, None, NO_METADATA)
    node = state.tree.create_node(None, spec)
    with pytest.raises(AssertionError, match="start_level_locked was called without the lock"):
        state.tree.start_level_locked(node)
    assert unlocked_calls == ["Tree.start_level_locked"]
    unlocked_calls.clear()
    with state.lock:
        state.tree.start_level_locked(node)
        state.tree.end_level_locked(node, progress.Status.COMPLETED, [])


def test_locked_function_of_a_node_without_the_lock_raises(
    recorder: Recorder, unlocked_calls: list[str]
) -> None:
    """The assertion finds the lock of a function through the operation of its node."""
    from otel_progress.live import snapshots

    with progress.operation("job") as op:
        with pytest.raises(AssertionError, match="take_snapshot_locked was called without the lock"):
            snapshots.take_snapshot_locked(op._node)
        unlocked_calls.clear()
        with recorder.runtime._store._state.lock:
            assert snapshots.take_snapshot_locked(op._node).info.type == "job"


PACKAGE = Path(otel_progress.__file__).parent
# Why without the journal: there, `_locked` means a locked SQLite file.
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "journal" not in path.parts)


def test_source_calls_locked_functions_only_with_a_lock() -> None:
    """Such calls are in `with` blocks of a lock and in `_locked` functions only."""
    assert [call for path in SOURCES for call in find_unlocked_calls(path)] == []


def test_find_unlocked_calls_reports_a_call_outside_of_a_lock(tmp_path: Path) -> None:
    """A nested function may run later, so it does not inherit the lock."""
    path = tmp_path / "sample.py"
    path.write_text(
        """
def read(self):
    with self._lock:
        self.get_locked()
    self.get_locked()


def read_locked(self):
    self.get_locked()

    def later():
        self.get_locked()
"""
    )
    assert find_unlocked_calls(path) == ["sample.py:5: self.get_locked", "sample.py:12: self.get_locked"]


def test_methods_that_are_called_only_with_a_lock_have_the_suffix() -> None:
    """The rule applies to each file that has such methods."""
    assert [method for path in SOURCES for method in find_unmarked_methods(path)] == []


def test_find_unmarked_methods_reports_a_method_that_needs_the_lock(tmp_path: Path) -> None:
    """A method that is also called without the lock does not need it."""
    path = tmp_path / "sample.py"
    path.write_text(
        """
class Queue:
    def put(self):
        with self._lock:
            self._add()
            self._notify()
        self._notify()
        self._lock.run(self._clear_locked)

    def _clear_locked(self):
        self._add()

    def _add(self):
        pass

    def _notify(self):
        pass
"""
    )
    assert find_unmarked_methods(path) == ["sample.py:13: _add"]
