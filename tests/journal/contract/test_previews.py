"""Previews in a journal, and the deletion of their content."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_progress.journal import Journal
from otel_progress.journal.sqlite.limits import JournalLimits
from otel_progress.protocols import PreviewQuery
from otel_progress.records import Preview
from tests.support.examples import scale_examples
from tests.support.factories import ended, instance, make_change_set, preview, snapshot
from tests.support.fake_time import FakeTime

Opener = Callable[..., Journal]


def numbers(found: Sequence[Preview]) -> list[int]:
    """Return the numbers of previews."""
    return [one.number for one in found]


def test_previews_query_returns_previews_oldest_first(journal: Journal) -> None:
    """The query limits and filters by path."""
    text = preview(3, "song:1/mix:a", media_type="application/json", width=None, height=None, ratio=None)
    found = [preview(1), preview(2, "song:1"), text, preview(4, "song:10")]
    journal.write(make_change_set(snapshot(previews=4), previews=found[:2]))
    journal.write(make_change_set(previews=found[2:]))
    assert list(journal.previews("friday-42")) == found
    assert numbers(journal.previews("friday-42", PreviewQuery(limit=2))) == [3, 4]
    assert numbers(journal.previews("friday-42", PreviewQuery(path="song:1"))) == [2, 3]
    assert (
        list(journal.previews("friday-42", PreviewQuery(limit=0))) == list(journal.previews("nobody")) == []
    )


def test_previews_query_with_two_runs_returns_the_newest_run(journal: Journal) -> None:
    """Previews of an earlier run are not included."""
    journal.write(make_change_set(ended(run="r1"), previews=[preview(run="r1")]))
    journal.write(make_change_set(snapshot(run="r2")))
    assert list(journal.previews("friday-42")) == []
    journal.write(make_change_set(previews=[preview(7, run="r2")]))
    assert numbers(journal.previews("friday-42")) == [7]


def test_preview_written_twice_is_stored_once(journal: Journal) -> None:
    """The first record of a number is kept."""
    journal.write(make_change_set(snapshot(), previews=[preview(1)]))
    journal.write(make_change_set(previews=[preview(1, name="another")]))
    assert list(journal.previews("friday-42")) == [preview(1)]


def test_preview_without_location_is_deleted(open_another: Opener) -> None:
    """The preview service has deleted its content."""
    told: list[str] = []
    journal = open_another(on_deleted=told.extend)
    journal.write(make_change_set(snapshot(), previews=[preview(1), preview(2), preview(3)]))
    journal.write(make_change_set(previews=[preview(4), preview(2, location="", size_bytes=0)]))
    assert numbers(journal.previews("friday-42")) == [1, 3, 4]
    assert told == []


def test_deleted_previews_are_reported_once(open_another: Opener) -> None:
    """A location that another run refers to is reported with that run."""
    told: list[str] = []
    journal = open_another(
        on_deleted=lambda locations: told.extend((*locations, f"{len(journal.previews('friday-42'))} left"))
    )
    shared = preview(1, run="r1").location
    journal.write(
        make_change_set(
            ended(run="r1"),
            previews=[preview(1, run="r1"), preview(2, run="r1"), preview(3, run="r1", location=shared)],
        )
    )
    other = {"operation_id": "other", "run": "x"}
    journal.write(make_change_set(ended(**other), previews=[preview(1, location=shared, **other)]))
    assert journal.delete("friday-42") == 1
    assert told == [preview(2, run="r1").location, "0 left"]
    journal.delete("other")
    assert told[2:] == [shared, "0 left"]


def test_previews_of_expired_operation_are_reported(open_another: Opener, fake_time: FakeTime) -> None:
    """Previews of active operations are kept."""
    told: list[str] = []
    me = instance()
    journal = open_another(retention_s=600.0, on_deleted=told.extend)
    journal.write(
        make_change_set(
            ended(run="old", operation_id="old"),
            previews=[preview(1, run="old", operation_id="old")],
            instance=me,
        )
    )
    journal.write(make_change_set(snapshot(), previews=[preview(1)], instance=me))
    for _ in range(20):
        fake_time.pass_(60.0)
        journal.write(make_change_set(at=fake_time.now, clock=fake_time.clock, instance=me))
    assert told == [preview(1, run="old").location]
    assert numbers(journal.previews("friday-42")) == [1]


def test_many_previews_are_deleted_in_many_transactions(open_another: Opener) -> None:
    """Each location is reported once."""
    told: list[str] = []
    journal = open_another(on_deleted=told.extend, limits=JournalLimits(rows_per_pass=50))
    found = [preview(number) for number in range(1, 201)]
    journal.write(make_change_set(ended(), previews=found))
    assert journal.delete("friday-42") == 1
    assert sorted(told) == sorted(one.location for one in found)


def test_preview_limit_of_operation_deletes_the_oldest(open_another: Opener) -> None:
    """The deleted locations are reported."""
    told: list[str] = []
    journal = open_another(on_deleted=told.extend, limits=JournalLimits(previews_per_operation=10))
    for start in range(1, 26, 5):
        journal.write(make_change_set(snapshot(), previews=[preview(start + number) for number in range(5)]))
    assert numbers(journal.previews("friday-42")) == list(range(16, 26))
    assert told == [preview(number).location for number in range(1, 16)]


def test_failing_on_deleted_callback_fails_no_write(
    open_another: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is reported."""

    def fail(locations: Sequence[str]) -> None:
        msg = f"no store for {len(locations)}"
        raise OSError(msg)

    journal = open_another(on_deleted=fail)
    journal.write(make_change_set(ended(), previews=[preview()]))
    with caplog.at_level(logging.WARNING):
        assert journal.delete("friday-42") == 1
    assert list(journal.previews("friday-42")) == []


@settings(
    max_examples=scale_examples(50),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    texts=st.tuples(*[st.text()] * 5),
    numbers_=st.tuples(*[st.integers()] * 4),
    at=st.floats(),
    ratio=st.none() | st.floats(),
)
def test_any_preview_is_stored_and_encoded(
    journal: Journal, texts: tuple[str, ...], numbers_: tuple[int, ...], at: float, ratio: float | None
) -> None:
    """Any text and number can be written and encoded."""
    path, name, media_type, digest, location = texts
    number, size, width, height = numbers_
    strange = preview(
        number, path, at=at, name=name, media_type=media_type, digest=digest, location=location,
        size_bytes=size,
        width=width, height=height, ratio=ratio, operation_id="any", run="any",
    )  # fmt: skip
    journal.write(make_change_set(ended(operation_id="any", run="any"), previews=[strange]))
    for found in journal.previews("any"):
        assert found.at == found.at != float("inf")
        assert found.ratio is None or 0 <= abs(found.ratio) < float("inf")
        for text in (found.path, found.name, found.media_type, found.digest, found.location):
            text.encode()
    journal.delete("any")
