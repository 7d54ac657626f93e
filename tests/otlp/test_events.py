"""OtlpEvents: events for a sequence of change sets, and their content."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_progress import semconv
from otel_progress.model import Failure, Outcome, Status
from otel_progress.operations import Event
from otel_progress.otlp.event_codec import MAX_BODY, MAX_METADATA, build_level_event
from otel_progress.otlp.events import HEARTBEAT_S, OtlpEvents
from tests.support.otlp_records import SPAN, TRACE, WALL, RecordedEvents, ended, level, make_change_set

STARTED, UPDATED, FINISHED = semconv.EVENT_STARTED, semconv.EVENT_UPDATED, semconv.EVENT_FINISHED


@pytest.fixture
def emitter() -> RecordedEvents:
    """Return an emitter that stores its events."""
    return RecordedEvents()


@pytest.fixture
def events(emitter: RecordedEvents) -> OtlpEvents:
    """Return the sink under test."""
    return OtlpEvents(emitter)


def test_start_and_end_within_a_tick_have_their_own_times(
    events: OtlpEvents, emitter: RecordedEvents
) -> None:
    """The time of the tick is not used."""
    root = level(clock=5.0, started=1.0)
    events.write(make_change_set(5.0, ended(root, 4.0)))
    assert [(event.name, event.at) for event in emitter.events] == [
        (STARTED, WALL + 1.0),
        (FINISHED, WALL + 4.0),
    ]


def test_updates_are_sent_once_per_second_with_the_last_value(
    events: OtlpEvents, emitter: RecordedEvents
) -> None:
    """After the last change, its value follows within a second."""
    root = level()
    events.write(make_change_set(0.0, root))
    for tick in range(1, 25):
        events.write(make_change_set(tick / 10, replace(root, sequence=tick + 1, current=tick)))
    for tick in range(25, 60):
        events.write(make_change_set(tick / 10))
    updates = [event.attributes[semconv.CURRENT] for event in emitter.events if event.name == UPDATED]
    assert updates == [10, 20, 24]


def test_waiting_update_is_replaced_by_the_end(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """The finished event has the last values."""
    root = level()
    events.write(make_change_set(0.0, root))
    events.write(make_change_set(0.1, replace(root, sequence=2, current=7)))
    events.write(make_change_set(0.2, ended(replace(root, sequence=3, current=10), 0.2)))
    events.write(make_change_set(9.0))
    assert emitter.names() == [STARTED, FINISHED]
    assert emitter.events[-1].attributes[semconv.CURRENT] == 10


def test_close_sends_waiting_updates(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """The emitter is closed afterwards."""
    root = level()
    events.write(make_change_set(0.0, root))
    events.write(make_change_set(0.1, replace(root, sequence=2, current=7)))
    events.close()
    assert emitter.names() == [STARTED, UPDATED]
    assert emitter.closed


def test_old_and_repeated_snapshots_cause_no_event(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """They cause no update and no second start or end."""
    root = level()
    events.write(make_change_set(0.0, replace(root, sequence=5)))
    events.write(make_change_set(2.0, replace(root, sequence=4, current=1)))
    end = ended(replace(root, sequence=6), 3.0)
    events.write(make_change_set(3.0, end))
    events.write(make_change_set(4.0, end))
    assert emitter.names() == [STARTED, FINISHED]


def test_children_end_before_their_parents(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """In one change set, parents start first and end last."""
    root, song = level(), level("song:1")
    events.write(make_change_set(1.0, ended(root, 1.0), ended(song, 0.9)))
    told_as = [(event.name, event.attributes[semconv.PATH]) for event in emitter.events]
    assert told_as == [(STARTED, ""), (STARTED, "song:1"), (FINISHED, "song:1"), (FINISHED, "")]


def test_pending_stage_has_a_start_event_once_it_runs(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """A skipped stage has only an end event."""
    queue = level("stage:queue", started=None, status=Status.PENDING)
    late = level("stage:late", started=None, status=Status.PENDING)
    events.write(make_change_set(0.0, queue, late))
    assert emitter.events == []
    events.write(
        make_change_set(
            1.0,
            level("stage:queue", started=1.0, sequence=2),
            ended(late, 1.0, Status.SKIPPED, duration_s=None),
        )
    )
    assert emitter.names() == [STARTED, FINISHED]


def test_declared_stages_have_one_event_before_they_run(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """It has their weight and order, so a receiver shows the whole list of stages."""
    stages = [
        level(f"stage:{name}", started=None, status=Status.PENDING, declared=True, weight=weight, order=order)
        for order, (name, weight) in enumerate((("load", 1), ("mix", 6.5)))
    ]
    events.write(make_change_set(0.0, level(stage="load"), *stages))
    events.write(make_change_set(2.0, *stages))
    events.write(make_change_set(3.0, level("stage:mix", started=3.0, sequence=2, declared=True, weight=6.5)))
    assert emitter.names() == [STARTED, UPDATED, UPDATED, STARTED]
    keys = (semconv.LEVEL_ORDER, semconv.LEVEL_WEIGHT, semconv.LEVEL_DECLARED, semconv.STATUS)
    assert [tuple(map(event.attributes.get, keys)) for event in emitter.events] == [
        (None, None, None, "running"),
        (0, None, True, "pending"),
        (1, 6.5, True, "pending"),
        (0, 6.5, True, "running"),
    ]
    assert [event.attributes.get(semconv.CURRENT_STAGE) for event in emitter.events] == [
        "load",
        None,
        None,
        None,
    ]


def test_events_of_declared_stages_are_limited(emitter: RecordedEvents) -> None:
    """Beyond the limit they are counted, until their operation has ended."""
    events = OtlpEvents(emitter, max_levels=2)
    for number in range(3):
        run, at = f"run-{number}", float(number)
        stages = [
            level(f"stage:{name}", run=run, started=None, status=Status.PENDING, declared=True)
            for name in ("a", "b", "c")
        ]
        events.write(make_change_set(at, level(run=run, started=at, clock=at), *stages))
        assert (len(emitter.events), events.dropped) == (4 * number + 3, number + 1)
        events.write(make_change_set(at + 0.5, ended(level(run=run, started=at), at + 0.5)))


def test_pause_is_exported_with_its_start_and_the_seconds_of_ended_pauses() -> None:
    """The start is converted from the clock. An ended operation has no pause."""
    paused = level(clock=9.0, paused_clock=5.0, paused_s=2.5)
    attributes = build_level_event(UPDATED, paused, WALL + 9.0).attributes
    keys = (semconv.PAUSE_START_TIME, semconv.PAUSE_DURATION)
    assert tuple(map(attributes.get, keys)) == (WALL + 5.0, 2.5)
    attributes = build_level_event(FINISHED, ended(paused, 9.0), WALL + 9.0).attributes
    assert tuple(map(attributes.get, keys)) == (None, 2.5)
    assert not set(keys) & set(build_level_event(UPDATED, level(), WALL).attributes)


def test_second_attempt_is_a_new_start(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """The event has the number of the attempt."""
    first = level("song:1")
    second = level("song:1", started=2.0, attempt=2, sequence=10)
    events.write(make_change_set(1.0, level(), ended(first, 1.0, Status.FAILED)))
    events.write(make_change_set(2.0, second))
    events.write(make_change_set(3.0, ended(second, 3.0)))
    song = [event for event in emitter.events if event.attributes[semconv.PATH] == "song:1"]
    assert [event.name for event in song] == [STARTED, FINISHED, STARTED, FINISHED]
    assert [event.attributes.get(semconv.ATTEMPT) for event in song] == [None, None, 2, 2]


def test_first_attempt_below_a_second_one_is_a_new_start(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """Below the next attempt of a level, the attempts of its levels start at 1 again."""
    root, song, stem = level(), level("song:1"), level("song:1/stem:a")
    events.write(make_change_set(1.0, root, ended(song, 1.0, Status.FAILED), ended(stem, 1.0)))
    again = level("song:1", started=2.0, attempt=2, sequence=10)
    running = level("song:1/stem:a", started=2.0, sequence=11)
    evicted = [("run-1", "song:1/stem:a")]
    events.write(make_change_set(2.0, again, running, evicted=evicted))
    events.write(make_change_set(3.0, ended(again, 3.0), ended(running, 3.0)))
    stems = [event for event in emitter.events if event.attributes[semconv.PATH] == "song:1/stem:a"]
    assert [event.name for event in stems] == [STARTED, FINISHED, STARTED, FINISHED]
    assert stems[-1].attributes[semconv.START_TIME] == WALL + 2.0


def test_failed_item_is_an_error_event_of_its_level(events: OtlpEvents, emitter: RecordedEvents) -> None:
    """It has name, outcome, error and the level's span."""
    item = Event(
        "friday-42",
        "setlist",
        "run-1",
        "song:1",
        "song",
        semconv.EVENT_ITEM,
        1,
        WALL + 2.0,
        "audio096.wav",
        Outcome.FAILED,
        Failure("OSError", "no such file"),
    )
    events.write(make_change_set(1.0, level(), level("song:1")))
    events.write(make_change_set(2.0, events=[item, replace(item, kind=FINISHED)]))
    (event,) = [event for event in emitter.events if event.name == semconv.EVENT_ITEM]
    assert (event.error, event.trace_id, event.span_id, event.at) == (True, TRACE, SPAN, WALL + 2.0)
    assert event.attributes[semconv.ITEM_NAME] == "audio096.wav"
    assert event.attributes[semconv.ITEM_OUTCOME] == "failed"
    assert event.attributes[semconv.ERROR_TYPE] == "OSError"
    assert event.attributes[semconv.LEVEL_ID] == "1"
    assert event.body == "audio096.wav failed (OSError: no such file)"


def test_item_of_an_unknown_level_has_its_operation_and_path(
    events: OtlpEvents, emitter: RecordedEvents
) -> None:
    """The level started and ended between two ticks."""
    item = Event(
        "friday-42", "setlist", "run-1", "song:9", "song", semconv.EVENT_ITEM, 1, WALL, "x", Outcome.COMPLETED
    )
    events.write(make_change_set(1.0, events=[item]))
    (event,) = emitter.events
    assert event.attributes[semconv.PATH] == "song:9"
    assert event.attributes[semconv.OPERATION_ID] == "friday-42"
    assert (event.trace_id, event.error) == (None, False)


def test_stall_is_reported_once_until_the_next_advance(emitter: RecordedEvents) -> None:
    """After an advance, a stall is reported again."""
    events = OtlpEvents(emitter)
    root = level(stall_after_s=10.0)
    events.write(make_change_set(0.0, root))
    for clock in range(1, 30):
        events.write(make_change_set(float(clock)))
    assert emitter.names().count(semconv.EVENT_STALLED) == 1
    events.write(make_change_set(30.0, replace(root, sequence=2, current=1, advanced_clock=30.0)))
    for clock in range(31, 60):
        events.write(make_change_set(float(clock)))
    assert emitter.names().count(semconv.EVENT_STALLED) == 2


def test_heartbeat_is_sent_per_instance_while_operations_run(
    events: OtlpEvents, emitter: RecordedEvents
) -> None:
    """Without running operations there is no heartbeat."""
    for clock in range(65):
        roots = [level(run=f"run-{number}") for number in range(3)] if clock == 0 else []
        events.write(make_change_set(float(clock), *roots))
    beats = [event for event in emitter.events if event.name == semconv.EVENT_HEARTBEAT]
    assert [beat.at - WALL for beat in beats] == [HEARTBEAT_S, 2 * HEARTBEAT_S]
    assert dict(beats[0].attributes) == {semconv.SERVICE_INSTANCE_ID: "worker-1"}
    idle = RecordedEvents()
    sink = OtlpEvents(idle)
    for clock in range(65):
        sink.write(make_change_set(float(clock)))
    assert idle.events == []


def test_level_beyond_the_limit_has_only_start_and_end_events(emitter: RecordedEvents) -> None:
    """Its updates are dropped and counted."""
    events = OtlpEvents(emitter, max_levels=2)
    events.write(make_change_set(0.0, level(), level("song:1")))
    third = level("song:3", started=1.5)
    events.write(make_change_set(2.0, third))
    events.write(make_change_set(4.0, replace(third, sequence=2, current=3)))
    events.write(make_change_set(6.0, ended(replace(third, sequence=3), 6.0)))
    assert [event.name for event in emitter.events if event.attributes[semconv.PATH] == "song:3"] == [
        STARTED,
        FINISHED,
    ]
    assert events.dropped == 2


def test_sink_after_the_end_of_operations_holds_no_levels(emitter: RecordedEvents) -> None:
    """Operations have ended, were evicted or lost their levels."""
    events = OtlpEvents(emitter, max_levels=4)
    for number in range(50):
        run = f"run-{number}"
        started = float(number)
        root, song, lost = (level(path, run=run, started=started) for path in ("", "song:1", "song:2"))
        events.write(make_change_set(number + 0.1, root, song, lost))
        events.write(make_change_set(number + 0.2, evicted=[(run, "song:2")]))
        events.write(make_change_set(number + 0.3, ended(root, number + 0.3)))
    assert events.dropped == 0
    assert events._level_count == 0
    assert not events._runs
    assert not events._waiting


def test_late_snapshot_of_a_finished_operation_is_no_new_start(
    events: OtlpEvents, emitter: RecordedEvents
) -> None:
    """The level is not stored."""
    events.write(make_change_set(1.0, ended(level(), 1.0)))
    events.write(make_change_set(2.0, level("song:1")))
    assert emitter.names() == [STARTED, FINISHED]
    assert events._level_count == 0


def test_finished_event_of_a_failure_is_an_error_with_its_reason(
    events: OtlpEvents, emitter: RecordedEvents
) -> None:
    """The end of a cancelled level is not an error."""
    events.write(
        make_change_set(
            1.0, ended(level(), 1.0, Status.FAILED, error=Failure("ValueError", "bad\nfile", "Traceback …"))
        )
    )
    events.write(make_change_set(2.0, ended(level(run="run-2"), 2.0, Status.CANCELLED)))
    failed, cancelled = (event for event in emitter.events if event.name == FINISHED)
    assert failed.error
    assert failed.attributes[semconv.ERROR_TYPE] == "ValueError"
    assert failed.attributes[semconv.EXCEPTION_MESSAGE] == "bad\nfile"
    assert failed.body == "setlist the friday-42 failed after 1.000 s: bad\\nfile"
    assert not cancelled.error


def test_update_has_identity_progress_and_metadata() -> None:
    """It has no other attributes."""
    snapshot = level(
        "song:1",
        current=3,
        ratio=0.3,
        failed=1,
        message="Executing",
        unit="action",
        sequence=8,
        metadata={"rate": 44100},
    )
    event = build_level_event(UPDATED, snapshot, WALL)
    assert dict(event.attributes) == {
        semconv.METADATA_PREFIX + "rate": 44100,
        semconv.OPERATION_ID: "friday-42",
        semconv.OPERATION_TYPE: "setlist",
        semconv.RUN: "run-1",
        semconv.LEVEL_ORDER: 0,
        semconv.START_TIME: WALL,
        semconv.LEVEL_ID: "1",
        semconv.LEVEL_TYPE: "song",
        semconv.LEVEL_NAME: "the 1",
        semconv.PATH: "song:1",
        semconv.DEPTH: 1,
        semconv.CURRENT: 3,
        semconv.TOTAL: 10,
        semconv.RATIO: 0.3,
        semconv.FAILED: 1,
        semconv.SEQUENCE: 8,
        semconv.STATUS: "running",
        semconv.UNIT: "action",
        semconv.MESSAGE: "Executing",
    }
    assert event.body == "song the 1: 3 of 10 action (30 %), Executing"


@given(
    text=st.text(st.characters(codec=None), max_size=3000),
    number=st.one_of(st.integers(-(10**400), 10**400), st.floats()),
    entries=st.integers(0, 100),
)
@example(text="x", number=float("nan"), entries=2)
@example(text="x", number=float("inf"), entries=2)
@example(text="\ud800\x1b[31m" * 1000, number=10**400, entries=100)
def test_event_of_any_values_is_bounded_and_valid(text: str, number: float, entries: int) -> None:
    """Texts can be encoded, and numbers fit into OTLP."""
    metadata = {f"{text[:50]}{key}": text if key % 2 else number for key in range(entries)}
    snapshot = level("song:1", name=text, message=text, current=number, total=number, metadata=metadata)
    event = build_level_event(UPDATED, snapshot, WALL)
    assert len(event.body) <= MAX_BODY
    event.body.encode()
    assert event.body.isprintable() or "\n" not in event.body
    assert len(event.attributes) <= MAX_METADATA + 18
    for value in event.attributes.values():
        if isinstance(value, str):
            assert len(value.encode()) <= 4 * 1024
        elif isinstance(value, int):
            assert -(2**63) <= value < 2**63
        else:
            assert value == value
            assert abs(value) != float("inf")  # type: ignore[arg-type]


def test_estimated_ratio_is_marked_in_attributes_and_text() -> None:
    """A measured ratio has no mark."""
    snapshot = replace(level("stage:encode"), ratio=0.42)
    estimated = build_level_event(UPDATED, replace(snapshot, estimated=True), WALL)
    assert estimated.attributes[semconv.ESTIMATED] is True
    assert "(~42 %)" in estimated.body
    true = build_level_event(UPDATED, snapshot, WALL)
    assert semconv.ESTIMATED not in true.attributes
    assert "(42 %)" in true.body
