"""Rows of other programs with invalid values."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from otel_progress import codec
from otel_progress.journal import SqliteJournal
from otel_progress.model import Eta
from tests.support.factories import (
    WALL,
    batch_info,
    ended,
    event,
    history_key,
    log,
    make_change_set,
    make_trajectory_entry,
    preview,
    resource_use,
    sample,
    snapshot,
)
from tests.support.fake_time import FakeTime


@pytest.fixture
def journal(path: Path, fake_time: FakeTime) -> Iterator[SqliteJournal]:
    """A journal with one of everything."""
    journal = SqliteJournal(path, now=fake_time.read_now, clock=fake_time.read_clock)
    eta = Eta(1.0, 1.0, 1.0, "steady", "rate", 1, 1.0, 1.0, 1.0)
    root = snapshot(
        ratio=0.5,
        total=2.0,
        advanced_at=1.0,
        advanced_clock=1.0,
        eta=eta,
        metadata={"gain": 1.5},
        batch="thumbnails",
        paused_clock=1.0,
    )
    levels = [snapshot("song:1"), ended("song:2")]
    records = [log(1), log(2, attributes={"gain": 1.5})]
    old = ended(operation_id="old", run="old", batch="thumbnails")
    journal.write(
        make_change_set(
            root,
            *levels,
            old,
            events=[event(1), event(2)],
            logs=records,
            sample=sample(),
            batches=[batch_info()],
        )
    )
    journal.write(make_change_set(trajectories=[make_trajectory_entry()], previews=[preview()]))
    journal.write(make_change_set(sample=sample(2.0), resources={"run-1": resource_use()}))
    journal.request_cancel("friday-42", "stop")
    yield journal
    journal.close()


def _encode_all_results(journal: SqliteJournal) -> dict[str, object]:
    """Return the results of all queries as JSON documents."""
    found = journal.get("friday-42")
    watch = journal.watch()
    views = [*([found] if found else []), *journal.active(), *journal.history(), *next(watch)]
    watch.close()
    documents = {
        "operations": [codec.encode_operation(view) for view in views],
        "events": [codec.encode_event(one) for one in journal.events("friday-42")],
        "logs": [codec.encode_log(one) for one in journal.logs("friday-42")],
        "samples": [codec.encode_sample(one) for one in journal.resources("friday-42")],
        "batches": [codec.encode_batch(one) for one in journal.batches()],
        "previews": [asdict(one) for one in journal.previews("friday-42")],
        "trajectories": [asdict(one) for one in journal.trajectories(history_key())],
    }
    return dict(json.loads(codec.dumps(documents)))


_COLUMNS = {
    "states": "current ratio observed_at observed_clock advanced_at advanced_clock stall_after_s "
    "total failed skipped ended_at",
    "instances": "started_at heartbeat_at heartbeat_clock",
    "operations": "recorded_at finished_at",
    "events": "at",
    "logs": "at",
    "samples": "cpu_ratio memory_bytes gpu_ratio at clock",
    "requests": "at",
    "batches": "started_at ended_at total failed last_end",
    "previews": "at size_bytes width height ratio",
    "trajectories": "at",
}


@pytest.mark.parametrize("value", ["9e999", "-9e999"])
@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, names in _COLUMNS.items() for column in names.split()]
)
def test_row_with_infinite_column_is_encoded_as_json(
    journal: SqliteJournal, table: str, column: str, value: str
) -> None:
    """Other rows stay readable."""
    with journal._writing.transaction("IMMEDIATE") as connection:
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = {value}")
    documents = _encode_all_results(journal)
    if table not in {"operations", "batches"}:
        assert {one["operation_id"] for one in documents["operations"]} >= {"friday-42", "old"}  # type: ignore[attr-defined]


_IN_TEXT = {
    ("states", "metadata"): '{"gain": 1.5, "bad": X, "list": [1, X], "deep": 1}',
    ("states", "eta"): '[X, X, 1.0, "steady", "rate", 1, 2.0, X, X]',
    ("states", "extra"): "[false, X, X, 1, X]",
    ("trajectories", "trajectory"): "[X, [0.0, 0.0, X, X], {}]",
    ("levels", "info"): None,
    ("logs", "attributes"): '{"bad": X}',
    ("events", "metadata"): '{"bad": X}',
    ("uses", "use"): "[1.0, 1.0, X, 1, X, null, 1, 0.1, 0.1, 0.1, 1, null, null, null]",
    ("batches", "ends"): "[X, 1.0]",
}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(("table", "column"), _IN_TEXT)
def test_json_column_with_invalid_number_is_unknown(
    journal: SqliteJournal, table: str, column: str, value: str
) -> None:
    """A record that requires the number is omitted."""
    text = _IN_TEXT[table, column]
    with journal._writing.transaction("IMMEDIATE") as connection:
        if text is None:
            connection.execute(
                "UPDATE levels SET info = replace(info, ?, ?)",
                (f'"started_at":{WALL}', f'"started_at":{value}'),
            )
        else:
            connection.execute(f"UPDATE {table} SET {column} = ?", (text.replace("X", value),))
    documents = _encode_all_results(journal)
    assert {one["operation_id"] for one in documents["operations"]} == {"friday-42", "old"}  # type: ignore[attr-defined]
    found = journal.get("friday-42")
    assert found is not None
    if column == "metadata" and table == "states":
        assert found.metadata == {"gain": 1.5, "deep": 1}
    if column == "eta":
        assert found.root.eta == Eta(None, None, 1.0, "steady", "rate", 1, 2.0)
    if column == "extra":
        assert (found.root.paused_clock, found.root.paused_s, found.root.overdue_after_s) == (None, 0.0, None)
    if column == "info":
        assert found.root.info.started_at is None
    if column == "use":
        assert found.resources is None


_STRANGE = {
    ("states", "extra"): [
        "",
        "[]",
        "{}",
        "7",
        "[1, 2, 3, 4, 5]",
        '[false, "a", 0.0, 1, null]',
        "[false, null, 0.0, 1.5, null]",
    ],
    ("states", "eta"): [
        '[1.0, 1.0, 1.0, "estimated", "rate", 1, 1.0, "soon", 1.0]',
        '[1.0, 1.0, 1.0, "a", "b", 1, 1.0, [], 1.0]',
    ],
    ("trajectories", "trajectory"): [
        "",
        "[]",
        "{}",
        "[1.0, [0.0], {}]",
        "[1.0, [5.0, 0.1, 4.0, 0.2], {}]",
        "[1.0, [0.0, 1.5], {}]",
        "[1.0, [0.0, -0.5], {}]",
        '["a", [], {}]',
        "[-1.0, [], {}]",
        "[1.0, [], []]",
        '[1.0, [], {"a": "b"}]',
        "[1.0, [true, true], {}]",
        "[1e400, [], {}]",
        f"[1.0, {[0.0] * 400}, {{}}]",
        f"[1{'0' * 400}, [], {{}}]",
        "[" * 100_000,
        f'[1.0, [], {{"{"a" * 1_000_000}": 1.0}}]',
    ],
    ("previews", "number"): ["1.5", "one"],
    ("previews", "at"): ["now"],
    ("previews", "size_bytes"): ["many"],
    ("previews", "width"): ["wide"],
    ("previews", "ratio"): ["half"],
}


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [(*where, value) for where, values in _STRANGE.items() for value in values],
    ids=lambda v: v[:40],
)
def test_invalid_record_decodes_to_none(journal: SqliteJournal, table: str, column: str, value: str) -> None:
    """No error is raised."""
    with journal._writing.transaction("IMMEDIATE") as connection, suppress(sqlite3.IntegrityError):
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
    documents = _encode_all_results(journal)
    if table != "states":
        assert documents[table] == []
    assert len(documents["events"]) == 2  # type: ignore[arg-type]


def test_row_with_blob_instead_of_text_is_omitted(journal: SqliteJournal) -> None:
    """Other records are returned."""
    with journal._writing.transaction("IMMEDIATE") as connection:
        connection.execute("UPDATE trajectories SET trajectory = x'ff00'")
        connection.execute("UPDATE previews SET location = x'ff00', name = x'ff'")
    assert list(journal.trajectories(history_key())) == list(journal.previews("friday-42")) == []
    assert journal.delete("old") == 1
    with journal._writing.transaction("IMMEDIATE") as connection:
        connection.execute("UPDATE operations SET finished_at = 1.0")
    assert journal.delete("friday-42") == 1
