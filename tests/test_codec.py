"""The JSON form of operations and events."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress import codec
from otel_progress.model import Eta, Failure, Outcome, Status
from otel_progress.operations import OperationSnapshot
from tests.support.factories import event, operation, preview, snapshot
from tests.support.strategies import EVENTS, PATH, REAL, snapshots


@st.composite
def operations(draw: st.DrawFn) -> OperationSnapshot:
    """Any operation with a few levels."""
    paths = draw(st.lists(PATH, unique=True, max_size=3))
    return OperationSnapshot(
        draw(snapshots("")),
        tuple(draw(snapshots(path)) for path in paths),
        draw(REAL),
        draw(REAL),
        alive=draw(st.booleans()),
    )


@given(operations())
def test_operations_survive_the_round_trip(before: OperationSnapshot) -> None:
    """Any operation is the same after it was written as JSON text and read back."""
    text = codec.dumps(codec.encode_operation(before))
    assert codec.decode_operation(json.loads(text)) == before


@given(EVENTS)
def test_events_survive_the_round_trip(events: list[object]) -> None:
    """Any event is the same after it was written as JSON text and read back."""
    for before in events:
        text = codec.dumps(codec.encode_event(before))  # type: ignore[arg-type]
        assert codec.decode_event(json.loads(text)) == before


def test_derived_fields() -> None:
    """Readers find what follows from a snapshot beside it: percentage, completed, elapsed, remaining, condition."""
    eta = Eta(30.0, 20.0, 40.0, "estimated", "rate", 0, 5_010.0)
    root = snapshot(total=10, current=4, failed=1, ratio=0.4, eta=eta)
    document = codec.encode_operation(operation(root, clock=5_020.0))
    derived = {
        name: document[name]
        for name in ("percentage", "completed", "elapsed_seconds", "remaining_seconds", "condition")
    }
    assert derived == {
        "percentage": 40.0,
        "completed": 3,
        "elapsed_seconds": 20.0,
        "remaining_seconds": 20.0,
        "condition": "ok",
    }
    assert document["schema"] == codec.SCHEMA


def test_unknown_is_null() -> None:
    """What is not known is null, never 0 and never left out."""
    document = codec.encode_operation(operation(snapshot()))
    for name in ("total", "ratio", "percentage", "remaining_seconds", "ended_at", "error", "eta"):
        assert name in document
        assert document[name] is None


def test_levels_can_be_left_out() -> None:
    """Lists of operations do without their levels."""
    assert "levels" not in codec.encode_operation(operation(snapshot(), [snapshot("a:1")]), levels=False)


def test_unknown_keys_are_ignored() -> None:
    """A document of a newer writer can be read."""
    before = operation(snapshot(status=Status.FAILED, error=Failure("ValueError", "bad")))
    document = {**codec.encode_operation(before), "added_later": 1}
    assert codec.decode_operation(document) == before


def test_a_document_that_is_none_is_refused() -> None:
    """Something else than an operation is an error, not half an operation."""
    with pytest.raises(KeyError):
        codec.decode_operation({"schema": codec.SCHEMA})


def test_json_never_holds_nan() -> None:
    """A number JSON does not have is an error at the writer rather than at every reader."""
    with pytest.raises(ValueError, match="JSON"):
        codec.dumps({"ratio": float("nan")})


def test_event_without_outcome() -> None:
    """An event that is no item has no outcome and no error."""
    document = codec.encode_event(event(outcome=None, error=None))
    assert document["outcome"] is None
    assert codec.decode_event({**document, "outcome": "failed"}).outcome is Outcome.FAILED


def test_documents_of_older_writers_can_be_read() -> None:
    """What they do not know has its default; the longest gap they tell says after which time the level counts as stalled."""
    eta = Eta(30.0, 20.0, 40.0, "estimated", "rate", 0, 5_010.0)
    document = codec.encode_operation(operation(snapshot(eta=eta), [snapshot("a:1")]))
    for level in (document, *document["levels"]):
        for name in (
            "stall_after_s",
            "estimated",
            "paused_clock",
            "paused_s",
            "previews",
            "overdue_after_s",
            "resumed_from",
        ):
            del level[name]
        level["longest_gap_s"] = 30.0
    for name in ("counts_down_s", "stalls_after_s"):
        del document["eta"][name]
    found = codec.decode_operation(document)
    assert found.root == snapshot(eta=eta, stall_after_s=90.0)
    assert found.levels == (snapshot("a:1", stall_after_s=90.0),)


def test_a_preview_is_told_without_the_place_of_its_content() -> None:
    """Where it is stored is nobody's business; who reads a document finds the address it has there."""
    before = preview(3, "song:1", width=None)
    document = json.loads(codec.dumps(codec.encode_preview(before)))
    assert before.location not in document.values()
    assert codec.decode_preview(document) == replace(before, location="")
    assert codec.decode_preview({**document, "url": "/api/3"}) == replace(before, location="/api/3")
