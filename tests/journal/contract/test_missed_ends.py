"""Operations that end before a first poll, or between two watches."""

from __future__ import annotations

from collections.abc import Callable

from otel_progress.journal import Journal
from otel_progress.missed_ends import MissedEnds
from tests.support.factories import ended, make_change_set, snapshot

Opener = Callable[..., Journal]


def test_watch_of_a_missing_journal_yields_operations_that_have_ended(
    open_another: Opener, backend: str
) -> None:
    """They started and ended between two polls."""
    options = {"missing_ok": True} if backend == "sqlite" else {}
    reader = open_another(read_only=True, **options)
    watch = reader.watch()
    assert list(next(watch)) == []
    open_another().write(make_change_set(ended(), snapshot(operation_id="b", run="b", id="b")))
    assert {operation.run for operation in next(watch)} == {"run-1", "b"}
    assert list(next(watch)) == []
    watch.close()  # type: ignore[attr-defined]


def test_missed_ends_are_those_that_no_watch_has_yielded(journal: Journal) -> None:
    """Neither those that ended before the first watch."""
    journal.write(make_change_set(ended(operation_id="old", run="old", id="old")))
    missed = MissedEnds(journal)
    missed.start()
    journal.write(make_change_set(ended(operation_id="seen", run="seen", id="seen")))
    missed.add(journal.history())
    journal.write(make_change_set(ended(operation_id="lost", run="lost", id="lost")))
    missed.start()
    assert [operation.run for operation in missed.find()] == ["lost"]
    assert missed.find() == []
