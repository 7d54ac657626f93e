"""JSON documents of operations, events and records."""

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
def test_operation_round_trips_through_json(before: OperationSnapshot) -> None:
    """All fields are equal."""
    text = codec.dumps(codec.encode_operation(before))
    assert codec.decode_operation(json.loads(text)) == before


@given(EVENTS)
def test_event_round_trips_through_json(events: list[object]) -> None:
    """All fields are equal."""
    for before in events:
        text = codec.dumps(codec.encode_event(before))  # type: ignore[arg-type]
        assert codec.decode_event(json.loads(text)) == before


def test_operation_document_has_derived_fields() -> None:
    """Readers do not have to compute them."""
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


def test_unknown_value_is_null() -> None:
    """It is never 0, and the key is never left out."""
    document = codec.encode_operation(operation(snapshot()))
    for name in ("total", "ratio", "percentage", "remaining_seconds", "ended_at", "error", "eta"):
        assert name in document
        assert document[name] is None


def test_operation_without_levels_has_no_levels_key() -> None:
    """Lists of operations leave them out."""
    assert "levels" not in codec.encode_operation(operation(snapshot(), [snapshot("a:1")]), levels=False)


def test_unknown_key_is_ignored() -> None:
    """Documents of newer versions can be read."""
    before = operation(snapshot(status=Status.FAILED, error=Failure("ValueError", "bad")))
    document = {**codec.encode_operation(before), "added_later": 1}
    assert codec.decode_operation(document) == before


def test_incomplete_document_is_refused() -> None:
    """No partial operation is returned."""
    with pytest.raises(KeyError):
        codec.decode_operation({"schema": codec.SCHEMA})


def test_nan_is_refused_by_the_encoder() -> None:
    """JSON does not have it."""
    with pytest.raises(ValueError, match="JSON"):
        codec.dumps({"ratio": float("nan")})


def test_event_without_outcome_round_trips() -> None:
    """Only items have an outcome."""
    document = codec.encode_event(event(outcome=None, error=None))
    assert document["outcome"] is None
    assert codec.decode_event({**document, "outcome": "failed"}).outcome is Outcome.FAILED


def test_document_of_an_older_version_is_decoded() -> None:
    """Missing fields have their defaults. ``longest_gap_s`` becomes ``stall_after_s``."""
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


def test_preview_document_has_no_location() -> None:
    """A URL in a document becomes the location."""
    before = preview(3, "song:1", width=None)
    document = json.loads(codec.dumps(codec.encode_preview(before)))
    assert before.location not in document.values()
    assert codec.decode_preview(document) == replace(before, location="")
    assert codec.decode_preview({**document, "url": "/api/3"}) == replace(before, location="/api/3")


def test_document_of_an_older_version_that_ended_early_has_its_ratio() -> None:
    """Older versions stored the ratio 1, and no plural."""
    root = snapshot(status=Status.COMPLETED, current=5, total=1000, ratio=1.0, unit="row")
    document = codec.encode_operation(operation(root))
    assert (document["ended_early"], document["unit_plural"]) == (True, "rows")
    for name in ("ended_early", "failed_below", "unit_plural"):
        del document[name]
    decoded = codec.decode_operation(document).root
    assert (decoded.ratio, decoded.ended_early, decoded.failed_below) == (0.005, True, 0)
    assert decoded.info.unit_plural == "rows"
