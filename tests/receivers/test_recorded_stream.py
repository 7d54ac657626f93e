"""The shuffled and thinned stream of a real process ends in its state."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.journal import SqliteJournal
from otel_progress.model import LevelSnapshot
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.receivers.receiver import Receiver
from otel_progress.records import LogRecord
from otel_progress.testing import WALL, Recorder, recording
from tests.support.otlp_receiver import attributes, receiving
from tests.support.otlp_requests import build_attributes

pytestmark = pytest.mark.server

ScopedRecord: TypeAlias = tuple[dict[str, Any], str, Any]
"""Attributes of the resource, name of the scope, and log record."""

FLUSH_S = 60.0
SEEDS = range(12)
LOGGER = logging.getLogger("recorded_stream")
LOGGER.setLevel(logging.INFO)
STAGES = {"load": 1, "mix": 6.5, "encode": 2, "upload": 0.5}
IDS = ("friday-42", "saturday-1", "sunday-3", "monday-1", "monday-2")
ITEMS = ("a.wav", "b.wav", "c.wav")


def work(recorder: Recorder) -> list[progress.Level]:
    """Run operations with levels that start again, fail, and end within one tick.

    Return the handles of those that run.
    """
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
                    export(recorder)  # else the first attempt may be superseded before its export
            setlist.increment()
            recorder.clock.advance(1.1)
            recorder.tick()
    recorder.tick()
    running = render(recorder)
    with pytest.raises(ValueError, match="no such song"):
        fail(recorder)
    sunday = progress.operation("setlist", id="sunday-3", total=10).start()
    sunday.increment(4)
    recorder.clock.advance(3.0)
    recorder.tick()
    return [*running, sunday]


def render(recorder: Recorder) -> list[progress.Level]:
    """Run operations with stages, and return the handles of those that run.

    One operation ends, and the other one is paused in its second stage.
    """
    for id_ in ("monday-1", "monday-2"):
        operation = progress.operation("render", id=id_, stages=STAGES).start()
        recorder.tick()
        with operation.stage("load") as load:
            load.set_total(4)
            load.increment(3)
            LOGGER.info("loaded %s", id_, extra={"size": 3})
            recorder.clock.advance(2.0)
            export(recorder)
            with operation.paused("waiting for the disk"):
                recorder.clock.advance(3.0)
                export(recorder)
            load.increment(1)
        mix = operation.stage("mix").start()
        mix.set_total(10)
        with mix.level("song", id="1", total=2, weight=4) as song:
            recorder.clock.advance(1.5)
            song.increment(2)
            LOGGER.warning("too loud password=hunter2")
            log_error()
        export(recorder)
        if id_ == "monday-1":
            operation.complete()
        else:
            with operation.opaque(expected=100.0):
                recorder.clock.advance(7.0)
                export(recorder)
            operation.paused("waiting for a license").__enter__()
            recorder.clock.advance(4.0)
            export(recorder)
        recorder.tick()
    return [operation, mix]


def export(recorder: Recorder) -> None:
    """Tick, and export before the next change."""
    recorder.tick()
    assert recorder.runtime.force_flush(FLUSH_S)


def log_error() -> None:
    """Log an error with its traceback."""
    try:
        msg = "no such song"
        raise ValueError(msg)
    except ValueError:
        LOGGER.exception("not mixed")


def fail(recorder: Recorder) -> None:
    """Run an operation that fails."""
    with progress.operation("setlist", id="saturday-1"):
        recorder.clock.advance(2.0)
        recorder.tick()
        msg = "no such song"
        raise ValueError(msg)


@dataclass
class Recorded:
    """Operations of a process, its exported records, its items and its logs."""

    operations: dict[str, OperationSnapshot]
    records: list[ScopedRecord]
    items: dict[str, list[str]]
    logs: dict[str, list[tuple[object, ...]]]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """The exports of :func:`work`."""
    with pytest.MonkeyPatch.context() as patch, receiving() as received:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{received.port}")
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        patch.setenv("no_proxy", "*")
        with recording(otlp=True, capture_logs=True) as recorder:
            running = work(recorder)
            assert recorder.runtime.force_flush(FLUSH_S)
            runtime = recorder.runtime
            operations = {id_: recorder.operation(id_) for id_ in IDS}
            items = {id_: sorted(map(describe_item, runtime.get_events(id_))) for id_ in IDS}
            logs = {id_: sorted(map(describe_log, runtime.get_logs(id_))) for id_ in IDS}
            records = received.scoped_records()
            del running
    return Recorded(operations, records, items, logs)


def describe_item(event: Event) -> str:
    """Return the values of an item."""
    return f"{event.path} {event.name} {event.outcome} {event.at}"


def describe_log(record: LogRecord) -> tuple[object, ...]:
    """Return the values of a log record that its export states."""
    return (
        (record.operation_type, record.run, record.path, round(record.at - WALL, 5)),
        (record.severity, record.severity_text, record.logger, record.message, record.details),
        (record.trace_id, record.span_id, sorted(record.attributes.items())),
    )


def describe(level: LevelSnapshot) -> tuple[object, ...]:
    """Return the values of a level that its events state."""
    info, error = level.info, level.error
    paused_s = None if level.paused_clock is None else level.observed_clock - level.paused_clock
    pause = None if paused_s is None else level.observed_at - paused_s
    return (
        (info.run, info.type, info.id, info.name, info.unit, info.attempt, info.trace_id, info.span_id),
        (level.status, level.current, level.total, level.failed, level.skipped, level.message),
        None if level.ratio is None else round(level.ratio, 9),
        None if error is None else (error.type, error.message),
        None if info.started_at is None else round(info.started_at - WALL, 5),
        None if level.ended_at is None else round(level.ended_at - WALL, 5),
        None if level.duration_s is None else round(level.duration_s, 5),
        (info.weight, info.declared, info.order if info.path else 0, level.stage, level.estimated),
        (round(level.paused_s, 5), pause and round(pause - WALL, 5), level.failed_below, level.completed),
    )


def build_request(record: ScopedRecord) -> bytes:
    """Return a request with one record."""
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(build_attributes(record[0]))
    scope = group.scope_logs.add()
    scope.scope.name = record[1]
    scope.log_records.add().CopyFrom(record[2])
    return request.SerializeToString()


def find_superseded(records: list[ScopedRecord]) -> list[int]:
    """Return the indexes of records after which a later one states the same level."""
    last: dict[object, int] = {}
    states = []
    for index, (_, _, record) in enumerate(records):
        values = attributes(record)
        if record.event_name in {semconv.EVENT_STARTED, semconv.EVENT_UPDATED, semconv.EVENT_FINISHED}:
            states.append(index)
            last[values[semconv.RUN], values[semconv.PATH]] = index
    return sorted(set(states) - set(last.values()))


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_repeated_and_thinned_stream_equals_the_process(
    recorded: Recorded,
    tmp_path: Path,
    seed: int,
) -> None:
    """Only records that a later one supersedes are lost.

    The operations have stages, pauses and log records.
    """
    operations, records = recorded.operations, recorded.records
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
        assert merged.is_paused == operation.is_paused
        assert not (merged.is_paused and (merged.eta or merged.rate_seconds_of(merged.root)))
        assert sorted(map(describe_item, journal.events(id_))) == recorded.items[id_]
        assert sorted(map(describe_log, journal.logs(id_))) == recorded.logs[id_]
    assert [id_ for id_, operation in operations.items() if operation.is_paused] == ["monday-2"]
    assert [len(recorded.logs[id_]) for id_ in IDS] == [0, 0, 0, 3, 3]
    journal.close()
