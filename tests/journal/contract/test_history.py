"""Pages of the history of a journal."""

from __future__ import annotations

import random

import pytest

from otel_progress.journal import Journal
from otel_progress.protocols import HistoryQuery
from tests.support.factories import WALL, ended, make_change_set, snapshot


def _write_ended_runs(journal: Journal, count: int) -> list[str]:
    """Write ended runs, and return them in the order of the history.

    Many of them end at one time.
    """
    chance = random.Random(1)
    ends = [(WALL + chance.randint(0, 20), f"r-{number}", number % 2) for number in range(count)]
    roots = [
        ended(run=run, operation_id=run, operation_type=f"type{parity}", ended_at=end)
        for end, run, parity in ends
    ]
    journal.write(make_change_set(snapshot(), *roots))
    return [run for _, run, _ in sorted(ends, reverse=True)]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_history_pages_of_equal_ends_neither_overlap_nor_leave_gaps(journal: Journal, size: int) -> None:
    """Each page continues after the last operation of the previous one."""
    expected = _write_ended_runs(journal, 200)
    found: list[str] = []
    before = None
    while page := journal.history(HistoryQuery(limit=size, before=before)):
        found += (operation.run for operation in page)
        before = page[-1].root.ended_at, page[-1].run
    assert found == expected


def test_history_page_with_type_and_since_is_filtered(journal: Journal) -> None:
    """Filters and cursor are combined."""
    _write_ended_runs(journal, 100)
    every = journal.history(HistoryQuery("type1", limit=1000))
    assert len(every) == 50
    assert {operation.operation_type for operation in every} == {"type1"}
    start = every[9]
    assert start.root.ended_at is not None
    assert [
        one.run for one in journal.history(HistoryQuery("type1", before=(start.root.ended_at, start.run)))
    ] == [one.run for one in every[10:]]
    late = journal.history(HistoryQuery(limit=1000, since=WALL + 15))
    assert {one.root.ended_at for one in late} == {WALL + second for second in range(15, 21)}
    assert (
        list(journal.history(HistoryQuery(since=WALL + 21)))
        == list(journal.history(HistoryQuery(limit=-1)))
        == []
    )
