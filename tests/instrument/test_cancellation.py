"""Tests of cancellation: requests, ``track``, and the status of cancelled levels."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import OperationCancelledError, Status
from otel_progress.protocols import Controller, Reader
from otel_progress.testing import Recorder, recording


def _request_cancel(recorder: Recorder, id_: str = "j") -> None:
    assert recorder.runtime._store.request_cancel(id_, "takes too long")


def _generate(count: int) -> Iterator[int]:
    yield from range(count)


def test_request_is_visible_to_all_handles_of_operation(recorder: Recorder) -> None:
    """Other operations and handles that record nothing are not affected."""
    with (
        progress.operation("other") as other,
        progress.operation("job", id="j") as op,
        op.level("x") as level,
    ):
        assert not op.cancel_requested
        level.check_cancelled()
        _request_cancel(recorder)
        assert op.cancel_requested
        assert level.cancel_requested
        assert not other.cancel_requested
        with pytest.raises(OperationCancelledError, match="takes too long"):
            level.check_cancelled()
        assert recorder.operation("j").cancel_requested_at == recorder.clock.wall()
    assert not progress.level("unstarted").cancel_requested
    progress.current_level().check_cancelled()


def test_check_cancelled_ends_levels_as_cancelled(recorder: Recorder) -> None:
    """Each level that the error leaves is cancelled, with the reason as its message."""

    def work() -> None:
        with progress.operation("job", id="j") as op:
            _request_cancel(recorder)
            with op.level("x", 1) as level:
                level.check_cancelled()

    with pytest.raises(OperationCancelledError):
        work()
    operation = recorder.operation("j")
    ends = [(level.status, level.message, level.error) for level in (operation.root, *operation.levels)]
    assert ends == [(Status.CANCELLED, "takes too long", None)] * 2


def test_request_cancel_affects_only_the_active_run(recorder: Recorder) -> None:
    """The first request of a run is kept, and the next run of the id has none."""
    store = recorder.runtime._store
    assert not store.request_cancel("j", "too early")
    with progress.operation("job", id="j") as op:
        run = recorder.operation("j").run
        assert not store.request_cancel("j", "another", run="another")
        assert store.request_cancel("j", "first", run=run)
        assert store.request_cancel("j", "second")
        with pytest.raises(OperationCancelledError, match="first"):
            op.check_cancelled()
    assert not store.request_cancel("j", "too late")
    with progress.operation("job", id="j") as op:
        assert not op.cancel_requested
    assert [len(store.reader.history()), store.delete("j"), store.delete("j")] == [2, 2, 0]
    assert store.reader.get("j") is None
    assert isinstance(store.reader, Reader)
    assert isinstance(store, Controller)


def test_delete_keeps_running_operations(recorder: Recorder) -> None:
    """The active run of the same id and other operations are kept."""
    store = recorder.runtime._store
    for id_ in ("j", "k"):
        progress.operation("job", id=id_).start().complete()
    with progress.operation("job", id="j"):
        assert store.delete("j") == 1
        assert store.reader.get("j") is not None
    assert [operation.operation_id for operation in store.reader.history()] == ["j", "k"]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "make_iterable",
    [lambda: list(range(9)), lambda: _generate(9), itertools.count],
    ids=["list", "generator", "endless"],
)
def test_track_stops_between_two_elements(strict: bool, make_iterable: Callable[[], Iterator[int]]) -> None:
    """The current body finishes, no further element is read, and each counts once."""
    with recording(strict=strict) as recorder:
        source, elements = iter(make_iterable()), []

        def work() -> None:
            with progress.operation("job", id="j") as op:
                for element in op.track(source):
                    elements.append(element)
                    if element == 4:
                        _request_cancel(recorder)

        with pytest.raises(OperationCancelledError):
            work()
        (level,) = recorder.operation("j").levels
        assert elements == [0, 1, 2, 3, 4]
        assert next(source) == 5
        assert (level.current, level.status, level.message) == (5, Status.CANCELLED, "takes too long")


def test_track_of_cancelled_operation_yields_nothing(recorder: Recorder) -> None:
    """A request before the loop stops it before its first element."""
    source = iter("abc")

    def work() -> None:
        with progress.operation("job", id="j"):
            for _ in progress.track([1, 2]):
                _request_cancel(recorder)
                for _ in progress.track(source):
                    pytest.fail("an element was yielded")

    with pytest.raises(OperationCancelledError):
        work()
    assert next(source) == "a"
    assert [level.current for level in recorder.operation("j").levels] == [0, 0]


def test_async_track_stops_between_two_elements(recorder: Recorder) -> None:
    """An async source keeps its position."""

    async def source() -> AsyncIterator[int]:
        for number in range(9):
            yield number

    async def work(elements: AsyncIterator[int]) -> None:
        async with progress.operation("job", id="j") as op:
            async for element in op.track(elements):
                received.append(element)
                if element == 2:
                    _request_cancel(recorder)

    async def main() -> int:
        elements = source()
        with pytest.raises(OperationCancelledError):
            await work(elements)
        return await elements.__anext__()

    received: list[int] = []
    assert asyncio.run(main()) == 3
    assert received == [0, 1, 2]
    (level,) = recorder.operation("j").levels
    assert (level.current, level.status) == (3, Status.CANCELLED)


@given(st.integers(0, 40), st.none() | st.integers(0, 50), st.none() | st.integers(0, 50), st.booleans())
def test_track_with_any_end_counts_exactly(
    count: int, cancel_at: int | None, leave_at: int | None, listed: bool
) -> None:
    """Loops that finish, are cancelled or break yield in order and count each element.

    A loop that code other than ``for`` started, and that was dropped at its last element, is
    complete, because ``zip`` stops like that.
    """
    with recording(strict=False) as recorder:
        elements: list[int] = []
        raised = False
        with progress.operation("job", id="j") as op:
            loop = iter(op.track(list(range(count)) if listed else _generate(count)))
            try:
                for element in loop:
                    if element == leave_at:
                        break
                    elements.append(element)
                    if element == cancel_at:
                        _request_cancel(recorder)
            except OperationCancelledError:
                raised = True
            del loop
            (level,) = recorder.operation("j").levels
        assert elements == list(range(len(elements)))
        stopped = cancel_at is not None and cancel_at < count and (leave_at is None or cancel_at < leave_at)
        assert raised == stopped
        is_at_end = listed and not stopped and leave_at == count - 1
        assert level.current == len(elements) + is_at_end
        left = leave_at is not None and leave_at < count and not is_at_end
        assert level.status is (Status.CANCELLED if stopped or left else Status.COMPLETED)


def test_cancelled_operation_keeps_its_ratio(lenient: Recorder) -> None:
    """Unfinished children of a cancelled operation do not count as done."""
    op = progress.operation("import", id="o", total=4).start()
    with op.level("file", 1, total=2):
        pass
    second = op.level("file", 2, total=4).start()
    second.increment(1)
    op.level("file", 3).start()
    assert op.snapshot().ratio == pytest.approx((1 + 1 / 4) / 4)
    op.cancel("enough")
    ended = lenient.operation("o")
    assert ended.ratio == pytest.approx((1 + 1 / 4) / 4)
    assert (ended.root.current, ended.root.completed, ended.root.failed) == (1, 1, 0)
    assert [level.status.value for level in ended.levels] == ["completed", "cancelled", "cancelled"]


def test_cancelled_level_that_restarts_counts_once(lenient: Recorder) -> None:
    """The units of the next attempt replace those of the cancelled one."""
    with progress.operation("import", id="o", total=2) as op:
        op.level("file", "a", total=4).start().cancel()
        first = op.level("file", "b", total=4).start()
        first.increment(3)
        first.cancel()
        assert op.snapshot().ratio == pytest.approx(3 / 8)
        again = op.level("file", "b", total=4).start()
        assert op.snapshot().ratio == 0.0
        again.increment(2)
        assert op.snapshot().ratio == pytest.approx(1 / 4)
        again.complete()
        assert (op.snapshot().current, op.snapshot().ratio) == (1, 0.5)
    assert (lenient.operation("o").ratio, lenient.operation("o").root.ended_early) == (0.5, True)
