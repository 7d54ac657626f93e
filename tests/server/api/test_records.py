"""Pages of the records of an operation: events, logs, samples, previews."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import otel_progress as progress
from otel_progress.journal import SqliteJournal
from otel_progress.model import Outcome
from otel_progress.server.pagination import EVENTS, PageCursor, encode_cursor, page_of_records, write_cursor
from otel_progress.testing import recording
from tests.support.factories import WALL, event, instance, log, make_change_set, preview, sample, snapshot

FRIDAY = "/api/v1/operations/friday-42"
KINDS = {"events": "number", "logs": "number", "previews": "number", "resources": "clock"}


def fill_up(journal: SqliteJournal) -> None:
    """Add five records of each kind, two of them older than the existing ones."""
    for number in range(11, 16):
        journal.write(
            make_change_set(
                events=[event(number, outcome=Outcome.COMPLETED if number % 2 else Outcome.FAILED)],
                logs=[log(number)],
                previews=[preview(number)],
                sample=sample(float(number)),
            )
        )


def walk(
    client: Any, kind: str, limit: int, between: Callable[[], None] = lambda: None, **query: Any
) -> list[list[float]]:
    """Return the positions of the records, page by page."""
    pages: list[list[float]] = []
    cursor: str | None = None
    while not pages or cursor:
        asked = {**query, "limit": limit} | ({"cursor": cursor} if cursor else {})
        document = client.json(f"{FRIDAY}/{kind}", params=asked)
        (found,) = (value for value in document.values() if isinstance(value, list))
        pages.append([one[KINDS[kind]] for one in found])
        cursor = document["next"]
        between()
    return pages


@pytest.mark.parametrize("limit", [1, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_contain_every_record_once(client: Any, journal: SqliteJournal, kind: str, limit: int) -> None:
    """The newest page is first."""
    fill_up(journal)
    whole = walk(client, kind, 5000)
    pages = walk(client, kind, limit)
    assert [place for page in reversed(pages) for place in page] == whole[0] == sorted(whole[0])
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert len(whole) == 1
    assert len(whole[0]) >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_new_record_moves_no_page(client: Any, journal: SqliteJournal, kind: str) -> None:
    """It is on the first page only."""
    fill_up(journal)
    before = [place for page in walk(client, kind, 1) for place in page]
    numbers = iter(range(101, 200))

    def add_records() -> None:
        number = next(numbers)
        journal.write(
            make_change_set(
                events=[event(number)],
                logs=[log(number)],
                previews=[preview(number)],
                sample=sample(float(number)),
            )
        )

    assert [place for page in walk(client, kind, 1, add_records) for place in page] == before
    assert walk(client, kind, 5000)[0][-1] != before[0]


def test_filters_apply_to_every_page(client: Any, journal: SqliteJournal) -> None:
    """The cursor keeps no filter of its own."""
    fill_up(journal)
    assert walk(client, "events", 1, outcome="failed") == [[14], [12], [2]]
    assert walk(client, "events", 2, since=str(WALL + 11)) == [[14, 15], [12, 13], [11]]
    assert walk(client, "logs", 2, after=11) == [[14, 15], [12, 13]]
    assert walk(client, "logs", 1, severity="error") == [[2]]
    assert walk(client, "previews", 1, path="song:07") == [[]]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_records_with_equal_numbers_are_listed_once(client: Any, journal: SqliteJournal, limit: int) -> None:
    """Processes that share a run number their records independently."""
    for writer in "abc":
        journal.write(
            make_change_set(
                instance=instance(writer), events=[event(20, name=writer), event(21, name=writer)]
            )
        )
    seen, cursor = [], None
    while not seen or cursor:
        document = client.json(
            f"{FRIDAY}/events", params={"limit": limit} | ({"cursor": cursor} if cursor else {})
        )
        seen[:0] = [(one["number"], one["name"]) for one in document["events"]]
        cursor = document["next"]
    assert seen[2:] == [(number, writer) for number in (20, 21) for writer in "abc"]
    assert len(seen) == 8


def test_cursor_of_an_earlier_run_is_refused(client: Any, journal: SqliteJournal) -> None:
    """The problem says to start again."""
    cursor = client.json(f"{FRIDAY}/events?limit=1")["next"]
    journal.write(make_change_set(snapshot(run="run-2", started_at=WALL + 90)))
    assert "start again" in client.problem(422, f"{FRIDAY}/events?cursor={cursor}")["detail"]


@pytest.mark.parametrize(
    "cursor",
    [
        "AAAA",
        write_cursor(PageCursor(1.0, "run-1"), "-ended"),
        encode_cursor("logs", 1, 1, "run-1"),
        encode_cursor("events", 1.5, 1, "run-1"),
        encode_cursor("events", "1", 1, "run-1"),
        encode_cursor("events", 2**63, 1, "run-1"),
        encode_cursor("events", 1, 0, "run-1"),
        encode_cursor("events", 1, 10**9, "run-1"),
        encode_cursor("events", 1, 1),
        encode_cursor("events", 1, 1, "run-1", "more"),
    ],
)
def test_cursor_of_another_list_is_refused(client: Any, cursor: str) -> None:
    """Forged cursors are refused, too."""
    assert (
        "next of the previous page"
        in client.problem(422, f"{FRIDAY}/events", params={"cursor": cursor})["detail"]
    )


@pytest.mark.parametrize("clock", [float("nan"), float("inf"), True])
def test_cursor_with_an_infinite_clock_is_refused(client: Any, clock: float) -> None:
    """The clock of a sample is a finite number."""
    client.problem(422, f"{FRIDAY}/resources", params={"cursor": encode_cursor("samples", clock, 1, "run-1")})


def test_deleted_record_of_a_cursor_hides_no_other() -> None:
    """Earlier records are still listed once."""
    records = [event(number) for number in range(1, 7)]
    page, cursor = page_of_records(EVENTS, lambda upto, most: records[-most:], "run-1", 2, None)
    assert [one.number for one in page] == [5, 6]
    left = records[:4]
    page, cursor = page_of_records(EVENTS, lambda upto, most: left[-most:], "run-1", 2, cursor)
    assert [one.number for one in page] == [3, 4]


@pytest.mark.parametrize("where", ["live", "both"])
def test_live_store_has_the_same_pages_as_a_journal(
    serve: Callable[..., Any], tmp_path: Path, where: str
) -> None:
    """It is used alone, or with a journal."""
    with (
        recording(
            store=f"sqlite:///{tmp_path}/p.db", capture_logs="WARNING", preview_at="always"
        ) as recorder,
        progress.operation("setlist", id="friday-42", total=5) as op,
    ):
        runtime = recorder.runtime
        assert runtime._previews is not None
        for number in range(5):
            recorder.clock.advance(1.0)
            op.item(f"item {number}")
            logging.getLogger("nightly").warning("message %d", number)
            op.preview(f"text {number}")
            assert runtime._previews.flush(60)
        assert runtime.force_flush(60.0)
        client = serve(runtime._store.reader if where == "live" else runtime.reader)
        for kind in ("events", "logs", "previews"):
            (whole,) = walk(client, kind, 5000)
            pages = walk(client, kind, 2)
            assert [len(page) for page in pages] == [2, 2, 1], kind
            assert [place for page in reversed(pages) for place in page] == whole


def test_samples_of_a_live_store_are_paged_by_clock(serve: Callable[..., Any]) -> None:
    """Only the process has them."""
    with recording() as recorder, progress.operation("setlist", id="friday-42"):
        store = recorder.runtime._store
        for _ in range(3):
            recorder.clock.advance(1.0)
            store.add_sample(sample(at=recorder.clock.wall(), clock=recorder.clock.monotonic()))
        (whole,) = walk(serve(store.reader), "resources", 600)
        assert walk(serve(store.reader), "resources", 2) == [whole[1:], whole[:1]]
