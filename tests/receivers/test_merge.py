"""Merge of reports in any order, repeated, and without superseded ones."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress import semconv
from otel_progress.model import Failure, LevelSnapshot, Status
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.events import OtlpEvents
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import ChangeSet
from otel_progress.receivers.json_encoding import decode_logs as decode_json
from otel_progress.receivers.merge import MergedRun, Sender, TooManyError
from otel_progress.receivers.protobuf import decode_logs as decode_protobuf
from otel_progress.receivers.reports import read_report
from tests.support.otlp_records import INSTANCE, WALL, RecordedEvents, ended, level, make_change_set
from tests.support.otlp_requests import build_json_request, build_protobuf_request

PATHS = ("", "song:1", "song:2", "song:1/stem:a", "song:1/stem:b", "song:2/stem:a")


@st.composite
def streams(draw: st.DrawFn) -> list[ChangeSet]:
    """Return change sets of one run: levels start, advance, end and start again.

    Below the next attempt of a level, the attempts start at 1 again.
    """
    levels: dict[str, LevelSnapshot] = {}
    attempts = dict.fromkeys(PATHS, 0)
    sequence, clock, change_sets = 0, 0.0, []
    while not change_sets or (draw(st.booleans()) and not levels[""].status.finished):
        clock += draw(st.sampled_from((0.1, 0.7, 1.5)))
        changed: dict[str, LevelSnapshot] = {}
        path = draw(st.sampled_from(PATHS))
        for started in [*_list_parents(path), path]:
            sequence += 1
            known = levels.get(started)
            if known is None or known.status.finished:
                attempts[started] = attempt = attempts[started] + 1
                attempts.update((below, 0) for below in PATHS if below.startswith(f"{started}/"))
                total = draw(st.sampled_from((None, 4, 2.5)))
                new = level(
                    started, clock=clock, started=clock, attempt=attempt, total=total, sequence=sequence
                )
            else:
                values = {
                    "current": known.current + draw(st.integers(0, 3)),
                    "skipped": draw(st.integers(0, 2)),
                }
                values["message"] = draw(st.sampled_from((None, "mixing", "ä\n")))
                times = {"observed_at": WALL + clock, "observed_clock": clock, "sequence": sequence}
                new = replace(known, **times, **values)
            levels[started] = changed[started] = new
        if draw(st.booleans()):
            for below in PATHS:
                is_below = below == path or not path or below.startswith(f"{path}/")
                if is_below and below in levels and not levels[below].status.finished:
                    levels[below] = changed[below] = _end(draw, levels[below], clock)
            sequence += 1
        change_sets.append(make_change_set(clock, *(changed[path] for path in sorted(changed))))
    return change_sets


def _list_parents(path: str) -> list[str]:
    segments = path.split("/") if path else []
    return ["/".join(segments[:depth]) for depth in range(len(segments))]


def _end(draw: st.DrawFn, snapshot: LevelSnapshot, clock: float) -> LevelSnapshot:
    if draw(st.booleans()):
        return ended(snapshot, clock, Status.FAILED, error=Failure("OSError", "gone"))
    return ended(snapshot, clock, draw(st.sampled_from((Status.COMPLETED, Status.CANCELLED, Status.SKIPPED))))


def record_events(change_sets: list[ChangeSet]) -> list[LogEvent]:
    """Return the events that our exporter emits for change sets."""
    emitter = RecordedEvents()
    events = OtlpEvents(emitter)
    for change_set in change_sets:
        events.write(change_set)
    events.close()
    return emitter.events


def merge(events: list[LogEvent], sender: Sender | None = None) -> dict[str, LevelSnapshot]:
    """Return the levels by path after all events. Requests alternate the encoding."""
    sender = sender or Sender(INSTANCE.id)
    run: MergedRun | None = None
    paths: dict[str, None] = {}
    for index, event in enumerate(events):
        decoded = (
            decode_protobuf(build_protobuf_request([event]), WALL + 3_600.0)
            if index % 2
            else decode_json(build_json_request([event]), WALL + 3_600.0)
        )
        for record in decoded.records:
            report = read_report(record)
            if report is not None:
                run, changed = sender.apply(report)
                paths.update(dict.fromkeys(changed))
    return {} if run is None else {path: run.build_snapshot(path, 60.0) for path in paths}


def describe(snapshot: LevelSnapshot) -> tuple[object, ...]:
    """Return the values of a level that its events state."""
    info = snapshot.info
    started = None if info.started_at is None else round(info.started_at - WALL, 5)
    return (
        (info.operation_id, info.run, info.path, info.type, info.id, info.name, info.unit, info.attempt),
        (started, info.trace_id, info.span_id, snapshot.status, snapshot.current, snapshot.total),
        (snapshot.ratio, snapshot.failed, snapshot.skipped, snapshot.message, snapshot.error),
        None if snapshot.ended_at is None else round(snapshot.ended_at - WALL, 5),
        None if snapshot.duration_s is None else round(snapshot.duration_s, 5),
    )


def find_superseded(events: list[LogEvent]) -> set[int]:
    """Return the indexes of events after which a later event states the same level."""
    last: dict[object, int] = {}
    for index, event in enumerate(events):
        last[event.attributes[semconv.PATH]] = index
    return set(range(len(events))) - set(last.values())


@given(streams(), st.randoms(use_true_random=False), st.data())
def test_merge_of_shuffled_repeated_and_lost_events_equals_the_original(
    change_sets: list[ChangeSet], order: random.Random, data: st.DataObject
) -> None:
    """Only events that a later one supersedes are lost."""
    events = record_events(change_sets)
    last: dict[str, LevelSnapshot] = {}
    for change_set in change_sets:
        last.update((snapshot.path, snapshot) for snapshot in change_set.snapshots)
    reported = {event.attributes[semconv.PATH] for event in events}
    expected = {path: describe(snapshot) for path, snapshot in last.items() if path in reported}
    superseded = sorted(find_superseded(events))
    lost = set(data.draw(st.lists(st.sampled_from(superseded)))) if superseded else set()
    arrived = [event for index, event in enumerate(events) if index not in lost]
    arrived += order.sample(arrived, len(arrived) // 2)
    order.shuffle(arrived)
    merged = merge(arrived)
    assert {path: describe(merged[path]) for path in expected} == expected


@given(streams(), st.randoms(use_true_random=False))
def test_merge_of_events_that_arrive_again_changes_nothing(
    change_sets: list[ChangeSet], order: random.Random
) -> None:
    """The sequence numbers stay, so readers see no change."""
    events = record_events(change_sets)
    sender = Sender(INSTANCE.id)
    once = merge(events, sender)
    order.shuffle(events)
    assert merge(events, sender) == {}
    assert once


def test_level_before_its_parents_has_placeholders() -> None:
    """A late parent replaces its placeholder with a higher sequence number."""
    root, song = level(sequence=1, current=3), level("song:1/stem:a", started=2.0, clock=2.0, sequence=2)
    sender = Sender(INSTANCE.id)
    early = merge([build_level_event(semconv.EVENT_STARTED, song, WALL + 2.0)], sender)
    assert list(early) == ["", "song:1", "song:1/stem:a"]
    assert (early[""].status, early["song:1"].info.id) == (Status.RUNNING, "1")
    late = merge([build_level_event(semconv.EVENT_UPDATED, root, WALL + 3.0)], sender)
    assert (late[""].current, late[""].info.started_at) == (3, WALL)
    assert late[""].sequence > early[""].sequence


def test_renamed_operation_has_its_newest_id() -> None:
    """Late events, and levels that do not change, do not restore the old id."""
    old, song = level(sequence=1), level("song:1", sequence=2)
    new = level(sequence=3, operation_id="friday-42~2", id="friday-42~2")
    late = level(sequence=2, current=1)
    started = [build_level_event(semconv.EVENT_STARTED, each, WALL + 1.0) for each in (old, song)]
    sender = Sender(INSTANCE.id)
    before = merge(started, sender)
    after = merge([build_level_event(semconv.EVENT_UPDATED, new, WALL + 2.0)], sender)
    assert {path: each.info.operation_id for path, each in after.items()} == {
        "": "friday-42~2",
        "song:1": "friday-42~2",
    }
    assert after["song:1"].sequence > before["song:1"].sequence
    assert after[""].info.run == before[""].info.run
    assert merge([build_level_event(semconv.EVENT_UPDATED, late, WALL + 3.0)], sender) == {}
    changed = replace(song, sequence=4, current=2)
    (found,) = merge([build_level_event(semconv.EVENT_UPDATED, changed, WALL + 4.0)], sender).values()
    assert (found.current, found.info.operation_id) == (2, "friday-42~2")


def test_sender_beyond_a_limit_rejects_the_report() -> None:
    """Runs and levels are limited. Ended runs do not count."""
    sender = Sender(INSTANCE.id, max_runs=1, max_levels=2)
    merge([build_level_event(semconv.EVENT_STARTED, level(), WALL)], sender)
    for other in (level(run="run-2"), level("song:1/stem:a")):
        with pytest.raises(TooManyError, match="at most"):
            merge([build_level_event(semconv.EVENT_STARTED, other, WALL)], sender)
    merge([build_level_event(semconv.EVENT_FINISHED, ended(level(), 3.0), WALL + 3.0)], sender)
    assert merge([build_level_event(semconv.EVENT_STARTED, level(run="run-2"), WALL)], sender)
