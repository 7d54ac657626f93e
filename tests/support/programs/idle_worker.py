"""A worker that records one of everything and then idles.

Scraped and pushed metrics are compared.

``python idle_worker.py`` prints the address of its metrics once they have been pushed. It ends when
its stdin is closed.
"""

from __future__ import annotations

import logging
import sys

import otel_progress as progress


def work() -> progress.Level:
    """End operations in every way, count items, return a running operation."""
    with progress.operation(
        "backup", 'Backup of ünïcode "quotes" and \\slashes\\', id="backup-1", total=4, unit="file"
    ) as op:
        op.item("a")
        op.item("b", outcome="failed", error=OSError("gone"))
        op.item("c", outcome="skipped", reason="empty")
        op.increment()
    try:
        with progress.operation("import", id="import-1", total=3, deadline=60):
            raise RuntimeError("no such table")
    except RuntimeError:
        logging.getLogger(__name__).debug("as planned")
    progress.operation("import", id="import-2").start().cancel("not needed")
    with progress.batch("Two of them", id="both", type="pair", total=3) as batch:
        for number in range(2):
            with batch.operation("part", f"part {number}", total=1) as part:
                part.increment()
    running = progress.operation(
        "render", "A picture", id="render-1", stages={"queue": 1, "draw": 9}, deadline=3600
    ).start()
    running.stage("queue").start().complete()
    stage = running.stage("draw").start()
    stage.set_total(10)
    stage.increment(4)
    stage.update(current=-1)  # rejected and counted
    return running


def main() -> int:
    """Work, push, print the address of the metrics, wait."""
    with progress.configure(console=False, resources=False) as runtime:
        running = work()
        if not runtime.force_flush():
            sys.stderr.write("what was pushed did not arrive\n")
            return 1
        sys.stdout.write(f"{runtime.metrics_url}\n")
        sys.stdout.flush()
        sys.stdin.read()
        running.complete()
    return 0


if __name__ == "__main__":
    sys.exit(main())
