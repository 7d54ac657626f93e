"""Ends are sent again until the collector accepts them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from otel_progress import semconv
from otel_progress.otlp import sdk_compat
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.exporters import build_resource
from otel_progress.otlp.sdk_compat import build_event_log
from otel_progress.otlp.unconfirmed_ends import FIRST_RETRY_S, MAX_RETRY_S, UnconfirmedEnds
from tests.support.otlp_receiver import Receiver, receiving
from tests.support.otlp_records import WALL, ended, level

PATIENCE_S = 60.0


@dataclass
class Record:
    """A record of the SDK."""

    event_name: str
    number: int = 0


@dataclass
class Result:
    """Result of an export."""

    name: str


@dataclass
class UnreliableExporter:
    """An exporter of the SDK that fails while ``is_broken``."""

    exporter: Any
    is_broken: bool = True
    failed: threading.Event = field(default_factory=threading.Event)

    def export(self, batch: Any) -> Any:
        """Fail, or export the batch."""
        if self.is_broken:
            self.failed.set()
            return Result("FAILURE")
        return self.exporter.export(batch)

    def shutdown(self) -> None:
        """Close the exporter."""
        self.exporter.shutdown()


def end(number: int = 0) -> Record:
    """Return an end."""
    return Record(semconv.EVENT_FINISHED, number)


def make(sent: list[Any], **options: Any) -> UnconfirmedEnds:
    """Return a queue whose thread ends immediately, so that the test sends the ends."""

    def send(records: list[Any]) -> bool:
        sent.extend(records)
        return True

    return UnconfirmedEnds(send, **{"wait": lambda closed, seconds: True, **options})


def test_ends_of_a_failed_export_are_sent_after_a_successful_one() -> None:
    """Other events are replaced by later ones."""
    sent: list[Any] = []
    ends = make(sent)
    ends.handle_export([Record(semconv.EVENT_UPDATED), end(1)], accepted=False)
    assert (len(ends), sent) == (1, [])
    ends.handle_export([Record(semconv.EVENT_UPDATED)], accepted=True)
    assert (len(ends), sent) == (0, [end(1)])


def test_ends_beyond_the_limit_are_counted() -> None:
    """The oldest are dropped."""
    sent: list[Any] = []
    dropped: list[int] = []
    ends = make(sent, max_ends=3, on_dropped=dropped.append)
    ends.handle_export([end(number) for number in range(5)], accepted=False)
    ends.handle_export([end(5)], accepted=False)
    assert dropped == [2, 1]
    ends.send_again()
    assert sent == [end(3), end(4), end(5)]


def test_ends_wait_while_the_queue_has_no_space() -> None:
    """They would displace other events."""
    ends = UnconfirmedEnds(lambda records: False, wait=lambda closed, seconds: True)
    ends.handle_export([end()], accepted=False)
    ends.send_again()
    assert len(ends) == 1


def test_retries_are_delayed_up_to_a_limit() -> None:
    """Each failure doubles the delay, and a success resets it."""
    delays: list[float] = []
    is_done = threading.Event()

    def wait(_: threading.Event, seconds: float) -> bool:
        delays.append(seconds)
        if len(delays) == 9:
            is_done.set()
        return len(delays) == 9

    ends = UnconfirmedEnds(lambda records: False, wait=wait)
    ends.handle_export([end()], accepted=False)
    assert is_done.wait(PATIENCE_S)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MAX_RETRY_S, MAX_RETRY_S, MAX_RETRY_S]
    assert delays[0] == FIRST_RETRY_S


def test_closed_queue_stores_nothing() -> None:
    """The process is about to end."""
    sent: list[Any] = []
    ends = make(sent)
    ends.handle_export([end(1)], accepted=False)
    ends.close()
    ends.handle_export([end(2)], accepted=False)
    assert (len(ends), sent) == (0, [end(1)])


@pytest.fixture
def unreliable(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An event log whose exporter fails first, with its exporter and its receiver."""
    made: list[UnreliableExporter] = []
    make_exporter = sdk_compat.make_exporter

    def wrap(*arguments: Any) -> Any:
        made.append(UnreliableExporter(make_exporter(*arguments)))
        return made[0]

    monkeypatch.setattr(sdk_compat, "make_exporter", wrap)
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "20")
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("no_proxy", "*")
        log = build_event_log(build_resource("nightly", "worker-1"))
        yield log, made[0], receiver
        log.close()


def names(receiver: Receiver) -> list[str]:
    """Return the names of the received events."""
    return [record.event_name for _, record in receiver.records()]


@pytest.mark.server
def test_end_arrives_after_an_outage_without_further_events(unreliable: Any) -> None:
    """The process stays alive and idle."""
    log, exporter, receiver = unreliable
    log.emit(build_level_event(semconv.EVENT_UPDATED, level(), WALL))
    log.emit(build_level_event(semconv.EVENT_FINISHED, ended(level(), 3.0), WALL + 3.0))
    assert exporter.failed.wait(PATIENCE_S)
    exporter.is_broken = False
    deadline = threading.Event()
    for _ in range(int(PATIENCE_S * 20)):
        if names(receiver):
            break
        deadline.wait(0.05)
    assert names(receiver) == [semconv.EVENT_FINISHED]


@pytest.mark.server
def test_flush_after_an_outage_sends_the_end(unreliable: Any) -> None:
    """It reports whether the collector accepted it."""
    log, exporter, receiver = unreliable
    log.emit(build_level_event(semconv.EVENT_FINISHED, ended(level(), 3.0), WALL + 3.0))
    assert not log.force_flush(PATIENCE_S)
    exporter.is_broken = False
    assert log.force_flush(PATIENCE_S)
    assert names(receiver) == [semconv.EVENT_FINISHED]


@pytest.mark.server
def test_close_after_an_outage_sends_the_end(unreliable: Any) -> None:
    """It is the last chance."""
    log, exporter, receiver = unreliable
    log.emit(build_level_event(semconv.EVENT_FINISHED, ended(level(), 3.0), WALL + 3.0))
    assert not log.force_flush(PATIENCE_S)
    exporter.is_broken = False
    log.close()
    assert names(receiver) == [semconv.EVENT_FINISHED]
