"""A fixed program with every kind of level, end, item, log and batch."""

from __future__ import annotations

import logging
from typing import Final

import otel_progress as progress
from otel_progress import Level, Stages
from otel_progress.testing import Recorder

LOGGER: Final = logging.getLogger("nightly.render")


def do_work(recorder: Recorder, *, flush: bool = False) -> tuple[Level, Level]:
    """Run operations of every kind and return the two that are still running.

    ``flush`` exports after each tick, so that exporters receive every tick.
    """
    clock = recorder.clock

    def tick() -> None:
        recorder.tick()
        assert not flush or recorder.runtime.force_flush(60.0)

    with progress.batch("Night run", id="night", total=4) as night:
        with progress.operation(
            "render", "Friday", id="friday", total=6, unit="frame", stages=Stages(mix=3, master=1),
            batch=night, eta_key="large",
            customer="acme", password="hunter2", sizes=(1, 2),
        ) as op:  # fmt: skip
            for number in range(3):
                with op.level("frame", number, f"Frame {number}", total=2, unit="pixel", weight=2) as frame:
                    frame.increment(message=f"pixel of {number}")
                    clock.advance(2.0)
                    LOGGER.warning("slow frame %d", number, extra={"size": number})
                    frame.increment()
                    tick()
                op.increment()
            op.item("a.png")
            op.item("b.png", outcome="failed", error=OSError("gone"))
            op.item("c.png", outcome="skipped")
            with op.paused("waiting for a license"):
                clock.advance(5.0)
                tick()
            with op.stage("mix"):
                clock.advance(1.0)
            with op.level("encode"), op.level("opaque").opaque(10.0):
                clock.advance(4.0)
                tick()
        clock.advance(1.0)
        _failing(recorder, night)
        with progress.operation("backup", id="cancelled", batch=night) as op:
            progress.request_cancel("cancelled", "no longer needed")
            op.cancel("no longer needed")
        tick()
        with progress.operation("import", id="tracked") as op:
            for _ in progress.track([1, 2, 3], "Rows", unit="row"):
                clock.advance(0.5)
                tick()
            for _ in range(2):
                with op.level("file", "again"):
                    clock.advance(0.25)
    running = progress.operation("render", "Saturday", id="running", total=10, deadline=3_600).start()
    running.update(current=4, message="half way")
    clock.advance(30.0)
    waiting = progress.operation("backup", "Nightly", id="waiting").start()
    tick()
    clock.advance(90.0)
    tick()
    return running, waiting


def _failing(recorder: Recorder, night: progress.OperationBatch) -> None:
    try:
        with progress.operation("backup", id="failed", total=2, batch=night) as op:
            op.increment()
            with op.level("file", "broken"):
                recorder.clock.advance(3.0)
                raise ValueError("unreadable")
    except ValueError:
        LOGGER.info("the backup failed")
