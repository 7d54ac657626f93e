"""Spans: whole trees as the real SDK exports them."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

import otel_progress as progress
from otel_progress import semconv
from otel_progress.testing import Recorder, recording


@pytest.mark.usefixtures("sdk_silence")
def test_a_setlist(recorder: Recorder) -> None:
    """The whole tree of an operation with stages, levels, a retry, a failed item and a failure."""
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
    base = {"progress.operation.id": "f-42", "progress.operation.type": "setlist"}
    action = {
        **base,
        "progress.level.id": "1",
        "progress.level.name": "1",
        "progress.level.type": "action",
        "progress.path": "song:s1/action:1",
        "progress.depth": 2,
    }
    assert recorder.span_trees() == [
        {
            "name": "setlist",
            "attributes": {
                **base,
                "progress.current": 2,
                "progress.depth": 0,
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
                        **base,
                        "progress.current": 2,
                        "progress.depth": 1,
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
                                **action,
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
                                **action,
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
                        **base,
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


def test_an_exception_is_recorded_once_where_it_came_from(recorder: Recorder) -> None:
    """On its way up an exception is an event of the innermost level only; all it passed through failed with it."""
    with pytest.raises(KeyError), progress.operation("o") as op, op.level("a") as a, a.level("b"):
        raise KeyError("x")
    events = {span.name: [event.name for event in span.events] for span in recorder.spans()}
    assert events == {"b": ["exception"], "a": [], "o": []}
    assert {span.status.description for span in recorder.spans()} == {"'x'"}


def test_another_exception_is_recorded_as_well(recorder: Recorder) -> None:
    """An exception that takes the place in memory of one that was handled is a new one."""
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


def test_an_exception_raised_again_in_a_retry_is_recorded_again(recorder: Recorder) -> None:
    """One exception object that fails two levels beside each other is an event of both."""
    error = ValueError("always the same")
    with progress.operation("o") as op:
        for _ in range(2):
            with pytest.raises(ValueError, match="same"), op.level("a", 1):
                raise error
    assert [len(span.events) for span in recorder.spans() if span.name == "a"] == [1, 1]


def test_quarters_are_events(recorder: Recorder) -> None:
    """A span tells at which quarters of the work it was seen, in order and each once."""
    with progress.operation("o", total=100) as op:
        for _ in range(100):
            op.increment()
            recorder.tick()
    (span,) = recorder.spans()
    told = [(event.name, event.attributes[semconv.CURRENT]) for event in span.events]
    assert told == [(semconv.EVENT_UPDATED, current) for current in (25, 50, 75, 100)]


def test_no_more_than_sixteen_attributes_and_eight_events(recorder: Recorder) -> None:
    """Whatever happens to a level, its span keeps to what back ends keep."""
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
        ours = [name for name in span.attributes if name.startswith("progress.")]
        assert len(ours) <= 16
        events = [
            event for event in span.events if "own" not in str(event.attributes.get("exception.message"))
        ]
        assert len(events) <= 8
    fullest = recorder.spans()[-2]
    assert fullest.attributes[semconv.ATTEMPT] == 2
    assert len(fullest.attributes) == 17  # sixteen, and the error's type


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
def test_many_attributes_of_the_user_lose_no_identity(limit: int, where: str) -> None:
    """200 attributes or metadata keys push none of what says which level it is, and how it ended, off the span."""
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
def test_a_million_updates(lenient: Recorder) -> None:
    """10⁶ updates leave one span with its identity, a handful of events, and no word from the SDK."""
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


def test_no_span_is_exported_twice(recorder: Recorder) -> None:
    """Every span id is exported once, also when levels end by themselves, with their parent, and again."""

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
