"""Jobs shown by the dashboards: generators that use real handles.

Each yields the seconds until its next step. No time passes by itself: the caller advances a fake
clock. Handles are started and ended explicitly, because the ``with`` block of a level in a
generator would leave its context in the caller.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from typing import TypeAlias

from PIL import Image

import otel_progress as progress

Job: TypeAlias = "Generator[float, None, None]"
"""A running job; yields seconds."""

STAGES = {"prepare": 10, "render": 75, "encode": 15}
"""Weights of the stages of a render."""


def render(
    id: str, *, frames: int = 60, pace: float = 4.0, deadline: float | None = None, previews: bool = False
) -> Job:
    """Render frames in stages and complete, with optional previews."""
    op = progress.operation("render", f"Render of {id}", id=id, stages=STAGES, deadline=deadline).start()
    # A reference is kept, because a collected handle ends as abandoned.
    stage = op.stage("prepare").start()
    yield pace * 6
    stage = op.stage("render").start()
    shots = [("intro", frames // 4), ("main", frames // 2), ("credits", frames - frames // 4 - frames // 2)]
    stage.set_total(len(shots))
    done = 0
    for name, count in shots:
        shot = stage.level("shot", name, total=count, unit="frame").start()
        for _ in range(count):
            yield pace
            shot.increment()
            done += 1
            if previews:
                op.preview(partial(fractal, done / frames), at="always" if done % 20 == 0 else "50%")
        shot.complete()
    stage = op.stage("encode").start()
    yield pace * 9
    assert stage.recording
    op.complete()


def fractal(ratio: float) -> Image.Image:
    """Return a picture whose part above ``ratio`` is drawn."""
    whole = Image.effect_mandelbrot((480, 320), (-2.2, -1.2, 1.0, 1.2), 90).convert("RGB")
    left = round(whole.height * ratio)
    whole.paste((28, 32, 44), (0, left, whole.width, whole.height))
    return whole


def survey(id: str, *, pages: int, pace: float = 3.0) -> Job:
    """Visit pages without a known total."""
    op = progress.operation("survey", f"Survey {id}", id=id, unit="page").start()
    for _ in range(pages):
        yield pace
        op.increment()
    op.complete()


def ingest(
    id: str,
    *,
    files: int = 200,
    pace: float = 2.0,
    fails_after: int | None = None,
    stalls_after: int | None = None,
) -> Job:
    """Import files, some of which fail.

    The operation fails after ``fails_after`` files and stops making progress after
    ``stalls_after``.
    """
    op = progress.operation("ingest", f"Ingest {id}", id=id, total=files, unit="file").start()
    for number in range(files):
        yield pace
        if number == fails_after:
            op.fail(OSError("the disk is full"))
            return
        if number == stalls_after:
            yield float("inf")
        op.item(f"{number}.parquet", outcome="failed" if number % 37 == 5 else "completed")
    op.complete()


def cancelled(id: str, *, after: float = 60.0) -> Job:
    """Start a long import and abandon it."""
    op = progress.operation("import", f"Import {id}", id=id, total=1_000, unit="row").start()
    for _ in range(10):
        yield after / 10
        op.increment(5)
    op.cancel("no longer wanted")


def backup(id: str, *, deadline: float, blocks: int = 400, pace: float = 10.0) -> Job:
    """Copy blocks, too slowly for the deadline."""
    op = progress.operation(
        "backup", f"Backup {id}", id=id, total=blocks, unit="block", deadline=deadline
    ).start()
    for _ in range(blocks):
        yield pace
        op.increment()
    op.complete()


def thumbnails(
    batch: progress.OperationBatch, number: int, *, fails: bool = False, pictures: int = 20, pace: float = 2.0
) -> Job:
    """Create the thumbnails of one album: one operation of a batch."""
    op = batch.operation(
        "thumbnails", f"Album {number}", id=f"album-{number:02}", total=pictures, unit="picture"
    ).start()
    for done in range(pictures):
        yield pace
        if fails and done == pictures // 2:
            op.fail(ValueError("not a picture"))
            return
        op.increment()
    op.complete()


def paused(id: str, *, after: float = 120.0) -> Job:
    """Train for a while, then wait for an approval."""
    op = progress.operation("train", f"Train {id}", id=id, total=50, unit="epoch").start()
    for _ in range(12):
        yield after / 12
        op.increment()
    with ExitStack() as stack:
        stack.enter_context(op.paused("waits for the GPU"))
        yield float("inf")


def opaque(id: str, *, expected: float = 600.0) -> Job:
    """Run a step that cannot report."""
    op = progress.operation(
        "encode", f"Encode {id}", id=id, stages={"demux": 10, "encode": 80, "mux": 10}
    ).start()
    stage = op.stage("demux").start()
    yield 30.0
    stage.complete()
    stage = op.stage("encode").start()
    with ExitStack() as stack:
        stack.enter_context(stage.opaque(expected=expected))
        yield float("inf")


def twins(id: str) -> Job:
    """Survey two sites at once, each in stages of the same names."""
    op = progress.operation("survey", f"Survey {id}", id=id, total=2).start()
    sites = [op.level("site", name, stages={"walk": 1, "report": 1}).start() for name in ("east", "west")]
    walks = [site.stage("walk").start() for site in sites]
    while True:
        yield 5.0
        for walk in walks:
            walk.increment()


def many_levels(id: str, *, levels: int = 60) -> Job:
    """Work on more levels at once than an exporter shows per operation."""
    op = progress.operation("survey", f"Survey {id}", id=id, total=levels).start()
    below = [op.level("site", number, total=20).start() for number in range(levels)]
    for _ in range(19):
        yield 20.0
        for level in below:
            level.increment()
