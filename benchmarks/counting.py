"""Cost of one increment(), update() and item(), and a check for lost counts.

The others are ``tqdm.update()`` and rich's ``advance()``.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count as numbers
from itertools import repeat
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm  # type: ignore[import-untyped]

import otel_progress as progress
from benchmarks.rounds import Effort, Job, Variant, best_seconds
from benchmarks.setting import configured
from benchmarks.table import Row, judged

CALLS: Final = 200_000
WARM_UP_S: Final = 0.3
"""Seconds that tqdm counts before the measurement, until it knows how often to read the clock."""
THREADS: Final = 8
PER_THREAD: Final = 1_000_000
TARGET: Final = 0.7
Call = Callable[[Any, Iterator[None]], None]


def run(effort: Effort) -> Iterator[Row]:
    """Measure one call of each, then count from many threads."""
    calls = effort.count(CALLS)
    seconds = best_seconds(
        [
            Variant("bare", lambda: _on(None, _bare, calls)),
            Variant("increment()", lambda: _recorded(_increment, calls)),
            Variant("increment(), not configured", lambda: _on(progress.level("step"), _increment, calls)),
            Variant("increment(7)", lambda: _recorded(_increment_7, calls)),
            Variant("update(current=i)", lambda: _recorded(_update, calls)),
            Variant("item(name)", lambda: _recorded(_item, calls)),
            Variant("tqdm.update()", lambda: _warm(_tqdm, calls)),
            Variant("tqdm.update(7)", lambda: _warm(_tqdm_7, calls)),
            Variant("rich advance()", lambda: _rich_progress(calls)),
        ],
        effort.rounds,
    )
    bare = seconds.pop("bare")
    over = {name: (best - bare) / calls * 1e9 for name, best in seconds.items()}
    for name, ns in over.items():
        ratio = ns / over["tqdm.update()"]
        if name.startswith("increment()"):
            yield judged(
                name,
                f"{ns:.0f} ns",
                f"{ratio:.2f} × tqdm.update()",
                f"≤ {TARGET} × tqdm.update()",
                met=ratio <= TARGET,
            )
        else:
            yield Row(name, f"{ns:.0f} ns", f"{ratio:.2f} × tqdm.update()")
    yield _from_threads(effort.count(PER_THREAD))


def _from_threads(each: int) -> Row:
    with configured(), progress.operation("count") as level:
        threads = [
            threading.Thread(target=_increment, args=(level, repeat(None, each))) for _ in range(THREADS)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        counted = level.snapshot().current
    expected = THREADS * each
    what = f"{THREADS} threads × {each:,} increment()"
    return judged(
        what, f"{seconds:.2f} s", f"{counted:,} counted", f"{expected:,} exactly", met=counted == expected
    )


@contextmanager
def _on(subject: Any, call: Call, calls: int) -> Iterator[Job]:
    yield lambda: call(subject, repeat(None, calls))


@contextmanager
def _recorded(call: Call, calls: int) -> Iterator[Job]:
    with configured(), progress.operation("count") as level:
        yield lambda: call(level, repeat(None, calls))


@contextmanager
def _warm(call: Call, calls: int) -> Iterator[Job]:
    with tqdm(total=1_000_000_000, file=io.StringIO()) as bar:
        started = time.perf_counter()
        while time.perf_counter() - started < WARM_UP_S:
            call(bar, repeat(None, 10_000))
        yield lambda: call(bar, repeat(None, calls))


@contextmanager
def _rich_progress(calls: int) -> Iterator[Job]:
    with Progress(console=Console(file=io.StringIO())) as bars:
        task = bars.add_task("count", total=calls)
        yield lambda: _rich((bars, task), repeat(None, calls))


# Why loops: the method of the subject is looked up for each call, as in a program.


def _bare(subject: object, times: Iterator[None]) -> None:  # noqa: ARG001 - the same signature for all
    for _ in times:
        pass


def _increment(level: Any, times: Iterator[None]) -> None:
    for _ in times:
        level.increment()


def _increment_7(level: Any, times: Iterator[None]) -> None:
    for _ in times:
        level.increment(7)


def _update(level: Any, times: Iterator[None]) -> None:
    for number, _ in zip(numbers(), times):
        level.update(current=number)


def _item(level: Any, times: Iterator[None]) -> None:
    for _ in times:
        level.item("audio096.wav")


def _tqdm(bar: Any, times: Iterator[None]) -> None:
    for _ in times:
        bar.update()


def _tqdm_7(bar: Any, times: Iterator[None]) -> None:
    for _ in times:
        bar.update(7)


def _rich(subject: Any, times: Iterator[None]) -> None:
    bars, task = subject
    for _ in times:
        bars.advance(task)
