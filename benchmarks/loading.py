"""Processor use of a busy and an idle process with journal and metrics."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import otel_progress as progress
from benchmarks.rounds import Effort
from benchmarks.setting import configured
from benchmarks.table import Row, judged
from otel_progress import Level, Runtime
from otel_progress.semconv import TICK_DURATION

OPERATIONS: Final = 1_000
UPDATES_PER_SECOND: Final = 10
SLICES: Final = 10
"""Number of slices of the operations. One slice is updated every hundredth of a second."""
SECONDS: Final = 30.0
SCRAPE_EVERY_S: Final = 5.0
CPU_TARGET: Final = 0.15
TICK_TARGET: Final = 0.10
IDLE_SECONDS: Final = 5.0
IDLE_TARGET: Final = 0.001
ASLEEP_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds, wall seconds, ticks and their seconds, and use per thread."""

    cpu: float
    wall: float
    ticks: int
    tick_seconds: float
    threads: dict[str, float]

    @classmethod
    def now(cls, runtime: Runtime) -> Usage:
        """Return the use up to now."""
        ticks = runtime._totals.read().distributions.get(TICK_DURATION, {}).get(())
        threads = {
            thread.name: cpu for thread in threading.enumerate() if (cpu := _cpu_of(thread)) is not None
        }
        count, seconds = (0, 0.0) if ticks is None else (sum(ticks.counts), ticks.sum)
        return cls(time.process_time(), time.monotonic(), count, seconds, threads)

    def since(self, before: Usage) -> Usage:
        """Return the use between two moments."""
        threads = {name: cpu - before.threads.get(name, 0.0) for name, cpu in self.threads.items()}
        return Usage(
            self.cpu - before.cpu,
            self.wall - before.wall,
            self.ticks - before.ticks,
            self.tick_seconds - before.tick_seconds,
            threads,
        )


def _cpu_of(thread: threading.Thread) -> float | None:
    if thread.ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return None
    with contextlib.suppress(OSError):  # The thread ended in between.
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return None


def busy(effort: Effort) -> Iterator[Row]:
    """Update 1,000 operations ten times per second with journal and scrapes."""
    count = effort.count(OPERATIONS)
    with _observed() as runtime, ExitStack() as stack:
        operations = [
            stack.enter_context(
                progress.operation("load", f"operation {number}", id=f"load-{number}", total=1_000_000)
            )
            for number in range(count)
        ]
        _update(operations, effort.seconds(1.0))
        seconds = effort.seconds(SECONDS)
        with _scraped(runtime, min(SCRAPE_EVERY_S, seconds / 2)) as scrapes:
            before = Usage.now(runtime)
            updates = _update(operations, seconds)
            used = Usage.now(runtime).since(before)
    yield from _rows(used, updates, count)
    yield Row(
        f"  {len(scrapes)} scrapes, {max(size for _, size in scrapes):,} bytes",
        f"{median(s for s, _ in scrapes):.3f} s each (median)",
    )


def _rows(used: Usage, updates: int, count: int) -> Iterator[Row]:
    share = used.cpu / used.wall
    what = f"{count:,} operations, {updates / used.wall:,.0f} updates/s, journal and gauges on: process"
    yield judged(what, f"{share:.1%} of a core", "", f"≤ {CPU_TARGET:.0%}", met=share <= CPU_TARGET)
    for name, cpu in sorted(used.threads.items(), key=lambda item: -item[1]):
        if cpu > 0.0005 * used.wall:
            yield Row(f"  of it thread {name}", f"{cpu / used.wall:.1%} of a core")
    rest = used.cpu - sum(used.threads.values())
    yield Row("  of it threads that came and went (scrapes)", f"{rest / used.wall:.1%} of a core")
    ticking = used.tick_seconds / used.wall
    what = f"  ticks, {used.ticks / used.wall:.1f} per second"
    yield judged(what, f"{ticking:.1%} of wall time", "", f"≤ {TICK_TARGET:.0%}", met=ticking <= TICK_TARGET)


def idle(effort: Effort) -> Iterator[Row]:
    """Measure a configured process after its work has ended."""
    with _observed() as runtime:
        with progress.operation("load", total=1) as operation:
            operation.increment()
        _until_asleep(runtime)
        before = Usage.now(runtime)
        time.sleep(effort.seconds(IDLE_SECONDS))
        used = Usage.now(runtime).since(before)
    what = "nothing active, journal and gauges on"
    yield judged(f"{what}: ticks", f"{used.ticks} in {used.wall:.1f} s", "", "0", met=used.ticks == 0)
    share = used.cpu / used.wall
    yield judged(
        f"{what}: process", f"{share:.2%} of a core", "", f"≤ {IDLE_TARGET:.1%}", met=share <= IDLE_TARGET
    )


def _until_asleep(runtime: Runtime) -> None:
    """Wait until the end of the work is written and the ticker sleeps.

    After a slow write the last tick may be seconds later.
    """
    runtime.force_flush()
    deadline = time.monotonic() + ASLEEP_WITHIN_S
    while not runtime._ticker._is_asleep and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # Other tasks at the end of the work.


@contextmanager
def _observed() -> Iterator[Runtime]:
    with tempfile.TemporaryDirectory() as directory:
        store = f"sqlite:///{Path(directory) / 'journal.db'}"
        with configured(store=store, prometheus_port=0) as runtime:
            yield runtime


@contextmanager
def _scraped(runtime: Runtime, pause: float) -> Iterator[list[tuple[float, int]]]:
    """Scrape in the background, and fill the list with seconds and bytes per scrape."""
    scrapes: list[tuple[float, int]] = []
    command = [sys.executable, "-m", "benchmarks.scraper", str(runtime.metrics_url), str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scraper:
        assert scraper.stdout is not None
        try:
            scraper.stdout.readline()  # The first line reports readiness.
            yield scrapes
            # It may be late on a loaded machine, but there is one.
            first = scraper.stdout.readline()
        finally:
            scraper.terminate()
        answers = [line.split() for line in (first, *scraper.stdout) if line.endswith("\n")]
        scrapes.extend((float(seconds), int(size)) for seconds, size in answers)


def _update(operations: list[Level], seconds: float) -> int:
    """Update each operation ten times per second. Return the number of updates."""
    pause = 1.0 / UPDATES_PER_SECOND / SLICES
    started = time.monotonic()
    for turn in range(round(seconds / pause)):
        for operation in operations[turn % SLICES :: SLICES]:
            operation.update(current=turn, message="Executing")
        time.sleep(max(0.0, started + (turn + 1) * pause - time.monotonic()))
    return round(seconds / pause) * len(operations) // SLICES
