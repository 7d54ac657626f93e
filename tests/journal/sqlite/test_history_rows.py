"""Pages of the history of an SQLite journal."""

from __future__ import annotations

import random
from collections.abc import Callable

from otel_progress.journal import Journal, SqliteJournal
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite.reader import read_history
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


def test_history_page_with_invalid_row_is_full(
    open_another: Callable[..., SqliteJournal],
) -> None:
    """Reading continues behind rows that cannot be decoded."""
    journal = open_another()
    expected = _write_ended_runs(journal, 30)
    with journal._writing.transaction("IMMEDIATE") as connection:
        for run in expected[2:9]:
            key = "SELECT l.key FROM levels l JOIN operations o ON o.key = l.operation WHERE o.run = ?"
            connection.execute(f"UPDATE states SET status = 'exploded' WHERE level = ({key})", (run,))
    assert [operation.run for operation in journal.history(HistoryQuery(limit=5))] == [
        *expected[:2],
        *expected[9:12],
    ]


def test_history_page_with_any_filter_uses_an_index(open_another: Callable[..., SqliteJournal]) -> None:
    """The history is neither scanned nor sorted."""
    journal = open_another()
    _write_ended_runs(journal, 50)
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
