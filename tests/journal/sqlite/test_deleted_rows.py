"""Rows of deleted runs in an SQLite journal."""

from __future__ import annotations

from collections.abc import Callable

from otel_progress.journal import SqliteJournal
from tests.support.factories import ended, event, instance, log, make_change_set, resource_use, snapshot


def test_late_records_of_deleted_run_have_no_orphans(open_another: Callable[..., SqliteJournal]) -> None:
    """A child process that still logs leaves no rows that cannot be deleted."""
    parent, child = open_another(), open_another()
    helper = instance("child")
    parent.write(make_change_set(snapshot()))
    child.write(make_change_set(snapshot("song:1", instance="child"), instance=helper))
    parent.write(make_change_set(ended(sequence=9)))
    assert parent.delete("friday-42") == 1
    child.write(
        make_change_set(
            logs=[log(1, "song:1")], events=[event(1)], resources={"run-1": resource_use()}, instance=helper
        )
    )
    with parent._reading.acquire() as connection:
        for table in ("logs", "events", "uses"):
            orphans = f"SELECT count(*) FROM {table} WHERE operation NOT IN (SELECT key FROM operations)"
            assert connection.execute(orphans).fetchone() == (0,)
    assert list(parent.active()) == list(parent.history()) == []
