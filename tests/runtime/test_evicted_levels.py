"""Evicted levels: readers count the same ones, and levels near the operation stay."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import Level, LevelCounts, OperationSnapshot, Status
from otel_progress.codec import decode_operation, encode_operation
from otel_progress.journal import open_journal
from otel_progress.live.tree import Limits
from otel_progress.testing import FakeClock, Recorder, recording

MAX_LEVELS, MAX_FAILED = 5, 2
DEEP = 3
ENDS = (Status.COMPLETED, Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED)


@contextmanager
def record_with_limits(store: str) -> Iterator[Recorder]:
    """Record with small limits of ended levels."""
    with recording(store=store, strict=False) as recorder:
        limits = Limits(levels=MAX_LEVELS, failed_levels=MAX_FAILED)
        recorder.runtime._store._state.tree._limits = limits
        yield recorder


class Work:
    """Levels of one operation, and the numbers of ended ones by parent."""

    def __init__(self) -> None:
        self.root = progress.operation("work", id="o").start()
        self.running = [self.root]
        self.ended: dict[str, Counter[str]] = {}
        self.failed_by_depth: Counter[int] = Counter()

    def start(self, number: int, *, is_deep: bool) -> None:
        """Start a level below the last or another running level."""
        parent = self.running[-1 if is_deep else number % len(self.running)]
        total = 1 if number % 3 == 0 else None  # it ends early without a level below
        self.running.append(parent.level("part", total=total).start())

    def end(self, number: int, status: Status) -> None:
        """End a running level, which cancels the running ones below it."""
        if len(self.running) == 1:
            return
        level = self.running[1 + number % (len(self.running) - 1)]
        below = [each for each in self.running if each.path.startswith(f"{level.path}/")]
        self.running = [each for each in self.running if each is not level and each not in below]
        end_level(level, status)
        for each in below:
            self._count(each, Status.CANCELLED)
        self._count(level, status)

    def _count(self, level: Level, status: Status) -> None:
        counts = self.ended.setdefault(level.path.rpartition("/")[0], Counter())
        counts[status.value] += 1
        if level.snapshot().ended_early:
            counts["ended_early"] += 1
        if status is Status.FAILED:
            self.failed_by_depth[min(level.path.count("/") + 1, DEEP)] += 1


def end_level(level: Level, status: Status) -> None:
    """End a level with a status."""
    if status is Status.FAILED:
        level.fail("broken")
    else:
        {Status.COMPLETED: level.complete, Status.CANCELLED: level.cancel, Status.SKIPPED: level.skip}[
            status
        ]()


def assert_exact_counts(operation: OperationSnapshot, work: Work) -> None:
    """Stored and evicted levels are all ended levels, and all parents are stored."""
    evicted = operation.count_evicted_levels()
    paths = {"", *(level.path for level in operation.levels)}
    for level in operation.levels:
        assert level.info.parent_path in paths
    for path in paths:
        stored = [
            level for level in operation.levels if level.info.parent_path == path and level.status.finished
        ]
        found = Counter(level.status.value for level in stored)
        found["ended_early"] = sum(level.ended_early for level in stored)
        found.update(evicted.get(path, LevelCounts())._asdict())
        expected = work.ended.get(path, Counter())
        assert +found == expected
    sizes = Counter(
        (min(level.info.depth, DEEP), level.status is Status.FAILED)
        for level in operation.levels
        if level.status.finished
    )
    for (_, is_failed), size in sizes.items():
        assert size <= (MAX_FAILED if is_failed else MAX_LEVELS)
    if max(work.failed_by_depth.values(), default=0) <= MAX_FAILED:
        assert sum(counts.failed for counts in evicted.values()) == 0


def describe(operation: OperationSnapshot | None) -> tuple[list[tuple[str, str]], Mapping[str, LevelCounts]]:
    """Return the stored and the evicted levels of an operation, to compare readers."""
    assert operation is not None
    levels = sorted((level.path, level.status.value) for level in operation.levels)
    return levels, operation.count_evicted_levels()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("start"), st.integers(0, 30), st.booleans()),
            st.tuples(st.just("end"), st.integers(0, 30), st.sampled_from(ENDS)),
            st.tuples(st.just("tick"), st.just(0), st.none()),
        ),
        max_size=120,
    )
)
def test_evicted_levels_of_all_readers_are_exact(steps: list[tuple[str, int, object]]) -> None:
    """The live store, the journal and their composite list the same levels and counts."""
    with TemporaryDirectory() as folder, record_with_limits(f"sqlite:///{folder}/p.db") as recorder:
        work = Work()
        for kind, number, detail in steps:
            if kind == "start":
                work.start(number, is_deep=bool(detail))
            elif kind == "end":
                work.end(number, Status(detail))
            else:
                recorder.tick()
                assert_exact_counts(recorder.operation("o"), work)
        assert recorder.runtime.force_flush(60.0)
        live = recorder.runtime._store.reader.get("o")
        with closing(open_journal(f"sqlite:///{folder}/p.db")) as journal:
            stored = journal.get("o")
        assert stored is not None
        assert_exact_counts(stored, work)
        assert describe(stored) == describe(live) == describe(recorder.runtime.reader.get("o"))
        document = encode_operation(stored)
        assert describe(decode_operation(document)) == describe(stored)
        named = {level["path"]: level["evicted_levels"] for level in (document, *document["levels"])}
        assert {path: LevelCounts(**counts) for path, counts in named.items() if counts} == describe(stored)[
            1
        ]
        work.root.complete()


@pytest.mark.parametrize("leaf_count", [1, 40])
def test_tables_with_many_leaf_levels_stay(recorder: Recorder, leaf_count: int) -> None:
    """Leaf levels evict leaf levels only."""
    recorder.runtime._store._state.tree._limits = Limits(levels=60)
    with progress.operation("migration", id="m", total=50) as op:
        for table_number in range(50):
            with op.level("table", table_number, total=leaf_count) as table:
                for number in range(leaf_count):
                    table.level("chunk", number).start().complete()
            if table_number % 10 == 0:
                recorder.tick()
    found = recorder.operation("m")
    assert sum(level.info.depth == 1 for level in found.levels) == 50
    evicted = found.count_evicted_levels()
    stored = sum(level.info.depth == 2 for level in found.levels)
    assert stored + sum(counts.completed for counts in evicted.values()) == 50 * leaf_count
    assert stored <= 60
    assert found.root.ended_levels == LevelCounts(completed=50)
    assert "" not in evicted


def test_failed_leaf_stays_behind_many_completed_levels(recorder: Recorder) -> None:
    """Its parents stay, too."""
    with progress.operation("o", id="o") as op:
        with op.level("table", "first") as table, table.level("part", 1) as part:
            part.level("chunk", "bad").start().fail("unreadable")
        for number in range(1_000):
            with op.level("table", number) as table, table.level("part", 1) as part:
                part.level("chunk", 1).start().complete()
        recorder.tick()
    found = recorder.operation("o")
    for path in ("table:first", "table:first/part:1", "table:first/part:1/chunk:bad"):
        assert found.get_level(path) is not None
    assert found.count_evicted_levels()[""].completed == 1_001 - sum(
        level.info.depth == 1 for level in found.levels
    )


def test_next_attempt_replaces_the_counted_level(recorder: Recorder) -> None:
    """A level that is started again is not counted twice, nor are those below it."""
    with progress.operation("o", id="o") as op:
        for attempt in range(3):
            with op.level("table", "t") as table:
                for number in range(600):
                    table.level("chunk", number).start().complete()
            recorder.tick()
            found = recorder.operation("o")
            assert found.root.ended_levels == LevelCounts(completed=1)
            level = found.get_level("table:t")
            assert level is not None
            assert (level.info.attempt, level.ended_levels.completed) == (attempt + 1, 600)
            assert found.count_evicted_levels() == {"table:t": LevelCounts(completed=200)}


def test_stages_stay_and_evicted_levels_below_them_are_counted(recorder: Recorder) -> None:
    """Declared stages are never evicted, also when they were skipped."""
    with progress.operation("o", id="o", stages=["load", "check", "store"]) as op:
        with op.stage("load") as stage:
            for number in range(500):
                stage.level("file", number).start().complete()
        with op.stage("store"):
            recorder.tick()
    found = recorder.operation("o")
    assert found.count_evicted_levels() == {"stage:load": LevelCounts(completed=100)}
    assert found.root.ended_levels == LevelCounts(completed=2, skipped=1)


def test_levels_of_an_older_operation_are_read_from_the_journal(tmp_path: Path) -> None:
    """The live store drops and counts them. The composite reader lists them."""
    # Why the real time: a journal deletes what ended long ago.
    clock = FakeClock(wall=time.time())
    with recording(store=f"sqlite:///{tmp_path}/p.db", clock=clock) as recorder:
        recorder.runtime._store._state.limits = Limits(history_levels=500)
        for operation_number in range(30):
            with progress.operation("o", id=operation_number) as op:
                for number in range(30):
                    op.level("x", number).start().complete()
            recorder.tick()
        assert recorder.runtime.force_flush(60.0)
        live = recorder.runtime._store.reader.get("0")
        assert live is not None
        assert (len(live.levels), live.count_evicted_levels()) == (0, {"": LevelCounts(completed=30)})
        found = recorder.operation("0")
        assert (len(found.levels), found.count_evicted_levels()) == (30, {})


def test_levels_that_end_while_they_are_read_are_not_counted_as_evicted(lenient: Recorder) -> None:
    """No level is evicted here, so no reader may report an evicted one."""
    limit = lenient.runtime._store.limits.levels
    with progress.operation("o", id="o") as op:
        parents = [op.level("part", number).start() for number in range(4)]

        def run(parent: Level) -> None:
            for number in range(limit // len(parents)):
                parent.level("file", number).start().complete()

        threads = [threading.Thread(target=run, args=(parent,)) for parent in parents]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert lenient.operation("o").count_evicted_levels() == {}
        for thread in threads:
            thread.join()
        found = lenient.operation("o")
        assert sum(level.ended_levels.completed for level in found.levels) == limit
        assert found.count_evicted_levels() == {}
