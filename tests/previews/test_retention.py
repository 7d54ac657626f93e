"""How many previews are kept: within a number, a size and an age, thinned out so that they still span the run."""

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
from otel_progress.testing import Recorder, recording
from tests.support.previews import PATIENCE_S, content_of, outcomes, settle, stored


def files(folder: Path) -> list[str]:
    """Return the names of all files below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def preview(number: int, at: float, size: int = 10, digest: str = "") -> Preview:
    """Return a record of a preview."""
    digest = digest or f"{number:064x}"
    return Preview(
        "r",
        "render",
        "0" * 16,
        "",
        number,
        at,
        "preview",
        "image/png",
        size,
        digest,
        f"memory:/{digest}",
        1,
        1,
    )


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0.1, 100.0), min_size=1, max_size=80),
    sizes=st.lists(st.integers(1, 50), min_size=80, max_size=80),
    digests=st.lists(st.integers(0, 20), min_size=80, max_size=80),
    bounds=st.builds(Bounds, st.integers(1, 12), st.integers(20, 400), st.floats(50.0, 1e6)),
)
def test_bounds_hold_and_ends_stay(
    gaps: list[float], sizes: list[int], digests: list[int], bounds: Bounds
) -> None:
    """Whatever comes: the newest is kept, bounds hold, content that is still needed is never deleted, and the rest always is."""
    book, at, content = PreviewRetention(), 0.0, set()
    for number, (gap, size, digest) in enumerate(zip(gaps, sizes, digests, strict=False), 1):
        at += gap
        one = preview(number, at, size, f"{digest:064x}")
        content.add(one.location)
        gone = book.add(one, bounds)
        content -= set(book.unused(gone))
        assert book.kept[-1] is one
        assert content == {kept.location for kept in book.kept}
        assert len(book.kept) <= bounds.count
        assert (
            len(book.kept) == 1 or sum({k.location: k.size_bytes for k in book.kept}.values()) <= bounds.size
        )
        assert all(at - kept.at <= bounds.age for kept in book.kept)


def test_thinning_keeps_the_beginning_and_even_gaps() -> None:
    """Of a thousand at equal times fifty are left, the first and the last among them, at gaps that differ by a factor of four at most."""
    book = PreviewRetention()
    for number in range(1, 1001):
        book.add(preview(number, float(number)), Bounds(50, 10**9, 1e9))
    numbers = [one.number for one in book.kept]
    gaps = [after - before for before, after in pairwise(numbers)]
    assert (len(numbers), numbers[0], numbers[-1]) == (50, 1, 1000)
    assert max(gaps) <= 4 * sorted(gaps)[len(gaps) // 2]


def test_what_makes_room_is_gone_everywhere(tmp_path: Path) -> None:
    """A preview that was thinned out is in no list, its file is deleted, and its number is not given again."""
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


def test_unchanged_content_is_not_stored_twice(tmp_path: Path) -> None:
    """The same picture again is no new preview; one that comes back is, and shares what is stored."""
    with (
        recording(previews=str(tmp_path), preview_at="always") as recorder,
        progress.operation("render", total=1) as op,
    ):
        for text in ("a", "a", "b", "a", "a"):
            op.preview(text)
            settle(recorder)
        assert outcomes(recorder) == {"stored": 3, "unchanged": 2}
        assert [content_of(recorder, one) for one in stored(recorder, op.operation_id)] == [b"a", b"b", b"a"]
        assert len(files(tmp_path)) == 2


def test_one_name_or_level_does_not_hide_another(recorder: Recorder) -> None:
    """The same content under another name, or of another level, is a preview of its own."""
    with progress.operation("render", total=1) as op, op.level("frame") as frame:
        for level, name in ((op, "one"), (op, "two"), (frame, "one"), (op, "one")):
            level.preview("same", name, at="always")
            settle(recorder)
        assert outcomes(recorder) == {"stored": 3, "unchanged": 1}


def test_a_size_bounds_an_operation(tmp_path: Path) -> None:
    """The previews of one operation come to no more bytes than the setting says."""
    with recording(previews=str(tmp_path), preview_size="64KiB", preview_at="always") as recorder:
        with progress.operation("render", total=1) as op:
            for step in range(8):
                recorder.clock.advance(1.0)
                op.preview(f"{step}" * 20_000)
                settle(recorder)
            assert len(stored(recorder, op.operation_id)) == 3
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.txt")) <= 65_536


def test_an_age_bounds_a_long_run(tmp_path: Path) -> None:
    """What is older than the retention makes room, also while the work goes on."""
    settings = {"previews": str(tmp_path), "retention": "1h", "preview_at": "always"}
    with recording(**settings) as recorder, progress.operation("render", total=1) as op:
        for hour in range(4):
            recorder.clock.advance(1500.0)
            op.preview(f"{hour}")
            settle(recorder)
        assert [one.number for one in stored(recorder, op.operation_id)] == [2, 3, 4]


def test_a_preview_that_is_too_large_is_made_smaller() -> None:
    """Noise of a million pixels does not fit as PNG; it is made smaller until it does."""
    np = pytest.importorskip("numpy", reason="numpy is not installed: it makes the noise")
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), np.uint8)
    with recording(preview_edge=1000) as recorder, progress.operation("render", total=1) as op:
        op.preview(lambda: noise, at="always")
        found = stored(recorder, op.operation_id)
    assert [(one.width, one.height) for one in found] == [(500, 500)]
    assert found[0].size_bytes <= 2 * 1024 * 1024


def test_what_nobody_knows_of_any_more_is_swept(tmp_path: Path) -> None:
    """When a worker makes its first preview, old runs go from the folder; whatever is not of our making stays, and so do links."""
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
        assert files(old) == ["mine.txt"]
        assert files(odd) == files(outside) == sorted(names)
        assert len(stored(recorder, op.operation_id)) == 1


def test_runs_that_go_on_are_not_swept(tmp_path: Path) -> None:
    """A long run marks its folder, so that another worker's sweep leaves it; when it ends its retention begins."""
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
