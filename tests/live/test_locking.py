"""No foreign code runs while the store's lock is held: log handlers, clocks and finalizers may do what they like."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

import otel_progress as progress
from otel_progress.testing import Recorder


class Asking(logging.Handler):
    """A handler that waits for another thread which reads progress, as one that draws or ships log lines may."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the protocol's signature
        """Ask in another thread, and wait for the answer: for ever, were the lock held, so there is an end to it."""
        thread = threading.Thread(target=progress.get_active_operations, daemon=True)
        thread.start()
        thread.join(60.0)
        self.answered.append(not thread.is_alive())


@pytest.fixture
def asking() -> Iterator[Asking]:
    """Put the handler on this package's logger."""
    handler, logger = Asking(), logging.getLogger("otel_progress")
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
def test_warnings_are_logged_without_the_lock(
    asking: Asking, use: Callable[[progress.Level], object]
) -> None:
    """While a warning is being logged, other threads read and work."""
    with progress.operation("o", id="o", total=1, stages={"a": 1}) as op, op.level("x", 1):
        use(op)
    assert asking.answered
    assert asking.answered[0]


def test_a_finalizer_in_mid_tick(lenient: Recorder) -> None:
    """A loop that the garbage collector closes in the middle of a tick or a begin ends its level, and nothing deadlocks."""
    clock = lenient.runtime._store.clock
    loops: list[Iterator[int]] = []

    def collecting() -> float:
        if loops:
            loops.pop().close()  # type: ignore[attr-defined]
        return clock()

    with progress.operation("o", id="o") as op:
        for _ in range(6):
            loops.append(iter(op.track(range(3))))
            next(loops[-1])
        lenient.runtime._store._tree._clock = collecting
        lenient.runtime._store.clock = collecting
        lenient.tick()
        with op.level("x"):
            lenient.operation("o")
        lenient.tick()
        assert loops == []
        cancelled = [level for level in lenient.operation("o").levels if level.status.value == "cancelled"]
        assert len(cancelled) == 6
        assert op.snapshot().current == 1  # what was cancelled is not done
    assert lenient.runtime.get_active_operations() == []
