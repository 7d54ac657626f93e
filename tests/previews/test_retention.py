"""Retention of previews: limits of number, size and age, and even thinning."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.previews.retention import Bounds, PreviewRetention
from otel_progress.records import Preview
from otel_progress.testing import CountingIds, FakeClock, Recorder, recording
from tests.support.examples import scale_examples
from tests.support.previews import PATIENCE_S, content_of, outcomes, settle, stored


def list_files(folder: Path) -> list[str]:
    """Return the names of all files below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def make_preview(number: int, at: float, size: int = 10, digest: str = "") -> Preview:
    """Return a record of a preview."""
    digest = digest or f"{number:064x}"
    origin = ("r", "render", "0" * 16, "")
    return Preview(*origin, number, at, "preview", "image/png", size, digest, f"memory:/{digest}", 1, 1)


@settings(max_examples=scale_examples(60), deadline=None)
@given(
    gaps=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=80),
    sizes=st.lists(st.integers(1, 50), min_size=80, max_size=80),
    digests=st.lists(st.integers(0, 20), min_size=80, max_size=80),
    bounds=st.builds(Bounds, st.integers(1, 12), st.integers(20, 400), st.floats(50.0, 1e6)),
)
def test_retention_of_any_previews_keeps_its_bounds_and_the_latest(
    gaps: list[float], sizes: list[int], digests: list[int], bounds: Bounds
) -> None:
    """Exactly the content that no stored preview uses is deleted."""
    retention, at, content = PreviewRetention(), 0.0, set()
    for number, (gap, size, digest) in enumerate(zip(gaps, sizes, digests, strict=False), 1):
        at += gap
        added = make_preview(number, at, size, f"{digest:064x}")
        content.add(added.location)
        removed = retention.add(added, bounds)
        content -= set(retention.unused_locations(removed))
        sizes_by_location = {preview.location: preview.size_bytes for preview in retention.previews}
        assert retention.previews[-1] is added
        assert content == set(sizes_by_location)
        assert len(retention.previews) <= bounds.count
        assert len(retention.previews) == 1 or sum(sizes_by_location.values()) <= bounds.size
        assert all(at - preview.at <= bounds.age for preview in retention.previews)


def test_retention_of_a_thousand_previews_keeps_both_ends_and_even_gaps() -> None:
    """The largest gap is at most four times the median gap."""
    retention = PreviewRetention()
    for number in range(1, 1001):
        retention.add(make_preview(number, float(number)), Bounds(50, 10**9, 1e9))
    numbers = [preview.number for preview in retention.previews]
    gaps = [after - before for before, after in pairwise(numbers)]
    assert (len(numbers), numbers[0], numbers[-1]) == (50, 1, 1000)
    assert max(gaps) <= 4 * sorted(gaps)[len(gaps) // 2]


def test_removed_preview_is_in_no_list_and_its_file_is_deleted(tmp_path: Path) -> None:
    """Its number is not used again."""
    with recording(
        previews=str(tmp_path), preview_count=3, preview_at="always", store=f"sqlite:///{tmp_path}/j.db"
    ) as recorder:
        with progress.operation("render", id="r", total=10) as op:
            for step in range(10):
                recorder.clock.advance(1.0)
                op.preview(f"step {step}")
                settle(recorder)
            live = recorder.runtime._store.reader.previews("r")
            assert recorder.runtime.force_flush(PATIENCE_S)
            assert [one.number for one in live] == [one.number for one in stored(recorder, "r")]
            assert len(live) == 3
            assert live[0].number == 1
            assert live[-1].number == op.snapshot().previews == 10
            assert recorder.runtime._components.journal is not None
            assert [one.number for one in recorder.runtime._components.journal.previews("r")] == [
                one.number for one in live
            ]
            assert content_of(recorder, live[0]) == b"step 0"
        assert len(list(tmp_path.rglob("*.txt"))) == 3


def test_unchanged_preview_is_not_stored_again(tmp_path: Path) -> None:
    """Content that comes back later is a new preview, and shares the stored file."""
    with (
        recording(previews=str(tmp_path), preview_at="always") as recorder,
        progress.operation("render", total=1) as op,
    ):
        for text in ("a", "a", "b", "a", "a"):
            op.preview(text)
            settle(recorder)
        assert outcomes(recorder) == {"stored": 3, "unchanged": 2}
        assert [content_of(recorder, one) for one in stored(recorder, op.operation_id)] == [b"a", b"b", b"a"]
        assert len(list_files(tmp_path)) == 2


def test_same_content_of_another_name_or_level_is_stored(recorder: Recorder) -> None:
    """Only the last preview of the same level and name is compared."""
    with progress.operation("render", total=1) as op, op.level("frame") as frame:
        for level, name in ((op, "one"), (op, "two"), (frame, "one"), (op, "one")):
            level.preview("same", name, at="always")
            settle(recorder)
        assert outcomes(recorder) == {"stored": 3, "unchanged": 1}


def test_preview_size_setting_limits_an_operation(tmp_path: Path) -> None:
    """The limit applies to the sum of all previews of an operation."""
    with recording(previews=str(tmp_path), preview_size="64KiB", preview_at="always") as recorder:
        with progress.operation("render", total=1) as op:
            for step in range(8):
                recorder.clock.advance(1.0)
                op.preview(f"{step}" * 20_000)
                settle(recorder)
            assert len(stored(recorder, op.operation_id)) == 3
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.txt")) <= 65_536


def test_preview_older_than_the_retention_is_removed_during_a_run(tmp_path: Path) -> None:
    """The operation need not have ended."""
    settings = {"previews": str(tmp_path), "retention": "1h", "preview_at": "always"}
    with recording(**settings) as recorder, progress.operation("render", total=1) as op:
        for hour in range(4):
            recorder.clock.advance(1500.0)
            op.preview(f"{hour}")
            settle(recorder)
        assert [one.number for one in stored(recorder, op.operation_id)] == [2, 3, 4]


def test_preview_that_is_too_large_is_scaled_down() -> None:
    """Noise of a million pixels is too large as PNG."""
    np = pytest.importorskip("numpy", reason="numpy is not installed: it makes the noise")
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), np.uint8)
    with recording(preview_edge=1000) as recorder, progress.operation("render", total=1) as op:
        op.preview(lambda: noise, at="always")
        result = stored(recorder, op.operation_id)
    assert [(one.width, one.height) for one in result] == [(500, 500)]
    assert result[0].size_bytes <= 2 * 1024 * 1024


def test_first_preview_sweeps_old_runs_and_keeps_foreign_files(tmp_path: Path) -> None:
    """Links are not followed."""
    old, odd, linked = tmp_path / ("0" * 16), tmp_path / "notes", tmp_path / ("1" * 16)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    for folder in (old, odd, outside):
        folder.mkdir()
    linked.symlink_to(outside)
    names = [f"{'a' * 64}.png", ".0123456789abcdef.part", "mine.txt"]
    for folder in (old, odd, outside):
        for name in names:
            (folder / name).write_text("old")
            os.utime(folder / name, (1, 1))
        os.utime(folder, (1, 1))
    with recording(previews=str(tmp_path)) as recorder:
        with progress.operation("render", total=1) as op:
            op.preview("new", at="always")
            settle(recorder)
        assert list_files(old) == ["mine.txt"]
        assert list_files(odd) == list_files(outside) == sorted(names)
        assert len(stored(recorder, op.operation_id)) == 1


@pytest.mark.parametrize(("hours", "is_kept"), [(23, True), (25, False)])
def test_first_preview_sweeps_runs_older_than_the_retention_by_the_clock_of_the_runtime(
    tmp_path: Path, hours: int, is_kept: bool
) -> None:
    """The content has the time of that clock, too."""
    clock, ids = FakeClock(), CountingIds()
    for number in range(2):
        with recording(clock=clock, ids=ids, previews=str(tmp_path), retention="24h") as recorder:
            with progress.operation("render", total=1) as op:
                op.preview(f"preview {number}", at="always")
                settle(recorder)
            settle(recorder)
        if number == 0:
            (old,) = tmp_path.iterdir()
            assert {path.stat().st_mtime for path in (old, *old.iterdir())} == {clock.wall()}
        clock.advance(3600.0 * hours)
    assert old.exists() is is_kept
    assert len(list(tmp_path.iterdir())) == 1 + is_kept


def test_process_whose_clock_is_ahead_does_not_sweep_the_content_of_others(tmp_path: Path) -> None:
    """The time of the file system limits the age of files."""
    other = tmp_path / ("0" * 16)
    other.mkdir()
    (other / f"{'a' * 64}.png").write_text("of another process")
    clock = FakeClock(wall=other.stat().st_mtime + 2 * 86_400.0)
    with recording(clock=clock, previews=str(tmp_path), retention="24h") as recorder:
        with progress.operation("render", total=1) as op:
            op.preview("new", at="always")
            settle(recorder)
        assert [path.name for path in other.iterdir()] == [f"{'a' * 64}.png"]
        assert len(list(tmp_path.iterdir())) == 2


def test_active_run_marks_its_folder_against_sweeps(tmp_path: Path) -> None:
    """Its retention period starts at its end."""
    with recording(previews=str(tmp_path), retention="24h") as recorder:
        with progress.operation("render", total=1) as op:
            op.preview("early", at="always")
            settle(recorder)
            (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
            for _ in range(2):
                for path in (folder, *folder.iterdir()):
                    os.utime(path, (1, 1))
                recorder.clock.advance(7200.0)
                recorder.tick()
                settle(recorder)
                assert folder.stat().st_mtime > 1
            os.utime(folder, (1, 1))
        settle(recorder)
        assert folder.stat().st_mtime > 1
