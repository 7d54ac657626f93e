"""Filter semantics of every Reader: live store, journal, and both combined."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress import Level, Outcome
from otel_progress.protocols import (
    EventQuery,
    HistoryQuery,
    LogQuery,
    PreviewQuery,
    Reader,
    ResourceQuery,
)
from otel_progress.records import LogRecord, Preview, ResourceSample
from otel_progress.testing import Recorder, recording
from tests.support.redis_servers import RedisServer, create_name, running_redis

Row: TypeAlias = "tuple[Any, ...]"
"""Fields of a record that filters select by; the first one orders the records."""

PATHS = ("", "song:1", "song:1/verse:1", "song:1/verse:10", "song:10", "song:2")
STEPS = 60
"""Records of each kind. The first half is flushed to the journal, the other half is only live."""
READERS = ("live", "journal", "composite")
STORES = ("sqlite", pytest.param("redis", marks=pytest.mark.server))

# Why suppressed: examples only read, so they may share the fixture.
reads_only = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
path_filters = st.none() | st.sampled_from((*PATHS, "song", "song:3"))
limits = st.integers(-1, STEPS + 2)
numbers = st.integers(0, STEPS + 1)
seconds = st.sampled_from([step / 2 for step in range(-1, 2 * STEPS + 2)])
"""Offsets to the start of the work: on the times of records, and between them."""


class Model:
    """Written records of each kind, and the readers of them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.start = recorder.clock.wall()
        self.rows: dict[str, list[Row]] = {
            kind: [] for kind in ("events", "logs", "previews", "resources", "history")
        }
        runtime = recorder.runtime
        assert runtime._components.journal is not None
        self.readers: Mapping[str, Reader] = {
            "live": runtime._store.reader,
            "journal": runtime._components.journal,
            "composite": runtime.reader,
        }

    def get_rows(self, kind: str, reader: str) -> Sequence[Row]:
        """Return the rows that a reader has. The journal has only flushed ones."""
        rows = self.rows[kind]
        return rows[: STEPS // 2] if reader == "journal" else rows

    def write_step(self, number: int, level: Level, chosen: random.Random) -> None:
        """Write one record of each kind for a level."""
        store, clock, node = self.recorder.runtime._store, self.recorder.clock, level._node  # type: ignore[attr-defined]
        clock.advance(1.0)
        at, path = clock.wall(), node.path
        outcome = chosen.choice([Outcome.COMPLETED, Outcome.FAILED, Outcome.SKIPPED])
        level.item(f"item {number}", outcome=outcome.value)
        self.rows["events"].append((number, path, outcome, at))
        severity = chosen.choice([10, 20, 25, 30, 40, 50])
        names = (node.operation.id, node.operation.type, node.operation.run, path, number, at)
        store.add_log(node, LogRecord(*names, severity, "TEXT", "logger", "message"))
        self.rows["logs"].append((number, path, severity, at))
        store.add_preview(node, Preview(*names, "name", "text/plain", 1, "digest", f"memory:/{number}"))
        self.rows["previews"].append((number, path))
        store.add_sample(ResourceSample(at, clock.monotonic(), 0.5, 1000))
        self.rows["resources"].append((clock.monotonic(), at))
        with progress.operation(chosen.choice(["a", "b"]), id=f"ended {number}"):
            pass
        snapshot = self.recorder.operation(f"ended {number}").root
        self.rows["history"].append((snapshot.ended_at, snapshot.info.run, snapshot.info.operation_type))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server. Each test uses another journal."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty journal."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/progress.db"
    return f"{request.getfixturevalue('redis_server').url}?name={create_name()}"


@pytest.fixture
def model(store: str) -> Iterator[Model]:
    """A running operation whose first records are flushed to a journal."""
    chosen = random.Random(20)
    with (
        recording(store=store) as recorder,
        progress.operation("job", id="job") as operation,
    ):
        model = Model(recorder)
        levels = {"": operation}
        for below in PATHS[1:]:
            parent, _, segment = below.rpartition("/")
            type_, _, id_ = segment.partition(":")
            levels[below] = levels[parent].level(type_, id_).start()
        for number in range(1, STEPS + 1):
            model.write_step(number, levels[chosen.choice(PATHS)], chosen)
            # Why in each step: a change set has only the last resource sample.
            if number <= STEPS // 2:
                assert recorder.runtime.force_flush(60.0)
        yield model
        for level in reversed(list(levels.values())[1:]):
            level.complete()


def _is_in_subtree(path: str, subtree: str | None) -> bool:
    return not subtree or f"{path}/".startswith(f"{subtree}/")


def _get_newest(rows: Sequence[Row], limit: int) -> list[Any]:
    return [row[0] for row in rows[max(0, len(rows) - max(0, limit)) :]]


@pytest.mark.parametrize("reader", READERS)
@reads_only
@given(
    path=path_filters,
    outcome=st.none() | st.sampled_from(Outcome),
    since=st.none() | seconds,
    max_number=st.none() | numbers,
    limit=limits,
)
def test_event_query_returns_newest_matching_events(
    model: Model,
    reader: str,
    path: str | None,
    outcome: Outcome | None,
    since: float | None,
    max_number: int | None,
    limit: int,
) -> None:
    """Events are filtered by path, outcome, time and number."""
    start = None if since is None else model.start + since
    matching = [
        row
        for row in model.get_rows("events", reader)
        if _is_in_subtree(row[1], path)
        and outcome in (None, row[2])
        and (start is None or row[3] >= start)
        and (max_number is None or row[0] <= max_number)
    ]
    found = model.readers[reader].events("job", EventQuery(path, outcome, start, max_number, limit))
    assert [event.number for event in found] == _get_newest(matching, limit)


@pytest.mark.parametrize("reader", READERS)
@reads_only
@given(
    path=path_filters,
    severity=st.sampled_from([0, 10, 11, 25, 30, 50, 51]),
    since=st.none() | seconds,
    after=numbers,
    max_number=st.none() | numbers,
    limit=limits,
)
def test_log_query_returns_newest_matching_records(
    model: Model,
    reader: str,
    path: str | None,
    severity: int,
    since: float | None,
    after: int,
    max_number: int | None,
    limit: int,
) -> None:
    """Log records are filtered by path, severity, time and number."""
    start = None if since is None else model.start + since
    matching = [
        row
        for row in model.get_rows("logs", reader)
        if _is_in_subtree(row[1], path)
        and row[2] >= severity
        and (start is None or row[3] >= start)
        and row[0] > after
        and (max_number is None or row[0] <= max_number)
    ]
    found = model.readers[reader].logs("job", LogQuery(path, severity, start, after, max_number, limit))
    assert [record.number for record in found] == _get_newest(matching, limit)


@pytest.mark.parametrize("reader", READERS)
@reads_only
@given(path=path_filters, max_number=st.none() | numbers, limit=limits)
def test_preview_query_returns_newest_matching_previews(
    model: Model, reader: str, path: str | None, max_number: int | None, limit: int
) -> None:
    """Previews are filtered by path and number."""
    matching = [
        row
        for row in model.get_rows("previews", reader)
        if _is_in_subtree(row[1], path) and (max_number is None or row[0] <= max_number)
    ]
    found = model.readers[reader].previews("job", PreviewQuery(path, max_number, limit))
    assert [preview.number for preview in found] == _get_newest(matching, limit)


@pytest.mark.parametrize("reader", READERS)
@reads_only
@given(since=st.none() | seconds, max_clock=st.none() | seconds, limit=limits)
def test_resource_query_returns_newest_matching_samples(
    model: Model, reader: str, since: float | None, max_clock: float | None, limit: int
) -> None:
    """Resource samples are filtered by both clocks."""
    start = None if since is None else model.start + since
    rows = model.get_rows("resources", reader)
    latest = None if max_clock is None else model.rows["resources"][0][0] - 1.0 + max_clock
    matching = [
        row for row in rows if (start is None or row[1] >= start) and (latest is None or row[0] <= latest)
    ]
    found = model.readers[reader].resources("job", ResourceQuery(start, latest, limit))
    assert [sample.clock for sample in found] == _get_newest(matching, limit)


@pytest.mark.parametrize("reader", READERS)
@reads_only
@given(
    operation_type=st.sampled_from([None, "a", "b", "c"]),
    before=st.none() | st.tuples(seconds, st.sampled_from(["", "~"])) | st.integers(0, STEPS // 2 - 1),
    since=st.none() | seconds,
    limit=limits,
)
def test_history_query_returns_last_ended_operations_first(
    model: Model,
    reader: str,
    operation_type: str | None,
    before: tuple[float, str] | int | None,
    since: float | None,
    limit: int,
) -> None:
    """Ended operations are filtered by type, time and cursor."""
    start = None if since is None else model.start + since
    place: tuple[float, str] | None = None
    if isinstance(before, int):
        place = model.rows["history"][before][:2]
    elif before is not None:
        place = model.start + before[0], before[1]
    matching = [
        row
        for row in sorted(model.get_rows("history", reader), reverse=True)
        if operation_type in (None, row[2])
        and (start is None or row[0] >= start)
        and (place is None or row[:2] < place)
    ]
    found = model.readers[reader].history(HistoryQuery(operation_type, limit, place, start))
    assert [operation.run for operation in found] == [row[1] for row in matching[: max(0, limit)]]


@pytest.mark.parametrize("reader", READERS)
def test_query_with_numbers_beyond_64_bits_is_limited(model: Model, reader: str) -> None:
    """Every Reader accepts them, although SQLite cannot store them."""
    events = EventQuery(max_number=2**70, limit=2**70)
    logs = LogQuery(severity=-1, after=-1, max_number=2**70, limit=2**70)
    expected = [row[0] for row in model.get_rows("events", reader)]
    assert [event.number for event in model.readers[reader].events("job", events)] == expected
    assert [record.number for record in model.readers[reader].logs("job", logs)] == expected


def test_facade_with_keywords_equals_query(model: Model) -> None:
    """The facade builds a query of its keyword arguments, and rejects both at once."""
    facade: Any = model.recorder.runtime.reader
    queries = {
        "events": EventQuery("song:1", Outcome.FAILED, model.start + 5, 50, 3),
        "logs": LogQuery("song:1", 20, model.start + 5, 3, 50, 4),
        "resources": ResourceQuery(model.start + 5, None, 2),
        "previews": PreviewQuery("song:1", 50, 3),
    }
    for method, query in queries.items():
        by_keywords = getattr(facade, method)("job", **asdict(query))
        assert by_keywords == getattr(facade, method)("job", query)
        assert by_keywords
    assert facade.history(operation_type="a", limit=3) == facade.history(HistoryQuery("a", 3))
    with pytest.raises(TypeError, match="not both"):
        facade.events("job", EventQuery(), path="song:1")
