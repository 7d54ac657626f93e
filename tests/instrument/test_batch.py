"""Batches as callers use them: who belongs to one, what it comes to, in threads and tasks, with bad values and without configure."""

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


def _counts(batch: progress.OperationBatch) -> dict[str, int]:
    return {status.value: count for status, count in batch.snapshot().counts.items() if count}


def test_five_hundred_tasks_on_a_pool(recorder: Recorder) -> None:
    """500 tasks in threads, one in twenty failing: every one is counted, the failed ones are listed, and the batch ends as failed."""
    total, turn = 500, threading.Lock()

    def task(batch: progress.OperationBatch, number: int) -> None:
        with (
            ExitStack() as until_it_has_ended,
            batch.operation("thumbnail", f"picture {number}", id=f"t-{number}", total=2) as op,
        ):
            op.increment(2)
            until_it_has_ended.enter_context(
                turn
            )  # so that the ends are a tenth of a second apart, whatever thread waits
            recorder.clock.advance(0.1)
            if number % 20 == 7:
                raise ValueError(number)

    with progress.batch("thumbnails", total=total) as batch, ThreadPoolExecutor(16) as pool:
        tasks = [pool.submit(task, batch, number) for number in range(total)]
        assert sum(task.exception() is not None for task in tasks) == 25
        assert batch.snapshot().throughput == pytest.approx(10.0)
    done = batch.snapshot()
    assert _counts(batch) == {"completed": 475, "failed": 25}
    assert (done.ratio, done.remaining_s, done.is_finished, done.status) == (1.0, 0.0, True, Status.FAILED)
    assert {one.operation_id for one in done.failed} == {f"t-{number}" for number in range(7, total, 20)}
    assert all(one.error is not None and one.error.type == "ValueError" for one in done.failed)
    assert [one.root.ended_at for one in done.failed] == sorted(
        (one.root.ended_at or 0.0 for one in done.failed), reverse=True
    )
    assert done.throughput == pytest.approx(10.0, rel=0.05)  # of the whole, from its beginning
    assert progress.get_batch(batch.id) is not None


@pytest.mark.usefixtures("recorder")
def test_one_reads_ones_own_writes() -> None:
    """Without a tick in between, the ratio has each unit counted so far, and the total that was set last."""
    with progress.batch("b", total=2) as batch:
        assert batch.snapshot().ratio == 0.0
        with progress.operation("job", total=4) as op:
            op.increment()
            assert batch.snapshot().ratio == pytest.approx(1 / 8)
            assert [one.ratio for one in batch.snapshot().active] == [0.25]
        assert (batch.snapshot().ratio, _counts(batch)) == (0.5, {"completed": 1})
        batch.set_total(4)
        assert (batch.snapshot().ratio, batch.snapshot().status) == (0.25, Status.RUNNING)
    assert batch.snapshot().status is Status.COMPLETED


@pytest.mark.usefixtures("recorder")
def test_who_belongs_to_a_batch() -> None:
    """Operations of its context, decorated and tracked ones too, and those that name it; not what begins inside of an operation of it."""

    @progress.operation("decorated")
    def work() -> None:
        progress.operation("inside").start().complete()

    with progress.operation("around"), progress.batch("b") as batch:
        work()
        list(progress.level("child").track([1]))  # below the operation around: no operation
        with progress.operation("one"), progress.batch("inner") as inner:
            progress.operation("of the inner one").start().complete()
    assert _counts(batch) == {"completed": 2}
    assert _counts(inner) == {"completed": 1}
    progress.operation("after").start().complete()
    for given in (batch, batch.id):
        with progress.operation("named", batch=given) as op:
            op.increment()
            assert batch.snapshot().active[0].root.info.batch == batch.id
    assert _counts(batch) == {"completed": 4}
    with progress.batch("loops", id="loops") as loops:
        assert list(progress.track("abc")) == ["a", "b", "c"]
    assert _counts(loops) == {"completed": 1}


@pytest.mark.usefixtures("recorder")
def test_tasks_keep_their_batches_apart() -> None:
    """Two tasks, each in a batch of its own, at the same time: what one begins is none of the other's."""

    async def run(name: str, count: int) -> progress.OperationBatch:
        async with progress.batch(name) as batch:
            for _ in range(count):
                async with progress.operation("job"):
                    await asyncio.sleep(0)
        return batch

    async def main() -> list[progress.OperationBatch]:
        return list(await asyncio.gather(run("a", 3), run("b", 5)))

    assert [_counts(batch) for batch in asyncio.run(main())] == [{"completed": 3}, {"completed": 5}]


@pytest.mark.usefixtures("recorder")
def test_an_exception_closes_a_batch() -> None:
    """An error that leaves the block closes the batch all the same, passes through, and leaves nothing in the context."""
    batch = progress.batch("b")
    with pytest.raises(KeyError), batch:
        raise KeyError
    assert batch.snapshot().is_finished
    progress.operation("after").start().complete()
    assert _counts(batch) == {}


def test_declarations_go_out_with_the_next_batch(recorder: Recorder) -> None:
    """New and changed ones once, the newest sequence last; all of them again when a sink missed one; a fork forgets them."""
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
    with batch:  # and open once more
        assert not batch.snapshot().is_finished
    store.restart(store.instance)
    assert store.reader.batches() == []
    batch.set_total(7)  # of the handle that was inherited: it is the parent's
    batch.close()
    with batch.operation("job"):
        assert [one.id for one in store.reader.batches()] == ["t"]


def test_memory_of_a_batch_is_bounded(recorder: Recorder) -> None:
    """However many operations end, counts stay exact and what is kept of them is a hundred ends and a hundred failures."""
    store = recorder.runtime._store
    with progress.batch("many", id="m") as batch:
        for _ in range(600):
            progress.operation("job").start().fail("no")
        recorder.tick()
    members = store._state.batches.get_batch_locked("m")
    assert members is not None
    assert (len(members.active), len(members.ends), len(members.failed)) == (0, 100, 100)
    assert _counts(batch) == {"failed": 600}
    assert len(batch.snapshot().failed) == 100


def test_the_oldest_batches_that_are_over_go(recorder: Recorder) -> None:
    """The number of batches is bounded; those still open, or with an operation that runs, stay longer than those that are over."""
    store = recorder.runtime._store
    busy = progress.batch("busy", id="busy").start()
    running = busy.operation("job").start()
    busy.close()
    recorder.clock.advance(1.0)
    progress.batch("open", id="open").start()
    for number in range(MAX_BATCHES + 20):
        with progress.batch("b", id=number):
            recorder.clock.advance(1.0)
    ids = [one.id for one in store.reader.batches(BatchQuery(limit=1_000))]
    assert len(ids) == MAX_BATCHES
    assert ids[:3] == ["open", "busy", str(MAX_BATCHES + 19)]
    assert [one.id for one in store.reader.batches(BatchQuery(limit=1))] == ["open"]
    assert store.reader.batches(BatchQuery(limit=0)) == []
    running.complete()


@pytest.mark.parametrize("total", [-1, float("nan"), "many", 1.5, True, object()])
def test_bad_totals_are_ignored(lenient: Recorder, total: object) -> None:
    """A total that is no whole number of at least 0 is counted and left out; the batch goes on with the last good one."""
    del lenient
    with progress.batch("b", total=total) as batch:  # type: ignore[arg-type]
        assert batch.snapshot().total is None
        batch.set_total(4.0)  # type: ignore[arg-type]
        batch.set_total(total)  # type: ignore[arg-type]
        assert batch.snapshot().total == 4


@pytest.mark.usefixtures("recorder")
def test_bad_values_raise_when_strict() -> None:
    """Strict, a total that is none and an empty id are errors that say what was expected."""
    with pytest.raises(progress.ProgressError, match="at least 0"):
        progress.batch("b", total=-1).start()
    with pytest.raises(progress.ProgressError, match="Invalid batch id '': expected a text"):
        progress.batch("b", id="").start()
    with pytest.raises(progress.ProgressError, match="Invalid batch id '': expected a text"):
        progress.operation("job", batch="").start()


@pytest.mark.usefixtures("lenient")
def test_hostile_names_and_ids() -> None:
    """An empty id is replaced by one that is made; texts of any length and kind are cut and made valid."""
    with progress.batch("\ud800" * 10_000, id="", type="") as batch:
        assert batch.id.startswith("batch-")
        assert len(batch.snapshot().name) <= 256
    assert len(progress.batch("b", id="x" * 10_000_000).id) <= 256
    with progress.operation("job", batch="") as op:
        assert op.recording


def test_without_configure_a_batch_is_inert() -> None:
    """Every method is there and does nothing; a handle that was made before stays so."""
    with progress.batch("b", id="b", total=-5) as batch:
        batch.set_total(-1)
        with batch.operation("job") as op:
            assert not op.recording
        with progress.operation("job", batch=batch) as op:
            op.increment()
        assert (batch.id, batch.snapshot().total, sum(batch.snapshot().counts.values())) == ("b", None, 0)
    assert progress.get_batch("b") is None
    assert progress.batch("b").id == progress.batch("b", id="").id == ""
