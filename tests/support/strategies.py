"""Hypothesis strategies for any record that a worker can create."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from otel_progress.model import Eta, Failure, LevelSnapshot, Outcome, Status, adjust_ratio
from otel_progress.text import encode_segment
from tests.support.factories import event, snapshot

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
REAL = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
COUNT = st.integers(0, 2**63 - 1)
NUMBER = COUNT | REAL
METADATA = st.dictionaries(
    TEXT,
    TEXT | st.booleans() | st.integers() | REAL | st.lists(TEXT).map(tuple) | st.lists(REAL).map(tuple),
    max_size=4,
)
FAILURE = st.builds(Failure, TEXT, TEXT, st.none() | TEXT)
MAYBE = st.none() | REAL
ETA = st.builds(Eta, MAYBE, MAYBE, MAYBE, TEXT, TEXT, COUNT, REAL, MAYBE, MAYBE)
EXTRA = st.fixed_dictionaries(
    {
        "estimated": st.booleans(),
        "paused_clock": MAYBE,
        "paused_s": REAL,
        "previews": COUNT,
        "overdue_after_s": MAYBE,
        "resumed_from": COUNT,
    }
)
PATH = st.lists(st.builds(encode_segment, TEXT, TEXT), min_size=1, max_size=3).map("/".join)


@st.composite
def snapshots(draw: st.DrawFn, path: str) -> LevelSnapshot:
    """Any snapshot of the level at ``path``. Its ratio is valid if it ended early."""
    made = snapshot(
        path,
        sequence=draw(st.integers(0, 2**40)),
        name=draw(TEXT),
        unit=draw(st.none() | TEXT),
        weight=draw(REAL),
        declared=draw(st.booleans()),
        attempt=draw(st.integers(1, 99)),
        order=draw(COUNT),
        started_at=draw(st.none() | REAL),
        started_clock=draw(st.none() | REAL),
        deadline_at=draw(st.none() | REAL),
        status=draw(st.sampled_from(Status)),
        current=draw(NUMBER),
        total=draw(st.none() | NUMBER),
        ratio=draw(st.none() | st.floats(0, 1)),
        failed=draw(COUNT),
        skipped=draw(COUNT),
        message=draw(st.none() | TEXT),
        metadata=draw(METADATA),
        error=draw(st.none() | FAILURE),
        stage=draw(st.none() | TEXT),
        eta=draw(st.none() | ETA),
        observed_at=draw(REAL),
        observed_clock=draw(REAL),
        advanced_at=draw(st.none() | REAL),
        advanced_clock=draw(st.none() | REAL),
        stall_after_s=draw(REAL),
        ended_at=draw(st.none() | REAL),
        duration_s=draw(st.none() | REAL),
        **draw(st.just({}) | EXTRA),
    )
    return replace(made, ratio=adjust_ratio(made.status, made.current, made.total, made.ratio))


EVENTS = st.lists(
    st.builds(
        event,
        number=st.integers(-(2**63), 2**63 - 1),
        path=PATH,
        level_type=TEXT,
        kind=TEXT,
        at=REAL,
        name=st.none() | TEXT,
        outcome=st.none() | st.sampled_from(Outcome),
        error=st.none() | FAILURE,
        metadata=METADATA,
    ),
    unique_by=lambda item: item.number,
    max_size=5,
)
