"""Pages of batches over REST, from the journal and from a live process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.sample_operations import NOW_WALL

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

import otel_progress as progress
from otel_progress.journal import SqliteJournal
from otel_progress.processes import current_instance
from otel_progress.server.pagination import PageCursor, encode_cursor, write_cursor
from otel_progress.testing import FakeClock, recording
from otel_progress.text import MAX_ID
from tests.support.factories import WALL, batch_info, ended, make_change_set

LIST = "/api/v1/batches"


def fill_up(journal: SqliteJournal) -> list[str]:
    """Declare ten batches, some with the same start. Return all ids in list order."""
    open_ones = [
        batch_info(f"open-{number}", started_at=WALL - number // 2, total=None) for number in range(6)
    ]
    closed = [
        batch_info(f"shut-{number}", started_at=WALL - number // 3, ended_at=WALL + 5) for number in range(4)
    ]
    journal.write(make_change_set(batches=[*reversed(open_ones), *closed]))
    # The first operation of b/1 started earlier.
    return [one.id for one in (*open_ones, *closed)] + ["b/1"]


def walk(client: Any, limit: int, between: Callable[[int], None] = lambda number: None) -> list[list[str]]:
    """Return the ids of the batches, page by page."""
    pages: list[list[str]] = []
    cursor: str | None = None
    while not pages or cursor:
        document = client.json(LIST, params={"limit": limit} | ({"cursor": cursor} if cursor else {}))
        pages.append([one["id"] for one in document["batches"]])
        cursor = document["next"]
        between(len(pages))
    return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 11, 500])
def test_pages_contain_every_batch_once(client: Any, journal: SqliteJournal, limit: int) -> None:
    """Running batches come first, then the newest, then by id."""
    expected = fill_up(journal)
    pages = walk(client, limit)
    assert [id_ for page in pages for id_ in page] == expected
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert len(pages) == -(-len(expected) // limit)


def test_batch_that_starts_or_ends_between_pages_moves_no_other(client: Any, journal: SqliteJournal) -> None:
    """An ended one is listed once, and a new one is on no later page."""
    expected = fill_up(journal)

    def change_batches(number: int) -> None:
        # A batch that ends now ends after the first page was read.
        after = NOW_WALL + number
        journal.write(make_change_set(batches=[batch_info(f"new-{number}", started_at=after, total=None)]))
        for id_ in (f"open-{number - 1}", f"open-{6 - number}"):
            journal.write(
                make_change_set(
                    batches=[batch_info(id_, sequence=9, started_at=WALL, total=None, ended_at=after)]
                )
            )

    assert [id_ for page in walk(client, 2, change_batches) for id_ in page] == expected
    assert client.json(LIST)["batches"][0]["id"].startswith("new-")


def test_live_process_and_journal_are_one_list(tmp_path: Path, serve: Callable[..., Any]) -> None:
    """The process may know only a part of a batch."""
    store = f"sqlite:///{tmp_path}/p.db"
    with recording(store=store, clock=FakeClock(wall=WALL)) as recorder:
        for number in range(4):
            group = progress.batch(
                f"mine-{number}", id=f"mine-{number}", total=None if number % 2 else 1
            ).start()
            with progress.operation("job", id=f"job-{number}", batch=group):
                pass
        assert recorder.runtime.force_flush(60.0)
        with closing(SqliteJournal(tmp_path / "p.db")) as other:
            theirs = [
                batch_info(f"theirs-{number}", started_at=WALL - number, total=None) for number in range(3)
            ]
            more = ended(
                operation_id="x",
                run="x",
                batch="mine-0",
                status=progress.Status.RUNNING,
                ended_at=None,
                duration_s=None,
            )
            # Why: a batch does not wait for the operation of a dead process.
            other.write(make_change_set(more, batches=theirs, instance=current_instance("other")))
        client = serve(recorder.runtime.reader)
        expected = ["mine-0", "mine-1", "mine-3", "theirs-0", "theirs-1", "theirs-2", "mine-2"]
        for limit in (1, 2, 3, 500):
            assert [id_ for page in walk(client, limit) for id_ in page] == expected


@pytest.mark.parametrize(
    "cursor",
    [
        "AAAA",
        write_cursor(PageCursor(1.0, "run-1"), "-started"),
        encode_cursor("batches", 1.0, 0.0, "b"),
        encode_cursor("batches", 1.0, 0, 1.0, "b"),
        encode_cursor("batches", 1.0, False, 1.0, None),
        encode_cursor("batches", 1.0, False, "1", "b"),
        encode_cursor("batches", float("nan"), False, 1.0, "b"),
        encode_cursor("batches", 1.0, True, float("inf"), "b"),
        encode_cursor("batches", 10**400, True, 1.0, "b"),
        encode_cursor("batches", True, True, 1.0, "b"),
        encode_cursor("batches", 1.0, True, 1.0, "b", "c"),
    ],
)
def test_forged_cursor_is_refused(client: Any, cursor: str) -> None:
    """The problem says where a cursor comes from."""
    assert "Invalid cursor" in client.problem(422, LIST, params={"cursor": cursor})["detail"]


def test_cursor_of_batches_is_invalid_for_operations(client: Any, journal: SqliteJournal) -> None:
    """An empty cursor means the first page."""
    fill_up(journal)
    document = client.json(LIST, params={"limit": 1, "cursor": ""})
    client.problem(422, "/api/v1/operations", params={"cursor": document["next"]})


def test_cursor_can_contain_the_longest_id(client: Any, journal: SqliteJournal) -> None:
    """Its characters have the longest encoding."""
    ids = [f"{number}{'😀' * (MAX_ID - 1)}" for number in range(3)]
    journal.write(make_change_set(batches=[batch_info(id_, total=None) for id_ in ids]))
    assert [id_ for page in walk(client, 1) for id_ in page] == [*ids, "b/1"]
