"""Aggregation of batches: tallies, declarations and snapshots."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress import Status
from otel_progress.batches import MAX_ENDS, MAX_LISTED, BatchDeclaration, BatchTally, add, merge, summarise
from otel_progress.operations import OperationSnapshot
from tests.support.factories import WALL, operation, snapshot

ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED)
MOMENTS = st.floats(WALL, WALL + 1e6)
INFOS = st.builds(
    BatchDeclaration,
    id=st.just("b"),
    name=st.text(max_size=3),
    type=st.just("batch"),
    total=st.none() | st.integers(0, 1000),
    started_at=MOMENTS,
    ended_at=st.none() | MOMENTS,
    sequence=st.integers(0, 2**62),
)


def _build_declaration(
    total: int | None = None, ended_at: float | None = None, **fields: object
) -> BatchDeclaration:
    given = {"id": "b", "name": "B", "type": "batch", "started_at": WALL, "sequence": 1, **fields}
    return BatchDeclaration(total=total, ended_at=ended_at, **given)  # type: ignore[arg-type]


def _build_tally(*ends: float, status: Status = Status.COMPLETED) -> BatchTally:
    tally = BatchTally()
    for end in ends:
        tally = add(tally, status, WALL + end)
    return tally


def _build_running(ratio: float | None, status: Status = Status.RUNNING) -> OperationSnapshot:
    return operation(snapshot(ratio=ratio, status=status))


@given(st.lists(st.tuples(st.sampled_from(ENDED), MOMENTS), max_size=250))
def test_tally_in_any_order_counts_all_and_keeps_newest_ends(ends: list[tuple[Status, float]]) -> None:
    """The number of stored ends is bounded."""
    tally = BatchTally()
    for status, at in ends:
        tally = add(tally, status, at)
    assert tally.finished == len(ends)
    for status in ENDED:
        assert getattr(tally, status.value) == sum(one is status for one, _ in ends)
    assert list(tally.ends) == sorted(at for _, at in ends)[-MAX_ENDS:]


@pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING])
def test_tally_with_active_status_raises_value_error(status: Status) -> None:
    """Only final statuses are valid."""
    with pytest.raises(ValueError, match=status.value):
        add(BatchTally(), status, WALL)


@given(INFOS, INFOS)
def test_merge_is_commutative_and_idempotent(one: BatchDeclaration, other: BatchDeclaration) -> None:
    """Two declarations give the same result in any order."""
    if one.sequence != other.sequence:
        assert merge(one, other) == merge(other, one)
    both = merge(one, other)
    assert merge(one, one) == one
    assert both.started_at == min(one.started_at, other.started_at)
    assert both.sequence == max(one.sequence, other.sequence)
    assert (both.total is None) == (one.total is None and other.total is None)


def test_merge_keeps_known_values_of_older_declaration() -> None:
    """A batch that is declared again after its closing is open."""
    first = _build_declaration(500, name="old", sequence=1)
    joined = _build_declaration(None, name="new", started_at=WALL + 5, sequence=2)
    assert (merge(first, joined).total, merge(first, joined).name) == (500, "new")
    closed = _build_declaration(500, ended_at=WALL + 10, sequence=3)
    assert merge(closed, _build_declaration(600, started_at=WALL + 5, sequence=4)).ended_at == WALL + 10
    assert merge(closed, _build_declaration(600, started_at=WALL + 20, sequence=4)).ended_at is None
    guess = _build_declaration(None, name="b", sequence=0)
    assert merge(guess, first).name == merge(first, guess).name == "old"


@given(
    INFOS,
    st.lists(st.tuples(st.sampled_from(ENDED), MOMENTS), max_size=150),
    st.lists(
        st.tuples(st.none() | st.floats(0, 1), st.sampled_from((Status.RUNNING, Status.PENDING))),
        max_size=120,
    ),
    st.floats(WALL - 1e3, WALL + 2e6),
)
def test_summary_of_any_batch_is_consistent(
    info: BatchDeclaration,
    ends: list[tuple[Status, float]],
    active: list[tuple[float | None, Status]],
    read_at: float,
) -> None:
    """Counts add up, and all numbers are finite and in their ranges."""
    tally = BatchTally()
    for status, at in ends:
        tally = add(tally, status, at)
    operations = [_build_running(ratio, status) for ratio, status in active]
    batch = summarise(info, tally, operations, operations, read_at)
    assert set(batch.counts) == set(Status)
    assert sum(batch.counts.values()) == len(ends) + len(active)
    assert batch.finished_count == len(ends)
    assert (batch.ratio is None) == (info.total is None or (info.total == 0 and not batch.is_finished))
    assert batch.ratio is None or 0 <= batch.ratio <= 1
    for figure in (batch.throughput, batch.remaining_s):
        assert figure is None or (figure >= 0 and math.isfinite(figure))
    if batch.is_finished:
        assert batch.remaining_s == 0
        assert batch.ended_at is not None
    else:
        assert batch.ended_at is None
    assert max(len(batch.active), len(batch.failed)) <= MAX_LISTED


@given(st.lists(st.floats(0, 1), max_size=20), st.integers(0, 30), st.integers(1, 60))
def test_ratio_counts_ended_and_running_operations(ratios: list[float], finished: int, total: int) -> None:
    """More operations than the total give a ratio of 1."""
    tally = _build_tally(*range(finished))
    batch = summarise(
        _build_declaration(total), tally, [_build_running(ratio) for ratio in ratios], (), WALL + 100
    )
    assert batch.ratio == pytest.approx(min(1.0, (finished + sum(ratios)) / total))
    capped = summarise(
        _build_declaration(total), tally, (), (), WALL + 100, running=len(ratios), running_ratio=sum(ratios)
    )
    assert (capped.ratio, capped.counts[Status.RUNNING]) == (batch.ratio, len(ratios))


def test_pending_operations_are_counted_separately() -> None:
    """Unlisted active operations count as running."""
    active = [_build_running(None, Status.PENDING), _build_running(0.5)]
    batch = summarise(_build_declaration(10), BatchTally(), active, (), WALL, running=5, running_ratio=0.5)
    assert (batch.counts[Status.PENDING], batch.counts[Status.RUNNING]) == (1, 4)


def test_steady_ends_give_exact_throughput() -> None:
    """It is the same between two ends."""
    tally = _build_tally(*range(2, 42, 2))
    for read_at in (40.0, 41.0, 42.0):
        batch = summarise(_build_declaration(30), tally, (), (), WALL + read_at)
        assert batch.throughput == pytest.approx(0.5)
        assert batch.remaining_s == pytest.approx(20.0)


def test_changed_rate_gives_recent_throughput() -> None:
    """Only the newer half of the ends counts."""
    slow, fast = [10.0 * n for n in range(1, 11)], [100 + 0.5 * n for n in range(1, 21)]
    batch = summarise(_build_declaration(None), _build_tally(*slow, *fast), (), (), WALL + 110)
    assert batch.throughput == pytest.approx(2.0)
    assert batch.remaining_s is None


def test_bursts_of_ends_give_steady_throughput() -> None:
    """It is the same directly after a burst and before the next one."""
    bursts = [60.0 * n + 0.01 * worker for n in range(1, 5) for worker in range(20)]
    paces = [
        summarise(_build_declaration(None), _build_tally(*bursts), (), (), WALL + at).throughput
        for at in (240.2, 270.0, 300.0)
    ]
    assert all(pace == pytest.approx(20 / 60, rel=0.2) for pace in paces)


def test_silence_reduces_throughput() -> None:
    """The remaining time increases."""
    tally = _build_tally(*range(1, 41))
    batches = [summarise(_build_declaration(100), tally, (), (), WALL + at) for at in (41, 60, 600, 60_000)]
    paces = [batch.throughput or 0.0 for batch in batches]
    remaining = [batch.remaining_s or 0.0 for batch in batches]
    assert paces == sorted(set(paces), reverse=True)
    assert remaining == sorted(set(remaining))
    assert paces[-1] < 0.001


def test_throughput_needs_at_least_one_end() -> None:
    """Simultaneous ends are measured from the start."""
    assert summarise(_build_declaration(10), BatchTally(), (), (), WALL + 10).throughput is None
    assert summarise(_build_declaration(10), BatchTally(), (), (), WALL + 10).remaining_s is None
    one = summarise(_build_declaration(5), _build_tally(4.0), (), (), WALL + 4)
    assert (one.throughput, one.remaining_s) == (0.25, 16.0)
    at_once = summarise(_build_declaration(200), _build_tally(*[50.0] * 100), (), (), WALL + 50)
    assert at_once.throughput == pytest.approx(2.0)


def test_finished_batch_does_not_change() -> None:
    """The throughput is that of the whole batch."""
    tally = add(_build_tally(1, 2, 3), Status.FAILED, WALL + 4)
    for info in (
        _build_declaration(4),
        _build_declaration(None, ended_at=WALL + 2),
        _build_declaration(9, ended_at=WALL + 2),
    ):
        batch = summarise(info, tally, (), (), WALL + 1000)
        assert batch.is_finished
        assert (batch.status, batch.remaining_s, batch.elapsed_seconds, batch.throughput) == (
            Status.FAILED,
            0.0,
            4.0,
            1.0,
        )
    running = summarise(
        _build_declaration(None, ended_at=WALL + 2), tally, [_build_running(0.5)], (), WALL + 8
    )
    assert (running.status, running.ended_at, running.elapsed_seconds) == (Status.RUNNING, None, 8.0)
    assert running.remaining_s is not None
    # In a closed batch, only the active operations remain, also without a total.
    assert running.remaining_s > 0
