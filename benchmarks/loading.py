"""A busy process, and an idle one: what share of a core progress takes with the journal and the gauges on."""

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
"""The operations take turns: a slice of them every hundredth of a second, as work that is not in step would."""
SECONDS: Final = 30.0
SCRAPE_EVERY_S: Final = 5.0
CPU_TARGET: Final = 0.15
TICK_TARGET: Final = 0.10
IDLE_SECONDS: Final = 5.0
IDLE_TARGET: Final = 0.001
ASLEEP_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds of this process, wall seconds, ticks and their seconds, and the processor seconds of each thread."""

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
    with contextlib.suppress(OSError):  # it ended in between
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return None


def busy(effort: Effort) -> Iterator[Row]:
    """Update 1,000 operations ten times a second each, journal written and gauges scraped all the while."""
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
    what = f"  ticks, {used.ticks / used.wall:.1f} a second"
    yield judged(what, f"{ticking:.1%} of wall time", "", f"≤ {TICK_TARGET:.0%}", met=ticking <= TICK_TARGET)


def idle(effort: Effort) -> Iterator[Row]:
    """Leave a configured process alone after its work has ended."""
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
    """Wait until the end of the work is written and ticks have ceased; after a slow write the last one may come seconds later."""
    runtime.force_flush()
    deadline = time.monotonic() + ASLEEP_WITHIN_S
    while not runtime._ticker._is_asleep and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # what else the end of the work leaves to do


@contextmanager
def _observed() -> Iterator[Runtime]:
    with tempfile.TemporaryDirectory() as directory:
        store = f"sqlite:///{Path(directory) / 'journal.db'}"
        with configured(store=store, prometheus_port=0) as runtime:
            yield runtime


@contextmanager
def _scraped(runtime: Runtime, pause: float) -> Iterator[list[tuple[float, int]]]:
    """Have the gauges scraped meanwhile; the list gets the seconds and bytes of each scrape when it is over."""
    scrapes: list[tuple[float, int]] = []
    command = [sys.executable, "-m", "benchmarks.scraper", str(runtime.metrics_url), str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scraper:
        assert scraper.stdout is not None
        try:
            scraper.stdout.readline()  # the one that says it is there
            yield scrapes
            first = scraper.stdout.readline()  # on a busy machine it may come late, but there is one
        finally:
            scraper.terminate()
        answers = [line.split() for line in (first, *scraper.stdout) if line.endswith("\n")]
        scrapes.extend((float(seconds), int(size)) for seconds, size in answers)


def _update(operations: list[Level], seconds: float) -> int:
    """Update each operation ten times a second; return the number of updates made."""
    pause = 1.0 / UPDATES_PER_SECOND / SLICES
    began = time.monotonic()
    for turn in range(round(seconds / pause)):
        for operation in operations[turn % SLICES :: SLICES]:
            operation.update(current=turn, message="Executing")
        time.sleep(max(0.0, began + (turn + 1) * pause - time.monotonic()))
    return round(seconds / pause) * len(operations) // SLICES
