"""The shuffled and thinned stream of a real process ends in its state."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.model import LevelSnapshot
from otel_progress.operations import OperationSnapshot
from otel_progress.receivers.receiver import Receiver
from otel_progress.testing import WALL, Recorder, recording
from tests.support.otlp_receiver import attributes, receiving
from tests.support.otlp_requests import build_attributes

pytestmark = pytest.mark.server

FLUSH_S = 60.0
SEEDS = range(12)
ITEMS = ("a.wav", "b.wav", "c.wav")


def work(recorder: Recorder) -> None:
    """Run operations with levels that start again, fail, and end within one tick."""
    with progress.operation("setlist", id="friday-42", total=3) as setlist:
        for number in range(3):
            attempts = 2 if number == 1 else 1
            for attempt in range(attempts):
                try:
                    with setlist.level("song", id=str(number), total=4, unit="stem") as song:
                        recorder.tick()
                        for name in ITEMS:
                            recorder.clock.advance(7.0)
                            song.item(name, outcome="failed" if name == ITEMS[number] else "completed")
                            song.update(message=f"mixing {name}")
                            recorder.tick()
                        with song.level("stem", id="short"):
                            pass
                        if attempt + 1 < attempts:
                            msg = "the disk is full"
                            raise OSError(msg)
                except OSError:
                    recorder.tick()
            setlist.increment()
            recorder.clock.advance(1.1)
            recorder.tick()
    recorder.tick()
    with pytest.raises(ValueError, match="no such song"):
        fail(recorder)
    running = progress.operation("setlist", id="sunday-3", total=10).start()
    running.increment(4)
    recorder.clock.advance(3.0)
    recorder.tick()


def fail(recorder: Recorder) -> None:
    """Run an operation that fails."""
    with progress.operation("setlist", id="saturday-1"):
        recorder.clock.advance(2.0)
        recorder.tick()
        msg = "no such song"
        raise ValueError(msg)


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, OperationSnapshot], list[tuple[dict[str, Any], Any]], dict[str, list[str]]]:
    """The operations of a process, the log records that it exported, and its items."""
    with pytest.MonkeyPatch.context() as patch, receiving() as received:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{received.port}")
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        patch.setenv("no_proxy", "*")
        with recording(otlp=True) as recorder:
            work(recorder)
            assert recorder.runtime.force_flush(FLUSH_S)
            ids = ("friday-42", "saturday-1", "sunday-3")
            operations = {id_: recorder.operation(id_) for id_ in ids}
            items = {id_: sorted(map(describe_item, recorder.runtime.get_events(id_))) for id_ in ids}
            records = received.records()
            recorder.operation("sunday-3")
    return operations, records, items


def describe_item(event: Any) -> str:
    """Return the values of an item."""
    return f"{event.path} {event.name} {event.outcome} {event.at}"


def describe(level: LevelSnapshot) -> tuple[object, ...]:
    """Return the values of a level that its events state."""
    info, error = level.info, level.error
    return (
        (info.run, info.type, info.id, info.name, info.unit, info.attempt, info.trace_id, info.span_id),
        (level.status, level.current, level.total, level.failed, level.skipped, level.message),
        None if level.ratio is None else round(level.ratio, 9),
        None if error is None else (error.type, error.message),
        None if info.started_at is None else round(info.started_at - WALL, 5),
        None if level.ended_at is None else round(level.ended_at - WALL, 5),
        None if level.duration_s is None else round(level.duration_s, 5),
    )


def build_request(record: tuple[dict[str, Any], Any]) -> bytes:
    """Return a request with one record."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(build_attributes(record[0]))
    group.scope_logs.add().log_records.add().CopyFrom(record[1])
    return request.SerializeToString()


def find_superseded(records: list[tuple[dict[str, Any], Any]]) -> list[int]:
    """Return the indexes of records after which a later one states the same level."""
    last: dict[object, int] = {}
    states = []
    for index, (_, record) in enumerate(records):
        values = attributes(record)
        if record.event_name in {semconv.EVENT_STARTED, semconv.EVENT_UPDATED, semconv.EVENT_FINISHED}:
            states.append(index)
            last[values[semconv.RUN], values[semconv.PATH]] = index
    return sorted(set(states) - set(last.values()))


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_repeated_and_thinned_stream_equals_the_process(
    recorded: tuple[dict[str, OperationSnapshot], list[tuple[dict[str, Any], Any]], dict[str, list[str]]],
    tmp_path: Path,
    seed: int,
) -> None:
    """Only records that a later one supersedes are lost."""
    operations, records, items = recorded
    order = random.Random(seed)
    superseded = find_superseded(records)
    assert len(superseded) > 10
    lost = set(order.sample(superseded, order.randrange(len(superseded))))
    arrived = [record for index, record in enumerate(records) if index not in lost]
    arrived += order.sample(arrived, len(arrived) // 2)
    order.shuffle(arrived)
    now = WALL + 60.0
    journal = SqliteJournal(tmp_path / "progress.db", now=lambda: now, clock=lambda: 60.0)
    receiver = Receiver(journal, wall=lambda: now)
    for record in arrived:
        assert receiver.receive_logs(build_request(record), "protobuf").rejected == 0
    for id_, operation in operations.items():
        merged = journal.get(id_)
        assert merged is not None
        expected = {found.path: describe(found) for found in (operation.root, *operation.levels)}
        assert {found.path: describe(found) for found in (merged.root, *merged.levels)} == expected
        assert sorted(map(describe_item, journal.events(id_))) == items[id_]
    journal.close()
