"""The history of a journal, page by page."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from otel_progress.journal import Journal, SqliteJournal
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite.reader import read_history
from otel_progress.protocols import HistoryQuery
from tests.support.factories import WALL, batch, ended, snapshot


def _write(journal: Journal, count: int) -> list[str]:
    """Write runs of which many ended at one moment; return them in the order of the history."""
    chance = random.Random(1)
    ends = [(WALL + chance.randint(0, 20), f"r-{number}", number % 2) for number in range(count)]
    roots = [
        ended(run=run, operation_id=run, operation_type=f"type{parity}", ended_at=end)
        for end, run, parity in ends
    ]
    journal.write(batch(snapshot(), *roots))
    return [run for _, run, _ in sorted(ends, reverse=True)]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_pages_neither_overlap_nor_leave_gaps(journal: Journal, size: int) -> None:
    """Each page goes on after the last one of the page before, also among many that ended at one moment."""
    expected = _write(journal, 200)
    found: list[str] = []
    before = None
    while page := journal.history(HistoryQuery(limit=size, before=before)):
        found += (operation.run for operation in page)
        before = page[-1].root.ended_at, page[-1].run
    assert found == expected


def test_pages_of_one_type_and_since_a_moment(journal: Journal) -> None:
    """Filters and the page's start go together."""
    _write(journal, 100)
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


def test_a_row_that_does_not_decode_does_not_end_the_pages(
    open_another: Callable[..., SqliteJournal],
) -> None:
    """A page is full as long as there is something for it."""
    journal = open_another()
    expected = _write(journal, 30)
    with journal._writing.transaction("IMMEDIATE") as connection:
        for run in expected[2:9]:
            key = "SELECT l.key FROM levels l JOIN operations o ON o.key = l.operation WHERE o.run = ?"
            connection.execute(f"UPDATE states SET status = 'exploded' WHERE level = ({key})", (run,))
    assert [operation.run for operation in journal.history(HistoryQuery(limit=5))] == [
        *expected[:2],
        *expected[9:12],
    ]


def test_a_page_reads_no_more_than_itself(open_another: Callable[..., SqliteJournal]) -> None:
    """The history is read along an index, whatever the filters: it is neither scanned nor sorted."""
    journal = open_another()
    _write(journal, 50)
    for query in [
        HistoryQuery(limit=5),
        HistoryQuery("type1", limit=5),
        HistoryQuery(limit=5, before=(WALL, "x"), since=WALL),
        HistoryQuery("type0", limit=5, before=(WALL, "x"), since=WALL),
    ]:
        with journal._reading.transaction("DEFERRED") as connection:
            asked: list[str] = []
            connection.set_trace_callback(asked.append)
            read_history(connection, query, ReadTime(WALL, 0.0))
            connection.set_trace_callback(None)
            (page, *_) = [sql for sql in asked if "ORDER BY o.finished_at" in sql]
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {page}"))
        assert "USING" in plan
        assert "operations_finished" in plan
        assert "TEMP B-TREE" not in plan
