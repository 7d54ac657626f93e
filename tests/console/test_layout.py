"""Layout of the tree of bars."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from otel_progress.console.glyphs import ASCII, choose_glyphs
from otel_progress.console.layout import ProgressTree, render_finished, render_tree
from otel_progress.console.plain import format_operation
from otel_progress.model import Eta, Failure, LevelCounts, Status
from otel_progress.operations import OperationSnapshot
from tests.support.estimate_cases import WAITS
from tests.support.examples import scale_examples
from tests.support.factories import CLOCK, ended, operation, snapshot


def setlist(**fields: object) -> OperationSnapshot:
    """Return an operation one minute after its start, with stages and songs."""
    root = snapshot(
        current=21,
        total=50,
        ratio=0.42,
        failed=1,
        unit="song",
        name="Friday setlist",
        message="Mixing",
        advanced_clock=CLOCK + 59.0,
        eta=Eta(48.0, 40.0, 60.0, "estimated", "rate", 0, CLOCK + 60.0),
    )
    levels = [
        ended("stage:queue", declared=True, name="queue", order=0),
        snapshot("stage:preparation", declared=True, name="preparation", order=1, status=Status.SKIPPED),
        snapshot("stage:execution", declared=True, name="execution", order=2, ratio=0.4),
        snapshot("stage:final", declared=True, name="final", order=3, status=Status.PENDING),
        snapshot("song:12", name="Blue", current=5, total=10, ratio=0.5, order=4),
        snapshot("song:12/action:1", name="Export", current=3, order=0),
        *(ended(f"song:{number}", order=5 + number) for number in range(3)),
        ended(
            "song:9",
            name="Red",
            status=Status.FAILED,
            error=Failure("ValueError", "bad rate\nand more"),
            order=30,
        ),
    ]
    return operation(root, levels, **fields)


def text(operation_: OperationSnapshot, width: int = 80, height: int = 24) -> list[str]:
    """Return the frame of one operation."""
    return [line.plain.rstrip() for line in render_tree([operation_], width=width, height=height)]


def test_tree_at_100_columns_has_all_rows() -> None:
    """Finished levels are counted. Failed ones are listed with their error."""
    assert text(setlist(), width=100) == [
        "● Friday setlist setlist ━━━━━━━────────── 42% 21/50 songs 21.0/min "
        "1m 00s, 48s left 1 failed Mixing",
        "  ✓ queue  – preparation  ● execution 40%  · final",
        "  ● song Blue            ━━━━━━━━╸──────── 50%        5/10  5.0/min 1m 00s",
        "    ● action Export      ────━━━──────────               3  3.0/min 1m 00s",
        "  ✗ song Red ValueError: bad rate",
        "  … 3 more, all completed",
    ]


def test_interval_is_shown_on_wide_terminal_only() -> None:
    assert "1m 00s, 48s left (40s to 1m) 1 failed Mixing" in text(setlist(), width=140)[0]
    assert "(" not in text(setlist(), width=119)[0]


@pytest.mark.parametrize(
    ("evicted", "line"),
    [
        (LevelCounts(completed=312), "  … 315 more, all completed"),
        (LevelCounts(failed=1), "  … 4 more: 3 completed, 1 failed"),
        (LevelCounts(1, 2, 3, 4), "  … 13 more: 4 completed, 2 failed, 3 cancelled, 4 skipped"),
        (LevelCounts(completed=7, ended_early=2), "  … 10 more, all completed (2 ended early)"),
        (LevelCounts(failed=1, ended_early=1), "  … 4 more: 3 completed (1 ended early), 1 failed"),
    ],
)
def test_evicted_levels_are_counted_with_the_ended_levels_without_a_row(
    evicted: LevelCounts, line: str
) -> None:
    """The three completed songs have no row either. The failed one has."""
    before = setlist()
    stored = LevelCounts(completed=3, failed=1)
    counts = LevelCounts(*(first + second for first, second in zip(stored, evicted, strict=True)))
    queue = LevelCounts(completed=1, skipped=1)  # the stages
    counts = LevelCounts(*(first + second for first, second in zip(counts, queue, strict=True)))
    assert text(replace(before, root=replace(before.root, ended_levels=counts)))[-1] == line


def test_ended_levels_without_a_row_that_ended_early_are_counted() -> None:
    """They are stored, unlike evicted ones."""
    early = [ended(f"song:{number}", total=10, current=4, order=number) for number in range(2)]
    whole = ended("song:9", total=10, current=10, order=9)
    assert text(operation(snapshot(), [*early, whole]))[-1] == "  … 3 more, all completed (2 ended early)"
    assert text(operation(snapshot(), early[:1]))[-1] == "  … 1 more, completed (1 ended early)"


def test_level_with_only_evicted_levels_below_has_their_number() -> None:
    """A running level may have no stored level below it."""
    busy = snapshot("song:1", ended_levels=LevelCounts(completed=1, cancelled=1), order=1)
    lines = text(operation(snapshot(ended_levels=LevelCounts(completed=1)), [busy]))
    assert lines[-2:] == ["    … 2 more: 1 completed, 1 cancelled", "  … 1 more, completed"]


def test_level_without_a_name_is_shown_once() -> None:
    """Its name is its type and number."""
    levels = [
        snapshot("thumbs:1", name="thumbs 1"),
        ended("thumbs:2", name="thumbs 2", status=Status.FAILED, order=1),
    ]
    lines = text(operation(snapshot(name="setlist"), levels))
    assert ["".join(line.split()[:3]) for line in lines[1:]] == ["●thumbs1", "✗thumbs2"]
    assert "".join(lines).count("setlist") == 1
    assert "thumbs thumbs" not in "".join(lines)


def test_estimated_percentages_are_marked() -> None:
    step = snapshot(
        "stage:encode/step:1",
        name="ffmpeg",
        ratio=0.5,
        estimated=True,
        eta=Eta(30.0, None, None, "estimated", "expected", 0, CLOCK),
    )
    stage = snapshot("stage:encode", declared=True, name="encode", ratio=0.5, estimated=True)
    lines = text(
        operation(snapshot(ratio=0.25, estimated=True), [stage, step], clock=CLOCK + 10.0), width=100
    )
    assert "~25%" in lines[0]
    assert "encode ~50%" in lines[1]
    assert [line for line in lines if "ffmpeg" in line and "~50%" in line and "10s, 20s left" in line]


def test_level_of_paused_operation_has_no_estimate() -> None:
    """Nor has a level of an abandoned operation."""
    song = snapshot(
        "song:12", name="Blue", ratio=0.5, eta=Eta(300.0, None, None, "estimated", "history", 5, CLOCK)
    )
    root = snapshot(ratio=0.5)
    assert "4m 00s left" in text(operation(root, [song], clock=CLOCK + 60.0), width=100)[1]
    paused = replace(root, paused_clock=CLOCK + 60.0)
    assert "left" not in text(operation(paused, [song], clock=CLOCK + 60.0), width=100)[1]
    assert "left" not in text(operation(root, [song], alive=False), width=100)[1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(20.0, "4m 40s left"), (80.0, "4m 30s left"), (95.0, "at least 3m 30s left")]
)
def test_time_left_counts_down_then_becomes_lower_bound(seconds: float, words: str) -> None:
    """The plain line has the same text."""
    waiting = operation(snapshot(ratio=0.5, eta=WAITS, stall_after_s=1e6), clock=CLOCK + seconds)
    assert words in text(waiting, width=140)[0]
    assert words in format_operation(waiting)


def test_bar_without_total_moves_without_percentage() -> None:
    frames = {
        text(operation(snapshot(current=3), clock=CLOCK + seconds))[0] for seconds in (60.0, 60.5, 61.0)
    }
    assert len(frames) == 3
    assert not any("%" in frame for frame in frames)


def test_message_is_in_the_line_if_it_fits() -> None:
    assert len(text(operation(snapshot(ratio=0.5, message="Mixing the second track")), width=80)) == 1
    assert len(text(operation(snapshot(ratio=0.5, message="Mixing the second track")), width=40)) == 2


@pytest.mark.parametrize("width", [1, 5, 10, 20, 40, 60, 80, 120, 300])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 24])
def test_tree_fits_any_terminal(width: int, height: int) -> None:
    lines = render_tree([setlist(), setlist()], width=width, height=height)
    assert 1 <= len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


def test_small_terminal_shows_operation_and_running_levels() -> None:
    """The omitted lines are counted."""
    lines = text(setlist(), height=4)
    assert [line.split()[1] for line in lines[:3]] == ["Friday", "song", "action"]
    assert lines[3] == "… 4 more"


def test_narrow_terminal_shows_percentage() -> None:
    assert "42%" in text(setlist(), width=40)[0]


def test_newest_operations_are_shown_oldest_first() -> None:
    """A new operation moves no row."""
    operations = [
        operation(snapshot(name=f"n{number}", ratio=0.1, operation_id=f"n{number}"))
        for number in range(9, -1, -1)
    ]
    shown = [line.plain.split()[1] for line in render_tree(operations, width=80, height=5)]
    assert shown == ["n6", "n7", "n8", "n9", "6"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"clock": CLOCK + 200.0}, "stalled for 2m 21s"),
        ({"alive": False}, "abandoned"),
        ({"clock": CLOCK + 125.0}, "overdue"),
        ({"clock": CLOCK + 200.0}, "paused for 2m 20s"),
    ],
)
def test_condition_is_written_as_text(fields: dict[str, object], word: str) -> None:
    base = setlist(**fields)
    kinds = {"overdue": {"overdue_after_s": 120.0}, "paused": {"paused_clock": CLOCK + 60.0}}
    base = replace(base, root=replace(base.root, **kinds.get(word.split()[0], {})))
    assert word in text(base, width=120)[0]


def test_condition_without_space_gets_its_own_line() -> None:
    paused = setlist(clock=CLOCK + 200.0)
    paused = replace(
        paused, root=replace(paused.root, paused_clock=CLOCK + 60.0, message="Waiting for a robot arm")
    )
    assert text(paused, width=80)[1] == "  1 failed paused for 2m 20s Waiting for a robot arm"
    assert "paused for 2m 20s" in text(paused, width=140)[0]


def test_failed_count_and_attempt_are_in_the_line() -> None:
    assert "2 failed attempt 3" in text(operation(snapshot(failed=2, attempt=3, ratio=0.5)))[0]


def test_control_characters_are_escaped() -> None:
    evil = "\x1b]0;title\x07[bold]x[/]\n\u202e"
    root = snapshot(name=evil, message=evil, ratio=0.1)
    shown = text(
        operation(root, [ended("song:1", name=evil, status=Status.FAILED, error=Failure(evil, evil))]),
        width=300,
    )
    assert "[bold]x[/]\\n\\u202e" in shown[0]
    assert not any(character in "".join(shown) for character in "\x1b\x07\n\u202e")


def test_wide_characters_keep_columns_aligned() -> None:
    levels = [
        snapshot("song:1", name="混合トラック" * 5, ratio=0.5, order=1),
        snapshot("song:2", name="plain", ratio=0.5, order=2),
    ]
    lines = render_tree([operation(snapshot(ratio=0.5), levels)], width=79, height=9)
    assert len({line.cell_len for line in lines}) == 1


@settings(max_examples=scale_examples(60), deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.integers(1, 130), st.none() | st.floats(-1, 2))
def test_tree_of_any_text_fits_any_width(name: str, message: str, width: int, ratio: float | None) -> None:
    levels = [snapshot("song:1", name=message, ratio=ratio, current=1)]
    lines = render_tree(
        [operation(snapshot(name=name, message=message, ratio=ratio), levels)], width=width, height=10
    )
    assert all(
        line.cell_len <= width and "\n" not in line.plain and "\x1b" not in line.plain for line in lines
    )


def test_ten_thousand_levels_fit_the_height() -> None:
    levels = [snapshot(f"song:{number}", order=number, ratio=0.1) for number in range(10_000)]
    lines = text(operation(snapshot(ratio=0.1), levels), height=10)
    assert len(lines) == 10
    assert "song Name of 9999" in lines[-2]


def test_levels_below_max_depth_are_omitted() -> None:
    path = "/".join(f"a:{number}" for number in range(10_000))
    assert len(text(operation(snapshot(ratio=0.1), [snapshot(path)]))) == 1


def test_encoding_without_bars_uses_ascii_glyphs() -> None:
    assert choose_glyphs("latin-1") is ASCII
    assert choose_glyphs(None) is ASCII
    assert choose_glyphs("no-such-encoding") is ASCII
    shown = "".join(
        line.plain for line in render_tree([setlist()], width=80, height=24, glyphs=choose_glyphs("ascii"))
    )
    assert shown.isascii()


def test_tree_with_no_color_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    outputs = []
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        console = Console(file=io.StringIO(), width=80, force_terminal=True)
        with console.capture() as capture:
            console.print(ProgressTree([setlist()]))
        outputs.append(capture.get())
    assert "\x1b[36m" in outputs[0]
    assert "\x1b[36m" not in outputs[1]
    assert "42%" in outputs[1]


def test_finished_operation_leaves_result_and_failed_levels() -> None:
    failed = [
        ended(f"song:{number}", name=f"s{number}", status=Status.FAILED, error=Failure("OSError", "gone"))
        for number in range(8)
    ]
    root = ended(
        status=Status.FAILED,
        ratio=0.5,
        current=5,
        total=10,
        unit="song",
        failed=8,
        error=Failure("OSError", "disk full"),
    )
    lines = [line.plain for line in render_finished(operation(root, failed), width=100)]
    assert (
        lines[0]
        == "✗ setlist Name of friday-42 failed at 50% 5/10 songs 8 failed in 1m 00s OSError: disk full"
    )
    assert lines[1] == "  ✗ song s3 OSError: gone"
    assert lines[6] == "  … 3 more failed"
    assert len(lines) == 7


@pytest.mark.parametrize("width", range(32, 130, 7))
def test_failed_count_of_finished_operation_is_not_cut(width: int) -> None:
    """A long title is cut instead."""
    root = snapshot(
        name="A long name of an operation", status=Status.COMPLETED, failed=1234567, duration_s=1.0
    )
    text = render_finished(operation(root), width=width)[0].plain
    assert "1234567 failed" in text
    assert len(text) <= width


@pytest.mark.parametrize("width", [40, 80, 120])
def test_operation_that_ended_early_is_shown_with_its_count(width: int) -> None:
    """Its unit has the given plural."""
    root = snapshot(
        status=Status.COMPLETED,
        current=2,
        total=5,
        ratio=0.4,
        unit="child",
        unit_plural="children",
        duration_s=1.0,
    )
    text = render_finished(operation(root), width=width)[0].plain
    assert "completed 2/5 children ended early" in text
