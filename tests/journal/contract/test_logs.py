"""Log records in a journal."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_progress.journal import Journal, SqliteJournal
from otel_progress.journal.sqlite.writer import MAX_LOGS_PER_LEVEL, MAX_LOGS_PER_OPERATION
from otel_progress.protocols import EventQuery, HistoryQuery, LogQuery
from otel_progress.records import LogRecord
from tests.support.examples import scale_examples
from tests.support.factories import WALL, ended, instance, log, make_change_set, snapshot
from tests.support.strategies import METADATA, PATH, REAL, TEXT

RECORDS = st.lists(
    st.builds(
        log,
        number=st.integers(1, 2**63 - 1),
        path=st.just("") | PATH,
        at=REAL,
        severity=st.integers(0, 2**31),
        severity_text=TEXT,
        logger=TEXT,
        message=TEXT,
        details=st.none() | TEXT,
        attributes=METADATA,
        trace_id=st.none() | TEXT,
        span_id=st.none() | TEXT,
    ),
    unique_by=lambda record: record.number,
    max_size=8,
)


@settings(max_examples=scale_examples(40), suppress_health_check=[HealthCheck.too_slow])
@given(RECORDS)
def test_any_log_records_are_read_unchanged_by_number(written: list[LogRecord]) -> None:
    """Any text is stored."""
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(SqliteJournal(Path(directory, "j.db"), now=lambda: WALL)) as journal,
    ):
        journal.write(make_change_set(snapshot(), logs=written))
        assert list(journal.logs("friday-42")) == sorted(written, key=lambda record: record.number)


def test_logs_query_filters_by_path_severity_time_and_number(journal: Journal) -> None:
    """The newest records are returned, oldest first."""
    written = [
        log(1, "song:1", severity=10, severity_text="DEBUG"),
        log(
            2,
            "song:1/action:a",
            severity=40,
            severity_text="ERROR",
            details="Traceback",
            attributes={"take": 3},
        ),
        log(3, "song:10", severity=35),
        log(4, trace_id="0" * 32, span_id="1" * 16),
    ]
    journal.write(make_change_set(snapshot(), logs=written))

    def numbers(**filters: object) -> list[int]:
        return [record.number for record in journal.logs("friday-42", LogQuery(**filters))]

    assert list(journal.logs("friday-42")) == written
    assert numbers(path="song:1") == [1, 2]
    assert numbers(path="") == [1, 2, 3, 4]
    assert numbers(severity=35) == [2, 3]
    assert numbers(since=WALL + 3) == [3, 4]
    assert numbers(after=2) == [3, 4]
    assert numbers(limit=2) == [3, 4]
    assert numbers(limit=1, after=1) == [4]
    assert numbers(limit=0) == []
    assert numbers(path="song:1", severity=20, after=1) == [2]
    assert list(journal.logs("nobody")) == []


def test_logs_query_with_two_runs_returns_the_newest_run(journal: Journal) -> None:
    """Records of an earlier run are not included."""
    journal.write(make_change_set(ended(), logs=[log(1), log(2)]))
    journal.write(make_change_set(snapshot(run="run-2"), logs=[log(1, run="run-2", message="again")]))
    assert [record.message for record in journal.logs("friday-42")] == ["again"]


def test_log_records_of_processes_with_one_run_are_all_stored(open_another: Callable[..., Journal]) -> None:
    """Each process numbers its own records."""
    child, parent = open_another(), open_another()
    child.write(make_change_set(instance=instance("child"), logs=[log(1, "song:1", message="child")]))
    parent.write(make_change_set(snapshot(), logs=[log(1, message="parent")]))
    assert {record.message for record in parent.logs("friday-42")} == {"child", "parent"}


def test_log_record_written_twice_is_stored_once(journal: Journal) -> None:
    """A change set that is written again after an error duplicates no records."""
    journal.write(make_change_set(snapshot(), logs=[log(1), log(2)]))
    journal.write(make_change_set(logs=[log(2), log(3)]))
    assert [record.number for record in journal.logs("friday-42")] == [1, 2, 3]


@pytest.mark.parametrize("at_once", [True, False])
def test_log_limit_of_level_deletes_its_oldest_records(journal: Journal, at_once: bool) -> None:
    """Records of other levels are kept."""
    records = [log(number, "song:1") for number in range(2, MAX_LOGS_PER_LEVEL + 302)]
    journal.write(make_change_set(snapshot(), logs=[log(1, "song:2")]))
    for start in range(0, len(records), len(records) if at_once else 100):
        journal.write(make_change_set(logs=records[start:] if at_once else records[start : start + 100]))
    kept = [record.number for record in journal.logs("friday-42", LogQuery(limit=100_000))]
    assert kept == [1, *range(302, MAX_LOGS_PER_LEVEL + 302)]


def test_log_limit_of_operation_deletes_the_oldest_records(journal: Journal) -> None:
    """Many levels together reach the limit of the operation."""
    records = [log(number, f"song:{number % 20}") for number in range(1, MAX_LOGS_PER_OPERATION + 1_001)]
    journal.write(
        make_change_set(
            snapshot(), snapshot(operation_id="o2", run="r2"), logs=[log(operation_id="o2", run="r2")]
        )
    )
    for start in range(0, len(records), 2_500):
        journal.write(make_change_set(logs=records[start : start + 2_500]))
    kept = [record.number for record in journal.logs("friday-42", LogQuery(limit=100_000))]
    assert kept == list(range(1_001, MAX_LOGS_PER_OPERATION + 1_001))
    assert len(journal.logs("o2")) == 1


def test_log_record_with_invalid_values_is_sanitized(journal: Journal) -> None:
    """The rest of the change set is stored."""
    hostile = log(
        1,
        message="half \ud83d a pair\x00\x1b[31m",
        logger="\udcff",
        attributes={"nan": math.nan, "big": 10**30, "ok": "yes", "k\ud800": ("a\udfff",)},
    )
    journal.write(make_change_set(snapshot(current=4), logs=[hostile, log(2, at=math.inf), log(3)]))
    first, last = journal.logs("friday-42")
    assert first.message == "half \\ud83d a pair\x00\x1b[31m"
    assert first.attributes == {"big": 1e30, "ok": "yes", "k\\ud800": ("a\\udfff",)}
    assert last.number == 3
    assert journal.get("friday-42").root.current == 4  # type: ignore[union-attr]


def test_query_with_lone_surrogate_returns_nothing(journal: Journal) -> None:
    """Ids, paths and types that cannot be stored match nothing."""
    journal.write(make_change_set(snapshot(), logs=[log(1)]))
    half = "\ud800"
    assert (
        list(journal.logs("friday-42", LogQuery(path=half)))
        == list(journal.events("friday-42", EventQuery(path=half)))
        == []
    )
    assert (
        list(journal.logs(half))
        == list(journal.history(HistoryQuery(half)))
        == list(journal.resources(half))
        == []
    )
    assert (
        journal.get(half),
        journal.batch(half),
        journal.request_cancel(half, half),
        journal.delete(half),
    ) == (
        None,
        None,
        False,
        0,
    )
