"""Memory of active levels, and growth by iterations and ended levels."""

from __future__ import annotations

import gc
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from opentelemetry.trace import NoOpTracerProvider

import otel_progress as progress
from benchmarks.rounds import Effort
from benchmarks.setting import configured
from benchmarks.table import Row, judged

LEVELS: Final = 100_000
LEVEL_TARGET: Final = 2_500
FLUSH_S: Final = 60.0
ITERATIONS: Final = 10_000_000
ENDED: Final = 1_000_000
GROWTH_TARGET: Final = 2**20
"""Allowed growth from allocation noise in a process of about 50 MB, in bytes."""


def resident() -> int:
    """Return the resident memory of this process in bytes.

    Without /proc, it is the maximum so far.
    """
    gc.collect()
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def active_levels(effort: Effort) -> Iterator[Row]:
    """Measure active levels of one operation with their handles and without spans."""
    yield from _active(effort.count(LEVELS), "memory:")


def journaled_levels(effort: Effort) -> Iterator[Row]:
    """Measure the same with a journal, which stores the last written state of each."""
    with tempfile.TemporaryDirectory() as directory:
        yield from _active(effort.count(LEVELS), f"sqlite:///{Path(directory) / 'journal.db'}")


def _active(count: int, store: str) -> Iterator[Row]:
    with configured(NoOpTracerProvider(), store) as runtime, progress.operation("memory") as operation:
        with operation.level("file", "warm-up"):
            runtime.force_flush(FLUSH_S)
        before = resident()
        levels = [operation.level("file", number).start() for number in range(count)]
        at_start = (resident() - before) / count
        runtime.force_flush(FLUSH_S)
        collected = (resident() - before) / count
        del levels
    what = f"{count:,} active levels" + ("" if store == "memory:" else " and a journal")
    yield Row(f"{what}: started", f"{at_start:,.0f} bytes each")
    cost, target = f"{collected:,.0f} bytes each", f"≤ {LEVEL_TARGET:,} bytes"
    yield judged(f"{what}: collected", cost, "", target, met=collected <= LEVEL_TARGET)


def iterations(effort: Effort) -> Iterator[Row]:
    """Iterate without storing anything."""
    count = effort.count(ITERATIONS)
    with configured():
        _iterate(count // 10)
        before = resident()
        _iterate(count)
        growth = resident() - before
    yield _grown(f"{count:,} iterations of track", growth)


def ended_levels(effort: Effort) -> Iterator[Row]:
    """Start and end levels of one operation: a tenth as warm-up, then the others."""
    count = effort.count(ENDED)
    with configured(), progress.operation("memory") as operation:
        _start_and_end(operation, count // 10)
        before = resident()
        _start_and_end(operation, count - count // 10)
        growth = resident() - before
    yield _grown(f"{count:,} levels started and ended under one operation", growth)


def _iterate(count: int) -> None:
    for _ in progress.track(range(count)):
        pass


def _start_and_end(operation: progress.Level, count: int) -> None:
    for _ in range(count):
        operation.level("step").start().complete()


def _grown(what: str, growth: int) -> Row:
    return judged(
        what,
        f"{growth / 1024:+,.0f} KiB",
        "",
        f"≤ {GROWTH_TARGET // 1024:,} KiB",
        met=growth <= GROWTH_TARGET,
    )
