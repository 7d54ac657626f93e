"""Schedule of previews: at fractions, at intervals or always."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.errors import ConfigurationError
from otel_progress.previews.schedule import find_due_mark
from otel_progress.testing import Recorder, recording
from tests.support.previews import PATIENCE_S, content_of, outcomes, settle, stored


def run_steps(recorder: Recorder, steps: int, at: object = None, seconds: float = 1.0) -> list[str]:
    """Run an operation that offers a preview at each step. Return the stored ones."""
    with progress.operation("render", total=steps) as op:
        for step in range(1, steps + 1):
            op.increment()
            recorder.clock.advance(seconds)
            op.preview(f"step {step}", at=at)  # type: ignore[arg-type]
            settle(recorder)
        return [content_of(recorder, preview).decode() for preview in stored(recorder, op.operation_id)]


def test_preview_by_default_is_stored_at_each_quarter(recorder: Recorder) -> None:
    """One preview is stored at 25, 50 and 75 %."""
    assert run_steps(recorder, 40) == ["step 10", "step 20", "step 30"]
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
def test_preview_at_setting_or_argument_defines_the_schedule(setting: object, expected: list[str]) -> None:
    """Fractions, seconds and ``always`` are accepted by the setting and by one call."""
    with recording(preview_at=setting) as recorder:
        assert run_steps(recorder, 20) == expected
    with recording() as recorder:
        assert run_steps(recorder, 20, at=setting) == expected


def test_preview_after_a_jump_over_fractions_is_stored_once(recorder: Recorder) -> None:
    """A jump over all fractions has one preview. A lower ratio afterwards has none."""
    with progress.operation("render", total=100) as op:
        for current in (10, 90, 20, 60, 95):
            op.update(current=current)
            op.preview(str(current))
            settle(recorder)
        assert [content_of(recorder, preview) for preview in stored(recorder, op.operation_id)] == [b"90"]


def test_preview_of_a_level_without_total_uses_the_ratio_above(recorder: Recorder) -> None:
    """The nearest ancestor with a ratio decides. Without one, no preview is due."""
    with progress.operation("render", total=2) as op, op.level("frame") as frame:
        frame.preview("too early")
        op.increment()
        frame.preview("half of the operation")
        assert [content_of(recorder, preview) for preview in stored(recorder, op.operation_id)] == [
            b"half of the operation"
        ]
    with progress.operation("endless") as op:
        op.increment()
        op.preview("unknown ratio")
        assert stored(recorder, op.operation_id) == []


def test_preview_of_an_operation_with_stages_uses_the_last_tick(recorder: Recorder) -> None:
    """A ratio that is computed from children is that of the last tick."""
    with progress.operation("render", stages={"draw": 3, "write": 1}) as op:
        with op.stage("draw"):
            op.preview("too early")
        recorder.tick()
        op.preview("three quarters")
        assert [preview.ratio for preview in stored(recorder, op.operation_id)] == [0.75]


def test_preview_offered_while_another_is_rendered_is_dropped_and_due_again(recorder: Recorder) -> None:
    """Other levels are not affected."""
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
        op.preview("stored", "other")
        previews = stored(recorder, op.operation_id)
        contents = [content_of(recorder, preview) for preview in previews]
        assert contents == [b"slow", b"another level", b"stored"]
        assert [preview.path for preview in previews] == ["", frame.path, ""]


def test_previews_beyond_the_queue_limit_are_dropped(recorder: Recorder) -> None:
    """The number of queued copies is bounded."""
    gate = threading.Event()
    with progress.operation("render", total=1) as op:
        op.preview(lambda: "slow" if gate.wait(PATIENCE_S) else "", at="always")
        for number in range(50):
            op.level("frame", number).start().preview(f"frame {number}", at="always")
        gate.set()
        counts = outcomes(recorder)
    assert counts["dropped"] >= 50 - 17
    assert counts["stored"] + counts["dropped"] == 51


def test_service_after_the_end_of_levels_holds_no_state(recorder: Recorder) -> None:
    """The state of a level is dropped at its end."""
    with progress.operation("render", total=1) as op:
        for number in range(200):
            with op.level("frame", number, total=1) as frame:
                frame.preview("never due")
        assert recorder.runtime._previews is not None
        assert len(recorder.runtime._previews._levels) == 0


@given(
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6),
    st.lists(st.floats(0.0, 1.0), max_size=40),
)
def test_due_marks_of_any_ratios_are_ascending_fractions(fractions: list[float], ratios: list[float]) -> None:
    """Each fraction is used at most once, and only after it was passed."""
    at, last, marks = tuple(sorted(set(fractions))), None, []
    for ratio in ratios:
        mark = find_due_mark(at, last, ratio, 0.0)
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
        ("previews", "nosuch://bucket/x", "expected a folder, or a URL"),
        ("previews", "ftp://me:hunter2@host/x", "without password"),
        ("previews", "memory://x?secret=1", "without password"),
        ("public_url", "ftp://x", "public URL of the server"),
        ("public_url", "http://me:pw@x", "public URL of the server"),
        ("public_url", "http://x/\x1b", "public URL of the server"),
    ],
)
def test_invalid_preview_setting_raises_without_the_password(name: str, value: object, expected: str) -> None:
    """The error names the expected values, and nothing is configured."""
    with pytest.raises(ConfigurationError, match=expected) as raised, recording(**{name: value}):
        pass  # pragma: no cover
    assert "hunter2" not in str(raised.value)
    assert str(raised.value).isprintable()
