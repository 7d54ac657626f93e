"""Lists of operations over REST: filters, orders and pages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.sample_operations import EVIL_ID, EVIL_TEXT

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from hypothesis import given
from hypothesis import strategies as st

from otel_progress.journal import SqliteJournal
from otel_progress.server.pagination import SORTS, PageCursor, paginate, read_cursor, write_cursor
from otel_progress.server.problems import Problem
from otel_progress.text import MAX_NAME
from tests.support.factories import WALL, batch, ended, snapshot

LIST = "/api/v1/operations"


def ids(document: dict[str, Any]) -> list[str]:
    """Return the ids of a list, in its order."""
    return [operation["operation_id"] for operation in document["operations"]]


def test_everything_is_listed_the_last_started_first(client: Any) -> None:
    """Without a filter all operations are there, without their levels."""
    document = client.json(LIST)
    assert ids(document) == [EVIL_ID, "friday-42", "done-0", "done-1", "done-2", "broken"]
    assert document["schema"] == "otel-progress/1"
    assert document["next"] is None
    assert all("levels" not in operation for operation in document["operations"])


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"status": "failed"}, {"broken"}),
        ({"status": ["failed", "running"]}, {"broken", "friday-42", EVIL_ID}),
        ({"condition": "stalled"}, set()),
        ({"condition": "abandoned"}, {"friday-42", EVIL_ID}),
        ({"type": "backup"}, {"done-0", "done-1", "done-2"}),
        ({"type": ["backup", "none"]}, {"done-0", "done-1", "done-2"}),
        ({"batch": "b/1"}, {"done-0", "done-1", "done-2", "broken"}),
        ({"metadata": "customer"}, {"friday-42"}),
        ({"metadata": "customer=acme"}, {"friday-42"}),
        ({"metadata": "customer=other"}, set()),
        ({"metadata.customer": "acme"}, {"friday-42"}),
        ({"metadata.tags": "b"}, {"friday-42"}),
        ({"metadata.tries": "3", "metadata": "tags=a"}, {"friday-42"}),
        ({"metadata": f"{EVIL_TEXT.split('=')[0]}"}, set()),
        ({"q": "DONE 1"}, {"done-1"}),
        ({"q": "<script>"}, {EVIL_ID}),
        ({"since": str(int(WALL))}, {"friday-42", EVIL_ID, "done-0", "done-1", "done-2"}),
        ({"since": "2099-12-31T23:59:59.5Z", "status": "completed"}, set()),
        ({"since": "999999999d", "status": "failed"}, {"broken"}),
    ],
)
def test_filters(client: Any, query: dict[str, Any], wanted: set[str]) -> None:
    """Each filter takes what it says, and several hold together."""
    assert set(ids(client.json(LIST, params=query))) == wanted


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_pages_through_everything_once(client: Any, sort: str) -> None:
    """Pages of two, followed by their cursors, come to the same as one page."""
    whole = ids(client.json(LIST, params={"sort": sort}))
    found: list[str] = []
    cursor = None
    while True:
        query = {"sort": sort, "limit": 2} | ({"cursor": cursor} if cursor else {})
        document = client.json(LIST, params=query)
        found += ids(document)
        cursor = document["next"]
        if cursor is None:
            break
    assert found == whole
    assert len(found) == 6


def test_unknown_values_come_last_in_both_orders(client: Any) -> None:
    """An operation without a ratio is neither the least nor the most advanced one."""
    for sort in ("ratio", "-ratio"):
        assert set(ids(client.json(LIST, params={"sort": sort}))[-2:]) == {EVIL_ID, "broken"}


def test_pages_do_not_shift_when_operations_begin_and_end(client: Any, journal: SqliteJournal) -> None:
    """What begins or ends between two pages makes nothing come twice and nothing be left out."""
    first = client.json(LIST, params={"limit": 2})
    new = snapshot(operation_id="new", id="new", run="run-new", started_at=WALL + 100)
    journal.write(batch(new, ended(sequence=9, name="Friday")))
    second = client.json(LIST, params={"limit": 100, "cursor": first["next"]})
    assert ids(first) + ids(second) == [EVIL_ID, "friday-42", "done-0", "done-1", "done-2", "broken"]


def test_history_pages_by_end(client: Any) -> None:
    """The history has ended operations only, the last end first, page by page, and can be of one type."""
    first = client.json("/api/v1/history", params={"limit": 3})
    assert ids(first) == ["done-0", "done-1", "done-2"]
    second = client.json("/api/v1/history", params={"limit": 3, "cursor": first["next"]})
    assert (ids(second), second["next"]) == (["broken"], None)
    assert ids(client.json("/api/v1/history", params={"type": "setlist"})) == ["broken"]
    assert ids(client.json("/api/v1/history", params={"since": str(int(WALL + 60))})) == ["done-0"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("status=done", "query status"),
        ("limit=0", "query limit"),
        ("limit=501", "query limit"),
        ("limit=1e3", "query limit"),
        ("sort=size", "query sort"),
        ("since=yesterday", "RFC 3339"),
        ("since=2026-01-31T12:00:00", "RFC 3339"),
        ("since=nan", "Unix seconds"),
        ("since=" + "9" * 400, "Unix seconds"),
        ("since=-5", "Unix seconds"),
        ("q=" + "x" * 201, "query q"),
        ("cursor=AAAA", "none that this list gave out"),
        ("cursor=%00%ff", "none that this list gave out"),
        ("cursor=" + "W1tb" * 900, "none that this list gave out"),
        ("statsu=failed", "Invalid parameter 'statsu'"),
        ("limit=1&limit=2", "expected one value"),
        ("%0d%0aSet-Cookie:x=1", "Invalid parameter"),
    ],
)
def test_bad_parameters_are_refused(client: Any, query: str, said: str) -> None:
    """A value that cannot be used is a 422 that says what was wrong, and never ignored."""
    document = client.problem(422, f"{LIST}?{query}")
    assert said in document["detail"]
    assert document["errors"]
    assert document["detail"].isprintable()


def test_a_cursor_of_another_order_is_refused(client: Any) -> None:
    """A cursor belongs to the order it was given out for."""
    cursor = client.json(LIST, params={"limit": 1})["next"]
    client.problem(422, f"{LIST}?sort=name&cursor={cursor}")
    client.problem(422, f"/api/v1/history?cursor={cursor}")


@given(
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    run=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    sort=st.sampled_from(["started", "-started", "-ratio"]),
)
def test_cursors_round_trip(value: float | None, run: str, sort: str) -> None:
    """What a cursor holds comes out of it as it went in."""
    assert read_cursor(write_cursor(PageCursor(value, run), sort), sort) == PageCursor(value, run)


def test_a_cursor_has_room_for_any_name() -> None:
    """Also for the longest one of letters that become three when their case is folded, and for one that is no proper text."""
    for name in ("ΐ" * MAX_NAME, "😀" * MAX_NAME, "\ud800" * MAX_NAME):
        place = PageCursor(name.casefold(), "run")
        assert read_cursor(write_cursor(place, "name"), "name") == place


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_any_text_is_a_cursor_or_a_problem(text: str) -> None:
    """No text that is given as a cursor can do anything but be refused."""
    with pytest.raises(Problem):
        read_cursor(text, "name")


@pytest.mark.parametrize("value", ["text", True, [], {}, 10**400])
def test_a_cursor_with_a_value_of_another_kind_is_refused(value: Any) -> None:
    """A forged cursor cannot bring a comparison of texts with numbers about."""
    with pytest.raises(Problem):
        read_cursor(write_cursor(PageCursor(value, "run"), "started"), "started")


def test_a_page_of_nothing_is_the_last() -> None:
    """An empty list has one page."""
    assert paginate([], "name", 10, None) == ([], None)
