"""Tests of batches: members, snapshots, threads and tasks, and invalid values."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

import otel_progress as progress
from otel_progress import Status
from otel_progress.live.batches import MAX_BATCHES
from otel_progress.protocols import BatchQuery
from otel_progress.testing import Recorder


def _get_counts(batch: progress.OperationBatch) -> dict[str, int]:
    return {status.value: count for status, count in batch.snapshot().counts.items() if count}


def test_batch_of_500_tasks_in_threads_counts_all(recorder: Recorder) -> None:
    """One of 20 tasks fails. All are counted, and the failed ones are listed."""
    total, lock = 500, threading.Lock()

    def task(batch: progress.OperationBatch, number: int) -> None:
        with (
            ExitStack() as stack,
            batch.operation("thumbnail", f"picture {number}", id=f"t-{number}", total=2) as op,
        ):
            op.increment(2)
            # Held until the operation has ended, so that the ends are 0.1 s apart.
            stack.enter_context(lock)
            recorder.clock.advance(0.1)
            if number % 20 == 7:
                raise ValueError(number)

    with progress.batch("thumbnails", total=total) as batch, ThreadPoolExecutor(16) as pool:
        tasks = [pool.submit(task, batch, number) for number in range(total)]
        assert sum(task.exception() is not None for task in tasks) == 25
        assert batch.snapshot().throughput == pytest.approx(10.0)
    done = batch.snapshot()
    assert _get_counts(batch) == {"completed": 475, "failed": 25}
    assert (done.ratio, done.remaining_s, done.is_finished, done.status) == (1.0, 0.0, True, Status.FAILED)
    assert {operation.operation_id for operation in done.failed} == {
        f"t-{number}" for number in range(7, total, 20)
    }
    assert all(failed.error is not None and failed.error.type == "ValueError" for failed in done.failed)
    ends = [failed.root.ended_at or 0.0 for failed in done.failed]
    assert ends == sorted(ends, reverse=True)
    assert done.throughput == pytest.approx(10.0, rel=0.05)  # over the whole time
    assert progress.get_batch(batch.id) is not None


@pytest.mark.usefixtures("recorder")
def test_batch_snapshot_without_tick_is_current() -> None:
    """The snapshot includes all units counted so far, and the newest total."""
    with progress.batch("b", total=2) as batch:
        assert batch.snapshot().ratio == 0.0
        with progress.operation("job", total=4) as op:
            op.increment()
            assert batch.snapshot().ratio == pytest.approx(1 / 8)
            assert [operation.ratio for operation in batch.snapshot().active] == [0.25]
        assert (batch.snapshot().ratio, _get_counts(batch)) == (0.5, {"completed": 1})
        batch.set_total(4)
        assert (batch.snapshot().ratio, batch.snapshot().status) == (0.25, Status.RUNNING)
    assert batch.snapshot().status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_batch_contains_operations_of_its_context_and_id() -> None:
    """Operations inside an operation of the batch do not belong to it."""

    @progress.operation("decorated")
    def work() -> None:
        progress.operation("inside").start().complete()

    with progress.operation("around"), progress.batch("b") as batch:
        work()
        list(progress.level("child").track([1]))  # a child of the operation around, so not an operation
        with progress.operation("one"), progress.batch("inner") as inner:
            progress.operation("of the inner one").start().complete()
    assert _get_counts(batch) == {"completed": 2}
    assert _get_counts(inner) == {"completed": 1}
    progress.operation("after").start().complete()
    for given in (batch, batch.id):
        with progress.operation("named", batch=given) as op:
            op.increment()
            assert batch.snapshot().active[0].root.info.batch == batch.id
    assert _get_counts(batch) == {"completed": 4}
    with progress.batch("loops", id="loops") as loops:
        assert list(progress.track("abc")) == ["a", "b", "c"]
    assert _get_counts(loops) == {"completed": 1}


@pytest.mark.usefixtures("recorder")
def test_batches_of_concurrent_tasks_are_separate() -> None:
    """Operations of two concurrent tasks belong to the batch of their own task."""

    async def run(name: str, count: int) -> progress.OperationBatch:
        async with progress.batch(name) as batch:
            for _ in range(count):
                async with progress.operation("job"):
                    await asyncio.sleep(0)
        return batch

    async def main() -> list[progress.OperationBatch]:
        return list(await asyncio.gather(run("a", 3), run("b", 5)))

    assert [_get_counts(batch) for batch in asyncio.run(main())] == [{"completed": 3}, {"completed": 5}]


@pytest.mark.usefixtures("recorder")
def test_batch_after_an_exception_is_closed() -> None:
    """The exception is raised unchanged, and the context has no batch afterwards."""
    batch = progress.batch("b")
    with pytest.raises(KeyError), batch:
        raise KeyError
    assert batch.snapshot().is_finished
    progress.operation("after").start().complete()
    assert _get_counts(batch) == {}


def test_declarations_are_collected_once_per_change(recorder: Recorder) -> None:
    """After a failed write all declarations are collected again. A fork drops them."""
    store = recorder.runtime._store
    batch = progress.batch("Thumbs", id="t", type="thumbs", total=3).start()
    assert not store.idle
    (first,) = store.collect().batches
    assert (first.id, first.name, first.type, first.total, first.ended_at) == (
        "t",
        "Thumbs",
        "thumbs",
        3,
        None,
    )
    assert store.collect().batches == []
    batch.set_total(5)
    batch.close()
    batch.close()
    (last,) = store.collect().batches
    assert (last.total, last.ended_at) == (5, recorder.clock.wall())
    assert last.sequence > first.sequence
    store.resend()
    assert store.collect().batches == [last]
    with batch:  # opens it again
        assert not batch.snapshot().is_finished
    store.restart(store.instance)
    assert store.reader.batches() == []
    batch.set_total(7)  # the inherited handle belongs to the parent process
    batch.close()
    with batch.operation("job"):
        assert [declared.id for declared in store.reader.batches()] == ["t"]


def test_batch_with_many_operations_is_bounded(recorder: Recorder) -> None:
    """Counts stay exact, and at most 100 ends and 100 failures are stored."""
    store = recorder.runtime._store
    with progress.batch("many", id="m") as batch:
        for _ in range(600):
            progress.operation("job").start().fail("no")
        recorder.tick()
    members = store._state.batches.get_batch_locked("m")
    assert members is not None
    assert (len(members.active), len(members.ends), len(members.failed)) == (0, 100, 100)
    assert _get_counts(batch) == {"failed": 600}
    assert len(batch.snapshot().failed) == 100


def test_oldest_finished_batches_are_evicted(recorder: Recorder) -> None:
    """Open batches and batches with a running operation are evicted last."""
    store = recorder.runtime._store
    busy = progress.batch("busy", id="busy").start()
    running = busy.operation("job").start()
    busy.close()
    recorder.clock.advance(1.0)
    progress.batch("open", id="open").start()
    for number in range(MAX_BATCHES + 20):
        with progress.batch("b", id=number):
            recorder.clock.advance(1.0)
    ids = [batch.id for batch in store.reader.batches(BatchQuery(limit=1_000))]
    assert len(ids) == MAX_BATCHES
    assert ids[:3] == ["open", "busy", str(MAX_BATCHES + 19)]
    assert [batch.id for batch in store.reader.batches(BatchQuery(limit=1))] == ["open"]
    assert store.reader.batches(BatchQuery(limit=0)) == []
    running.complete()


@pytest.mark.parametrize("total", [-1, float("nan"), "many", 1.5, True, object()])
def test_batch_with_invalid_total_ignores_it(lenient: Recorder, total: object) -> None:
    """The last valid total stays if a total is not a whole number of at least 0."""
    del lenient
    with progress.batch("b", total=total) as batch:  # type: ignore[arg-type]
        assert batch.snapshot().total is None
        batch.set_total(4.0)  # type: ignore[arg-type]
        batch.set_total(total)  # type: ignore[arg-type]
        assert batch.snapshot().total == 4


@pytest.mark.usefixtures("recorder")
def test_strict_batch_with_invalid_value_raises() -> None:
    """Invalid totals and empty ids raise an error with the expected value."""
    with pytest.raises(progress.ProgressError, match="at least 0"):
        progress.batch("b", total=-1).start()
    with pytest.raises(progress.ProgressError, match="Invalid batch id '': expected a text"):
        progress.batch("b", id="").start()
    with pytest.raises(progress.ProgressError, match="Invalid batch id '': expected a text"):
        progress.operation("job", batch="").start()


@pytest.mark.usefixtures("lenient")
def test_batch_with_hostile_names_normalises_them() -> None:
    """An empty id is replaced by a generated one. Texts become valid and bounded."""
    with progress.batch("\ud800" * 10_000, id="", type="") as batch:
        assert batch.id.startswith("batch-")
        assert len(batch.snapshot().name) <= 256
    assert len(progress.batch("b", id="x" * 10_000_000).id) <= 256
    with progress.operation("job", batch="") as op:
        assert op.recording


def test_batch_without_configure_does_nothing() -> None:
    """All methods can be called, and nothing is recorded."""
    with progress.batch("b", id="b", total=-5) as batch:
        batch.set_total(-1)
        with batch.operation("job") as op:
            assert not op.recording
        with progress.operation("job", batch=batch) as op:
            op.increment()
        assert (batch.id, batch.snapshot().total, sum(batch.snapshot().counts.values())) == ("b", None, 0)
    assert progress.get_batch("b") is None
    assert progress.batch("b").id == progress.batch("b", id="").id == ""


def test_closed_batch_that_is_used_again_starts_a_new_run(recorder: Recorder) -> None:
    """With a handle of its own, and with the same one."""
    store = recorder.runtime._store
    for _ in range(2):
        with progress.batch("Night", id="night", total=2) as batch:
            recorder.clock.advance(1.0)
            for _ in range(2):
                progress.operation("job").start().complete()
        assert _get_counts(batch) == {"completed": 2}
        recorder.clock.advance(1.0)
    with batch:
        assert _get_counts(batch) == {}
        assert not batch.snapshot().is_finished
    ended = [(one.started_at, one.ended_at is not None) for one in store.collect().batches]
    assert len(ended) == 3
    assert ended == sorted(ended)
    assert all(is_closed for _, is_closed in ended)


def test_closed_batch_with_a_running_operation_is_continued(recorder: Recorder) -> None:
    with progress.batch("Night", id="night") as first:
        running = progress.operation("job").start()
    recorder.clock.advance(1.0)
    with progress.batch("Night", id="night"):
        progress.operation("job").start().complete()
    running.complete()
    assert _get_counts(first) == {"completed": 2}
