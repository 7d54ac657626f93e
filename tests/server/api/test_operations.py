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
from tests.support.factories import WALL, ended, make_change_set, snapshot

LIST = "/api/v1/operations"


def ids(document: dict[str, Any]) -> list[str]:
    """Return the ids of a list, in its order."""
    return [operation["operation_id"] for operation in document["operations"]]


def test_list_without_a_filter_has_all_operations(client: Any) -> None:
    """The last started one is first, and levels are left out."""
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
def test_filters_can_be_combined(client: Any, query: dict[str, Any], wanted: set[str]) -> None:
    """All have to match."""
    assert set(ids(client.json(LIST, params=query))) == wanted


@pytest.mark.parametrize("sort", SORTS)
def test_pages_in_every_order_contain_each_operation_once(client: Any, sort: str) -> None:
    """Pages of two equal one long page."""
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


def test_unknown_values_are_last_in_both_directions(client: Any) -> None:
    """An operation may have no ratio."""
    for sort in ("ratio", "-ratio"):
        assert set(ids(client.json(LIST, params={"sort": sort}))[-2:]) == {EVIL_ID, "broken"}


def test_operation_that_starts_or_ends_between_pages_moves_no_other(
    client: Any, journal: SqliteJournal
) -> None:
    """No operation is listed twice or left out."""
    first = client.json(LIST, params={"limit": 2})
    new = snapshot(operation_id="new", id="new", run="run-new", started_at=WALL + 100)
    journal.write(make_change_set(new, ended(sequence=9, name="Friday")))
    second = client.json(LIST, params={"limit": 100, "cursor": first["next"]})
    assert ids(first) + ids(second) == [EVIL_ID, "friday-42", "done-0", "done-1", "done-2", "broken"]


def test_history_has_ended_operations_by_their_end(client: Any) -> None:
    """It can be limited to one type."""
    first = client.json("/api/v1/history", params={"limit": 3})
    assert ids(first) == ["done-0", "done-1", "done-2"]
    second = client.json("/api/v1/history", params={"limit": 3, "cursor": first["next"]})
    assert (ids(second), second["next"]) == (["broken"], None)
    assert ids(client.json("/api/v1/history", params={"type": "setlist"})) == ["broken"]
    assert ids(client.json("/api/v1/history", params={"since": str(int(WALL + 60))})) == ["done-0"]


@pytest.mark.parametrize(
    ("query", "text"),
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
        ("cursor=AAAA", "Invalid cursor"),
        ("cursor=%00%ff", "Invalid cursor"),
        ("cursor=" + "W1tb" * 900, "Invalid cursor"),
        ("statsu=failed", "Invalid parameter 'statsu'"),
        ("limit=1&limit=2", "expected one value"),
        ("%0d%0aSet-Cookie:x=1", "Invalid parameter"),
    ],
)
def test_invalid_parameter_is_refused(client: Any, query: str, text: str) -> None:
    """It is never ignored."""
    document = client.problem(422, f"{LIST}?{query}")
    assert text in document["detail"]
    assert document["errors"]
    assert document["detail"].isprintable()


def test_cursor_of_another_order_is_refused(client: Any) -> None:
    """A cursor belongs to one order."""
    cursor = client.json(LIST, params={"limit": 1})["next"]
    client.problem(422, f"{LIST}?sort=name&cursor={cursor}")
    client.problem(422, f"/api/v1/history?cursor={cursor}")


@given(
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    run=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    sort=st.sampled_from(["started", "-started", "-ratio"]),
)
def test_cursor_round_trips(value: float | None, run: str, sort: str) -> None:
    """Its values do not change."""
    assert read_cursor(write_cursor(PageCursor(value, run), sort), sort) == PageCursor(value, run)


def test_cursor_can_contain_the_longest_name() -> None:
    """Case folding can make a name three times as long."""
    for name in ("ΐ" * MAX_NAME, "😀" * MAX_NAME, "\ud800" * MAX_NAME):
        place = PageCursor(name.casefold(), "run")
        assert read_cursor(write_cursor(place, "name"), "name") == place


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_any_text_as_cursor_is_accepted_or_refused(text: str) -> None:
    """No other exception is raised."""
    with pytest.raises(Problem):
        read_cursor(text, "name")


@pytest.mark.parametrize("value", ["text", True, [], {}, 10**400])
def test_cursor_with_a_value_of_another_type_is_refused(value: Any) -> None:
    """Texts and numbers are never compared."""
    with pytest.raises(Problem):
        read_cursor(write_cursor(PageCursor(value, "run"), "started"), "started")


def test_empty_list_has_one_page() -> None:
    """It has no cursor."""
    assert paginate([], "name", 10, None) == ([], None)
