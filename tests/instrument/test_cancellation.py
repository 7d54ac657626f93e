"""A request to stop: handles know of it, ``track`` stops between two elements, and what stops for it counts as cancelled."""

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


def _cancel(recorder: Recorder, id_: str = "j") -> None:
    assert recorder.runtime._store.request_cancel(id_, "takes too long")


def _generator(count: int) -> Iterator[int]:
    yield from range(count)


def test_every_handle_of_the_operation_knows(recorder: Recorder) -> None:
    """The operation's and those below it, at once; other operations and inert handles do not."""
    with (
        progress.operation("other") as other,
        progress.operation("job", id="j") as op,
        op.level("x") as level,
    ):
        assert not op.cancel_requested
        level.check_cancelled()
        _cancel(recorder)
        assert op.cancel_requested
        assert level.cancel_requested
        assert not other.cancel_requested
        with pytest.raises(OperationCancelledError, match="takes too long"):
            level.check_cancelled()
        assert recorder.operation("j").cancel_requested_at == recorder.clock.wall()
    assert not progress.level("unstarted").cancel_requested
    progress.current_level().check_cancelled()


def test_what_stops_is_cancelled_for_the_reason(recorder: Recorder) -> None:
    """The error marks each level it leaves as cancelled, not failed, with the reason as its message."""

    def work() -> None:
        with progress.operation("job", id="j") as op:
            _cancel(recorder)
            with op.level("x", 1) as level:
                level.check_cancelled()

    with pytest.raises(OperationCancelledError):
        work()
    view = recorder.operation("j")
    assert [(one.status, one.message, one.error) for one in (view.root, *view.levels)] == [
        (Status.CANCELLED, "takes too long", None)
    ] * 2


def test_a_request_is_for_the_run_that_is_active(recorder: Recorder) -> None:
    """There has to be one; the first request stays; a named run is meant alone; the next run of the id starts afresh."""
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


def test_deleting_leaves_what_runs(recorder: Recorder) -> None:
    """Only ended runs are forgotten; the active one of the same id and other operations stay."""
    store = recorder.runtime._store
    for id_ in ("j", "k"):
        progress.operation("job", id=id_).start().complete()
    with progress.operation("job", id="j"):
        assert store.delete("j") == 1
        assert store.reader.get("j") is not None
    assert [one.operation_id for one in store.reader.history()] == ["j", "k"]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda: list(range(9)), lambda: _generator(9), itertools.count],
    ids=["list", "generator", "endless"],
)
def test_track_stops_between_two_elements(strict: bool, make: Callable[[], Iterator[int]]) -> None:
    """The body that runs is finished, no further element is taken from the source, and each one handed out counts once."""
    with recording(strict=strict) as recorder:
        source, seen = iter(make()), []

        def work() -> None:
            with progress.operation("job", id="j") as op:
                for element in op.track(source):
                    seen.append(element)
                    if element == 4:
                        _cancel(recorder)

        with pytest.raises(OperationCancelledError):
            work()
        (level,) = recorder.operation("j").levels
        assert seen == [0, 1, 2, 3, 4]
        assert next(source) == 5
        assert (level.current, level.status, level.message) == (5, Status.CANCELLED, "takes too long")


def test_track_of_a_cancelled_operation_hands_nothing_out(recorder: Recorder) -> None:
    """A request that came before the loop, of the module's track or a handle's, nested or not, stops it before its first element."""
    source = iter("abc")

    def work() -> None:
        with progress.operation("job", id="j"):
            for _ in progress.track([1, 2]):
                _cancel(recorder)
                for _ in progress.track(source):
                    pytest.fail("an element was handed out")

    with pytest.raises(OperationCancelledError):
        work()
    assert next(source) == "a"
    assert [level.current for level in recorder.operation("j").levels] == [0, 0]


def test_an_async_track_stops(recorder: Recorder) -> None:
    """The same where the elements come asynchronously, and the source is left where it was."""

    async def source() -> AsyncIterator[int]:
        for number in range(9):
            yield number

    async def work(elements: AsyncIterator[int]) -> None:
        async with progress.operation("job", id="j") as op:
            async for element in op.track(elements):
                seen.append(element)
                if element == 2:
                    _cancel(recorder)

    async def main() -> int:
        elements = source()
        with pytest.raises(OperationCancelledError):
            await work(elements)
        return await elements.__anext__()

    seen: list[int] = []
    assert asyncio.run(main()) == 3
    assert seen == [0, 1, 2]
    (level,) = recorder.operation("j").levels
    assert (level.current, level.status) == (3, Status.CANCELLED)


@given(st.integers(0, 40), st.none() | st.integers(0, 50), st.none() | st.integers(0, 50), st.booleans())
def test_counts_are_exact_however_a_loop_ends(
    count: int, cancel_at: int | None, leave_at: int | None, listed: bool
) -> None:
    """To the end, by a request, or by a break: elements come in order, none lost or twice, and what was done is what is counted."""
    with recording(strict=False) as recorder:
        seen: list[int] = []
        raised = False
        with progress.operation("job", id="j") as op:
            loop = iter(op.track(list(range(count)) if listed else _generator(count)))
            try:
                for element in loop:
                    if element == leave_at:
                        break
                    seen.append(element)
                    if element == cancel_at:
                        _cancel(recorder)
            except OperationCancelledError:
                raised = True
            loop.close()  # type: ignore[attr-defined]
            (level,) = recorder.operation("j").levels
        assert seen == list(range(len(seen)))
        assert level.current == len(seen)
        stopped = cancel_at is not None and cancel_at < count and (leave_at is None or cancel_at < leave_at)
        assert raised == stopped
        left = leave_at is not None and leave_at < count
        assert level.status is (Status.CANCELLED if stopped or left else Status.COMPLETED)


def test_cancelled_work_counts_as_far_as_it_came(lenient: Recorder) -> None:
    """What is cut off with its operation is not done: the operation stays where it was, and says so in its figures."""
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


def test_a_cancelled_level_that_is_entered_again_counts_once(lenient: Recorder) -> None:
    """The part of the cancelled attempt is taken back; what the next one does counts instead."""
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
    assert lenient.operation("o").ratio == 1.0
