"""When a preview is taken: at fractions, every so many seconds, always; one at a time a level."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.errors import ConfigurationError
from otel_progress.previews.schedule import due
from otel_progress.testing import Recorder, recording
from tests.support.previews import PATIENCE_S, content_of, outcomes, settle, stored


def work(recorder: Recorder, steps: int, at: object = None, seconds: float = 1.0) -> list[str]:
    """Work through an operation, with a preview offered at each step, and return those that were stored."""
    with progress.operation("render", total=steps) as op:
        for step in range(1, steps + 1):
            op.increment()
            recorder.clock.advance(seconds)
            op.preview(f"step {step}", at=at)  # type: ignore[arg-type]
            settle(recorder)
        return [content_of(recorder, preview).decode() for preview in stored(recorder, op.operation_id)]


def test_by_default_at_each_quarter(recorder: Recorder) -> None:
    """At 25, 50 and 75 % one is taken, and no other."""
    assert work(recorder, 40) == ["step 10", "step 20", "step 30"]
    assert outcomes(recorder) == {"stored": 3}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("50%", ["step 10"]),
        ((0.1, 1.0), ["step 2", "step 20"]),
        (8, ["step 1", "step 9", "step 17"]),
        ("8s", ["step 1", "step 9", "step 17"]),
        ("always", [f"step {step}" for step in range(1, 21)]),
    ],
)
def test_the_setting_says_when(setting: object, expected: list[str]) -> None:
    """Fractions, seconds and always, as the setting and in place of it for one call."""
    with recording(preview_at=setting) as recorder:
        assert work(recorder, 20) == expected
    with recording() as recorder:
        assert work(recorder, 20, at=setting) == expected


def test_a_leap_over_several_fractions_is_one_preview(recorder: Recorder) -> None:
    """Whoever passes all fractions at once has one preview, of now; going back makes none."""
    with progress.operation("render", total=100) as op:
        for current in (10, 90, 20, 60, 95):
            op.update(current=current)
            op.preview(str(current))
            settle(recorder)
        assert [content_of(recorder, preview) for preview in stored(recorder, op.operation_id)] == [b"90"]


def test_a_level_without_a_total_goes_by_the_one_above(recorder: Recorder) -> None:
    """Where a level does not know how far it is, the nearest one above that does decides; nobody knows: none is due."""
    with progress.operation("render", total=2) as op, op.level("frame") as frame:
        frame.preview("too early")
        op.increment()
        frame.preview("half of the operation")
        assert [content_of(recorder, preview) for preview in stored(recorder, op.operation_id)] == [
            b"half of the operation"
        ]
    with progress.operation("endless") as op:
        op.increment()
        op.preview("nobody knows")
        assert stored(recorder, op.operation_id) == []


def test_fractions_of_stages_and_children_count(recorder: Recorder) -> None:
    """A fraction that follows from what is below is that of the last tick."""
    with progress.operation("render", stages={"draw": 3, "write": 1}) as op:
        with op.stage("draw"):
            op.preview("too early")
        recorder.tick()
        op.preview("three quarters")
        assert [preview.ratio for preview in stored(recorder, op.operation_id)] == [0.75]


def test_one_at_a_time_and_due_again_when_dropped(recorder: Recorder) -> None:
    """While one is being made another is dropped and counted, on that level alone; it is due again at the next call."""
    gate = threading.Event()
    with progress.operation("render", total=4) as op, op.level("frame", total=4) as frame:
        op.increment()
        op.preview(lambda: "slow" if gate.wait(PATIENCE_S) else "", "slow")
        op.preview("dropped", "other")
        op.preview("dropped", "other")
        frame.increment()
        frame.preview("another level")
        gate.set()
        assert outcomes(recorder) == {"dropped": 2, "stored": 2}
        op.preview("taken", "other")
        found = stored(recorder, op.operation_id)
        assert [content_of(recorder, preview) for preview in found] == [b"slow", b"another level", b"taken"]
        assert [preview.path for preview in found] == ["", frame.path, ""]


def test_more_than_a_few_that_wait_are_dropped(recorder: Recorder) -> None:
    """Levels cannot pile up copies: from a number on, what they offer is dropped."""
    gate = threading.Event()
    with progress.operation("render", total=1) as op:
        op.preview(lambda: "slow" if gate.wait(PATIENCE_S) else "", at="always")
        for number in range(50):
            op.level("frame", number).start().preview(f"frame {number}", at="always")
        gate.set()
        found = outcomes(recorder)
    assert found["dropped"] >= 50 - 17
    assert found["stored"] + found["dropped"] == 51


def test_nothing_is_remembered_of_levels_that_ended(recorder: Recorder) -> None:
    """Ten thousand levels with previews leave nothing behind them."""
    with progress.operation("render", total=1) as op:
        for number in range(200):
            with op.level("frame", number, total=1) as frame:
                frame.preview("never due")
        assert recorder.runtime._previews is not None
        assert len(recorder.runtime._previews._turns) == 0


@given(
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6),
    st.lists(st.floats(0.0, 1.0), max_size=40),
)
def test_each_fraction_is_taken_once_at_most(fractions: list[float], ratios: list[float]) -> None:
    """However a ratio moves, there are no more previews than fractions, each for one that was passed, each higher than before."""
    at, last, marks = tuple(sorted(set(fractions))), None, []
    for ratio in ratios:
        mark = due(at, last, ratio, 0.0)
        if mark is not None:
            assert mark <= ratio
            marks.append(mark)
            last = mark
    assert marks == sorted(set(marks))
    assert set(marks) <= set(at)
    assert (max(ratios, default=0.0) >= at[0]) == bool(marks)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("preview_at", "now and then", "fractions of the work"),
        ("preview_at", "0%", "fractions of the work"),
        ("preview_at", "25%,101%", "fractions of the work"),
        ("preview_edge", 8, "pixels from 16 to 4096"),
        ("preview_edge", "big", "pixels from 16 to 4096"),
        ("preview_format", "gif", "png, webp or jpeg"),
        ("preview_count", 0, "from 1 to 10000"),
        ("preview_size", "12 parsecs", "16MiB"),
        ("preview_size", 10, "64KiB"),
        ("previews", "", "a folder, or a URL"),
        ("previews", "a\0b", "a folder, or a URL"),
        ("previews", "nosuch://bucket/x", "of no kind that is known"),
        ("previews", "ftp://me:hunter2@host/x", "has a password"),
        ("previews", "memory://x?secret=1", "has a password"),
        ("public_url", "ftp://x", "public URL of the server"),
        ("public_url", "http://me:pw@x", "public URL of the server"),
        ("public_url", "http://x/\x1b", "public URL of the server"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(name: str, value: object, expected: str) -> None:
    """A bad setting is refused with what was expected, and nothing is configured; no password is repeated."""
    with pytest.raises(ConfigurationError, match=expected) as refused, recording(**{name: value}):
        pass  # pragma: no cover
    assert "hunter2" not in str(refused.value)
    assert str(refused.value).isprintable()
