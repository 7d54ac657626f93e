"""Batches in a journal: many operations as one, declared or not, also when the operations are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from otel_progress.journal import Journal
from otel_progress.model import LevelSnapshot, Status
from otel_progress.protocols import BatchQuery
from tests.support.factories import CLOCK, WALL, batch, batch_info, ended, resource_use, snapshot
from tests.support.fake_time import FakeTime


def _one(number: int, **fields: object) -> LevelSnapshot:
    return snapshot(operation_id=f"o{number}", run=f"r{number}", batch="thumbnails", **fields)


def _done(number: int, **fields: object) -> LevelSnapshot:
    return ended(
        operation_id=f"o{number}",
        run=f"r{number}",
        batch="thumbnails",
        **{"ended_at": WALL + number, **fields},
    )


def _mixed() -> list[LevelSnapshot]:
    failed = [_done(n, status=Status.FAILED) for n in (3, 4)]
    others = [_done(5, status=Status.CANCELLED), _done(6, status=Status.SKIPPED)]
    return [_done(1), _done(2), *failed, *others, _one(7, ratio=0.5), _one(8, status=Status.PENDING)]


def test_a_batch_counts_its_operations(open_another: Callable[..., Journal], fake_time: FakeTime) -> None:
    """Counts by status, ratio, and the active and failed ones, newest first; other operations are not in it."""
    journal = open_another()
    journal.write(
        batch(*_mixed(), snapshot(), ended(operation_id="x", run="x"), batches=[batch_info(total=10)])
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


def test_operations_of_several_processes_make_one_batch(open_another: Callable[..., Journal]) -> None:
    """Whoever writes an operation with the id adds to the batch; its end is counted once, also when it is told again."""
    one, other = open_another(), open_another()
    one.write(batch(_one(1), batches=[batch_info(total=2)]))
    other.write(batch(_one(2)))
    one.write(batch(_done(1, sequence=2)))
    for sequence in (2, 3):
        other.write(batch(_done(2, sequence=sequence)))
    found = one.batch("thumbnails")
    assert found is not None
    assert (found.counts[Status.COMPLETED], found.is_finished, found.status) == (2, True, Status.COMPLETED)


def test_a_batch_that_nobody_declared_is_known_by_its_operations(journal: Journal) -> None:
    """Its name is its id, its total unknown, and it began with its first operation; a declaration names it later."""
    journal.write(batch(_one(2, started_at=WALL + 50)))
    journal.write(batch(_one(1, started_at=WALL + 20), _done(3, started_at=None, observed_at=WALL + 90)))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.name, found.total, found.ratio, found.started_at) == ("thumbnails", None, None, WALL + 20)
    journal.write(batch(batches=[batch_info(started_at=WALL + 60)]))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.name, found.total, found.counts[Status.RUNNING]) == ("Name of thumbnails", 5, 2)


@pytest.mark.parametrize("backwards", [False, True])
def test_declarations_merge_by_their_sequence(journal: Journal, backwards: bool) -> None:
    """The newest wins where it says something, in whatever order declarations come."""
    infos = [batch_info(sequence=1, name="old", total=7), batch_info(sequence=2, name="new", total=None)]
    for info in reversed(infos) if backwards else infos:
        journal.write(batch(batches=[info]))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.name, found.total) == ("new", 7)
    journal.write(batch(batches=[replace(infos[1], sequence=3, ended_at=WALL + 9)]))
    found = journal.batch("thumbnails")
    assert found is not None
    assert (found.is_finished, found.ended_at) == (True, WALL + 9)


def test_batches_that_are_not_over_come_first_then_the_newest(journal: Journal) -> None:
    """A closed batch with something running in it is not over; one whose total has ended is."""
    infos = [
        batch_info("closed", started_at=WALL + 4, ended_at=WALL + 5),
        batch_info("open", started_at=WALL + 1),
        batch_info("closing", started_at=WALL, ended_at=WALL + 5),
        batch_info("done", started_at=WALL + 2, total=1),
    ]
    running = snapshot(operation_id="a", run="a", batch="closing")
    journal.write(batch(running, ended(operation_id="b", run="b", batch="done"), batches=infos))
    assert [found.id for found in journal.batches()] == ["open", "closing", "closed", "done"]
    assert [found.is_finished for found in journal.batches()] == [False, False, True, True]
    assert [found.id for found in journal.batches(BatchQuery(limit=1))] == ["open"]
    assert list(journal.batches(BatchQuery(limit=0))) == []


def test_lists_are_short_and_counts_are_whole(journal: Journal) -> None:
    """Of very many operations the newest 100 are listed, and all are counted, with their ratios."""
    active = [_one(number, ratio=0.25) for number in range(240)]
    failed = [_done(number, status=Status.FAILED) for number in range(1000, 1130)]
    journal.write(batch(*active, *failed, batches=[batch_info(total=500)]))
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


def test_deleted_operations_stay_counted(journal: Journal, fake_time: FakeTime) -> None:
    """Who forgets what ended does not undo it: counts and pace of the batch stay."""
    journal.write(batch(*_mixed(), batches=[batch_info(total=10)], resources={"r1": resource_use()}))
    fake_time.pass_(10.0)
    before = journal.batch("thumbnails")
    assert before is not None
    for number in (1, 3, 5, 6, 7):
        journal.delete(f"o{number}")
    after = journal.batch("thumbnails")
    assert after is not None
    assert after == replace(before, failed=after.failed)
    assert [operation.operation_id for operation in after.failed] == ["o4"]


def test_hostile_declarations_cost_only_themselves(journal: Journal) -> None:
    """Half a surrogate pair or a number past 64 bits changes one value; the work that comes with it is kept."""
    journal.write(
        batch(snapshot(current=3), batches=[batch_info("b\ud800", name="n\udfff", total=2**70), batch_info()])
    )
    assert {found.id for found in journal.batches()} == {"b\\ud800", "thumbnails"}
    odd = journal.batch("b\ud800")
    assert odd is not None
    assert (odd.name, odd.total) == ("n\\udfff", None)
    found = journal.get("friday-42")
    assert found is not None
    assert found.root.current == 3
    assert found.clock == CLOCK
