"""Tests of exported span trees with the real SDK."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

import otel_progress as progress
from otel_progress import semconv
from otel_progress.testing import Recorder, recording

BASE = {"progress.operation.id": "f-42", "progress.operation.type": "setlist"}
ACTION = {
    **BASE,
    "progress.level.id": "1",
    "progress.level.name": "1",
    "progress.level.type": "action",
    "progress.path": "song:s1/action:1",
    "progress.depth": 2,
}
SETLIST_TREES = [
    {
        "name": "setlist",
        "attributes": {
            **BASE,
            "progress.current": 2,
            "progress.depth": 0,
            "progress.failed": 1,
            "progress.metadata.venue": "club",
            "progress.operation.name": "Friday",
            "progress.path": "",
            "progress.ratio": 1.0,
            "progress.status": "completed",
            "progress.total": 2,
        },
        "children": [
            {
                "name": "song",
                "attributes": {
                    **BASE,
                    "progress.current": 2,
                    "progress.depth": 1,
                    "progress.failed": 1,
                    "progress.level.id": "s1",
                    "progress.level.name": "Opener",
                    "progress.level.type": "song",
                    "progress.message": "tuning",
                    "progress.path": "song:s1",
                    "progress.ratio": 1.0,
                    "progress.status": "completed",
                    "progress.total": 2,
                    "progress.unit": "action",
                },
                "children": [
                    {
                        "name": "action",
                        "attributes": {
                            **ACTION,
                            "error.type": "ValueError",
                            "progress.current": 0,
                            "progress.status": "failed",
                        },
                        "status": ("ERROR", "flat"),
                        "events": [
                            ("exception", {"exception.type": "ValueError", "exception.message": "flat"})
                        ],
                    },
                    {
                        "name": "action",
                        "attributes": {
                            **ACTION,
                            "progress.attempt": 2,
                            "progress.current": 1,
                            "progress.failed": 1,
                            "progress.ratio": 1.0,
                            "progress.status": "completed",
                        },
                        "events": [
                            (
                                "progress.item",
                                {
                                    "error.type": "error",
                                    "exception.message": "clipped",
                                    "progress.item.name": "take-1.wav",
                                    "progress.item.outcome": "failed",
                                },
                            )
                        ],
                    },
                ],
            },
            {
                "name": "song",
                "attributes": {
                    **BASE,
                    "progress.current": 0,
                    "progress.depth": 1,
                    "progress.level.id": "s2",
                    "progress.level.name": "s2",
                    "progress.level.type": "song",
                    "progress.message": "no time",
                    "progress.path": "song:s2",
                    "progress.ratio": 1.0,
                    "progress.status": "skipped",
                },
            },
        ],
    }
]
"""Span trees of the operation in the next test."""


@pytest.mark.usefixtures("sdk_silence")
def test_span_tree_of_operation_has_all_attributes(recorder: Recorder) -> None:
    """The operation has levels, a retry, a failed item and a failure."""
    with progress.operation("setlist", "Friday", id="f-42", total=2, venue="club") as op:
        with op.level("song", "s1", "Opener", total=2, unit="action") as song:
            song.update(current=1, message="tuning")
            with pytest.raises(ValueError, match="flat"), song.level("action", 1):
                raise ValueError("flat")
            with song.level("action", 1) as again:
                again.item("take-1.wav", outcome="failed", error="clipped")
            song.update(current=2)
        with op.level("song", "s2") as skipped:
            skipped.skip("no time")
    assert recorder.span_trees() == SETLIST_TREES


def test_exception_is_recorded_on_innermost_span(recorder: Recorder) -> None:
    """Outer levels fail without an event of the exception."""
    with pytest.raises(KeyError), progress.operation("o") as op, op.level("a") as a, a.level("b"):
        raise KeyError("x")
    events = {span.name: [event.name for event in span.events] for span in recorder.spans()}
    assert events == {"b": ["exception"], "a": [], "o": []}
    assert {span.status.description for span in recorder.spans()} == {"'x'"}


def test_exception_with_reused_id_is_recorded(recorder: Recorder) -> None:
    """A new exception at the memory address of a handled one is recorded."""
    recorded = []
    for _ in range(20):
        with pytest.raises(ValueError, match="second"), progress.operation("o") as op:  # noqa: PT012 - the block is what is tested
            for _ in range(3):
                try:
                    with op.level("a"):
                        raise ValueError("first")
                except ValueError:
                    pass
            raise ValueError("second")
        recorded.append([event.attributes["exception.message"] for event in recorder.spans()[-1].events])
    assert recorded == [["second"]] * 20


def test_exception_of_two_siblings_is_recorded_twice(recorder: Recorder) -> None:
    """An exception object that fails two sibling levels is an event of both."""
    error = ValueError("always the same")
    with progress.operation("o") as op:
        for _ in range(2):
            with pytest.raises(ValueError, match="same"), op.level("a", 1):
                raise error
    assert [len(span.events) for span in recorder.spans() if span.name == "a"] == [1, 1]


def test_each_quarter_is_one_event(recorder: Recorder) -> None:
    """The events have the units of their quarter."""
    with progress.operation("o", total=100) as op:
        for _ in range(100):
            op.increment()
            recorder.tick()
    (span,) = recorder.spans()
    events = [(event.name, event.attributes[semconv.CURRENT]) for event in span.events]
    assert events == [(semconv.EVENT_UPDATED, current) for current in (25, 50, 75, 100)]


def test_span_has_at_most_16_attributes_and_8_events(recorder: Recorder) -> None:
    """The limits of common back ends are respected."""
    with pytest.raises(OSError, match="gone"), progress.operation("o", total=1000) as op:  # noqa: PT012 - the block is what is tested
        with pytest.raises(OSError, match="gone"), op.level("a", 1, "A", total=100, unit="u") as first:  # noqa: PT012 - the block is what is tested
            first.fail("first attempt")
            raise OSError("gone")
        with op.level("a", 1, "A", total=100, unit="u") as level:
            for number in range(100):
                level.item(f"i{number}", outcome="failed", error=ValueError(number))
                recorder.tick()
            level.update(message="m")
            level.span.record_exception(ValueError("the user's own"))
            raise OSError("gone")
    for span in recorder.spans():
        progress_attributes = [name for name in span.attributes if name.startswith("progress.")]
        assert len(progress_attributes) <= 16
        events = [
            event for event in span.events if "own" not in str(event.attributes.get("exception.message"))
        ]
        assert len(events) <= 8
    fullest = recorder.spans()[-2]
    assert fullest.attributes[semconv.ATTEMPT] == 2
    assert len(fullest.attributes) == 17  # 16 and the type of the error


IDENTITY = {
    semconv.OPERATION_ID,
    semconv.OPERATION_TYPE,
    semconv.PATH,
    semconv.DEPTH,
    semconv.LEVEL_ID,
    semconv.LEVEL_TYPE,
}


@pytest.mark.parametrize("limit", [128, 64, 40, 32])
@pytest.mark.parametrize("where", ["span", "metadata", "both"])
@pytest.mark.usefixtures("sdk_silence")
def test_span_with_many_user_attributes_keeps_its_identity(limit: int, where: str) -> None:
    """200 other attributes or metadata keys never displace the identity and the end."""
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=limit), shutdown_on_exit=False)
    with recording(provider=provider, strict=False) as recorder:
        with progress.operation("o") as op, op.level("a", 1) as level:
            for number in range(200):
                if where != "metadata":
                    level.span.set_attribute(f"user.{number}", number)
                if where != "span":
                    level.update(**{f"key{number}": number})
        span = recorder.spans()[0]
        assert set(span.attributes) >= IDENTITY
        assert {semconv.STATUS, semconv.CURRENT, semconv.SEQUENCE} <= set(span.attributes)


@pytest.mark.usefixtures("sdk_silence")
def test_span_after_million_updates_stays_small(lenient: Recorder) -> None:
    """The span has its identity and few events, and the SDK logs nothing."""
    with progress.operation("o", id="o", total=10**6) as op:
        for _ in range(100):
            for _ in range(10_000):
                op.increment()
            op.update(message="on")
            lenient.tick()
    (span,) = lenient.spans()
    assert span.attributes[semconv.OPERATION_ID] == "o"
    assert span.attributes[semconv.CURRENT] == 10**6
    assert len(span.events) <= 8
    assert span.dropped_attributes == span.dropped_events == 0


def test_spans_are_exported_once(recorder: Recorder) -> None:
    """Each span id is unique, also for levels that end with their parent or twice."""

    async def work() -> None:
        async with progress.operation("o") as op:
            for number in range(3):
                op.level("left", number).start()
                level = op.level("ended", number).start()
                level.complete()
                level.__exit__(None, None, None)
            op.cancel("enough")

    asyncio.run(work())
    ids = [span.get_span_context().span_id for span in recorder.spans()]
    assert len(ids) == len(set(ids)) == 7
