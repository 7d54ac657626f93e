"""Batches in a journal, with and without a declaration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from otel_progress.journal import Journal
from otel_progress.model import LevelSnapshot, Status
from otel_progress.protocols import BatchQuery
from tests.support.factories import CLOCK, WALL, batch_info, ended, make_change_set, resource_use, snapshot
from tests.support.fake_time import FakeTime


def _build_running(number: int, **fields: object) -> LevelSnapshot:
    return snapshot(operation_id=f"o{number}", run=f"r{number}", batch="thumbnails", **fields)


def _build_ended(number: int, **fields: object) -> LevelSnapshot:
    return ended(
        operation_id=f"o{number}",
        run=f"r{number}",
        batch="thumbnails",
        **{"ended_at": WALL + number, **fields},
    )


def _build_mixed() -> list[LevelSnapshot]:
    failed = [_build_ended(n, status=Status.FAILED) for n in (3, 4)]
    others = [_build_ended(5, status=Status.CANCELLED), _build_ended(6, status=Status.SKIPPED)]
    return [
        _build_ended(1),
        _build_ended(2),
        *failed,
        *others,
        _build_running(7, ratio=0.5),
        _build_running(8, status=Status.PENDING),
    ]


def test_batch_with_operations_counts_them_by_status(
    open_another: Callable[..., Journal], fake_time: FakeTime
) -> None:
    """Active and failed operations are listed newest first."""
    journal = open_another()
    journal.write(
        make_change_set(
            *_build_mixed(), snapshot(), ended(operation_id="x", run="x"), batches=[batch_info(total=10)]
        )
    )
    fake_time.pass_(10.0)
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.name, found.total, found.started_at, found.ended_at) == (
        "Name of thumbnails",
        10,
        WALL,
        None,
    )
    expected = {"completed": 2, "failed": 2, "cancelled": 1, "skipped": 1, "running": 1, "pending": 1}
    assert {status.value: count for status, count in found.counts.items()} == expected
    assert found.ratio == pytest.approx(0.65)
    assert found.throughput is not None
    assert found.read_at == fake_time.now
    assert [operation.operation_id for operation in found.active] == ["o8", "o7"]
    assert [operation.operation_id for operation in found.failed] == ["o4", "o3"]
    assert [one.id for one in open_another(read_only=True).batches()] == ["thumbnails"]
    assert journal.batch("nobody") is None


def test_batch_with_operations_of_several_processes_counts_each_once(
    open_another: Callable[..., Journal],
) -> None:
    """An end that is written twice is counted once."""
    one, other = open_another(), open_another()
    one.write(make_change_set(_build_running(1), batches=[batch_info(total=2)]))
    other.write(make_change_set(_build_running(2)))
    one.write(make_change_set(_build_ended(1, sequence=2)))
    for sequence in (2, 3):
        other.write(make_change_set(_build_ended(2, sequence=sequence)))
    found = one.batch("thumbnails")
    assert found is not None
    assert (found.counts[Status.COMPLETED], found.is_finished, found.status) == (2, True, Status.COMPLETED)


def test_batch_without_declaration_starts_with_its_first_operation(journal: Journal) -> None:
    """Its name is its id until a declaration names it."""
    journal.write(make_change_set(_build_running(2, started_at=WALL + 50)))
    journal.write(
        make_change_set(
            _build_running(1, started_at=WALL + 20), _build_ended(3, started_at=None, observed_at=WALL + 90)
        )
    )
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.name, found.total, found.ratio, found.started_at) == ("thumbnails", None, None, WALL + 20)
    journal.write(make_change_set(batches=[batch_info(started_at=WALL + 60)]))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.name, found.total, found.counts[Status.RUNNING]) == ("Name of thumbnails", 5, 2)


@pytest.mark.parametrize("backwards", [False, True])
def test_declarations_in_any_order_merge_by_sequence(journal: Journal, backwards: bool) -> None:
    """The newest declaration has precedence where it has a value."""
    infos = [batch_info(sequence=1, name="old", total=7), batch_info(sequence=2, name="new", total=None)]
    for info in reversed(infos) if backwards else infos:
        journal.write(make_change_set(batches=[info]))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.name, found.total) == ("new", 7)
    journal.write(make_change_set(batches=[replace(infos[1], sequence=3, ended_at=WALL + 9)]))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.is_finished, found.ended_at) == (True, WALL + 9)


def test_batches_query_returns_unfinished_ones_first(journal: Journal) -> None:
    """A closed batch with an active operation is unfinished."""
    infos = [
        batch_info("closed", started_at=WALL + 4, ended_at=WALL + 5),
        batch_info("open", started_at=WALL + 1),
        batch_info("closing", started_at=WALL, ended_at=WALL + 5),
        batch_info("done", started_at=WALL + 2, total=1),
    ]
    running = snapshot(operation_id="a", run="a", batch="closing")
    journal.write(make_change_set(running, ended(operation_id="b", run="b", batch="done"), batches=infos))
    assert [found.id for found in journal.batches()] == ["open", "closing", "closed", "done"]
    assert [found.is_finished for found in journal.batches()] == [False, False, True, True]
    assert [found.id for found in journal.batches(BatchQuery(limit=1))] == ["open"]
    assert list(journal.batches(BatchQuery(limit=0))) == []


def test_batch_with_many_operations_lists_100_and_counts_all(journal: Journal) -> None:
    """The ratios of unlisted operations count too."""
    active = [_build_running(number, ratio=0.25) for number in range(240)]
    failed = [_build_ended(number, status=Status.FAILED) for number in range(1000, 1130)]
    journal.write(make_change_set(*active, *failed, batches=[batch_info(total=500)]))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.counts[Status.RUNNING], found.counts[Status.FAILED]) == (240, 130)
    assert found.ratio == pytest.approx((130 + 240 * 0.25) / 500)
    assert [operation.operation_id for operation in found.active] == [
        f"o{number}" for number in range(239, 139, -1)
    ]
    assert [operation.operation_id for operation in found.failed] == [
        f"o{number}" for number in range(1129, 1029, -1)
    ]


def test_batch_after_deletion_keeps_counts(journal: Journal, fake_time: FakeTime) -> None:
    """Deleting ended operations changes neither counts nor throughput."""
    journal.write(
        make_change_set(*_build_mixed(), batches=[batch_info(total=10)], resources={"r1": resource_use()})
    )
    fake_time.pass_(10.0)
    before = journal.batch("thumbnails")
    assert before is not None
    for number in (1, 3, 5, 6, 7):
        journal.delete(f"o{number}")
    after = journal.batch("thumbnails")
    assert after is not None
    assert after == replace(before, failed=after.failed)
    assert [operation.operation_id for operation in after.failed] == ["o4"]


def test_declaration_with_invalid_values_is_sanitized(journal: Journal) -> None:
    """The rest of the change set is stored."""
    journal.write(
        make_change_set(
            snapshot(current=3), batches=[batch_info("b\ud800", name="n\udfff", total=2**70), batch_info()]
        )
    )
    assert {found.id for found in journal.batches()} == {"b\\ud800", "thumbnails"}
    odd = journal.batch("b\ud800")
    assert odd is not None
    assert (odd.name, odd.total) == ("n\\udfff", None)
    found = journal.get("friday-42")
    assert found is not None
    assert found.root.current == 3
    assert found.clock == CLOCK
