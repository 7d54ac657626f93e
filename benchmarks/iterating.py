"""Cost of an iteration of track(), compared with a bare loop, tqdm and rich."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import track as rich_track
from tqdm import tqdm  # type: ignore[import-untyped]

import otel_progress as progress
from benchmarks.rounds import Effort, Job, Variant, best_seconds
from benchmarks.setting import configured
from benchmarks.table import Row, judged

ITERATIONS: Final = 5_000_000
"""Enough iterations for tqdm to find out how often to read the clock (0.1 s)."""
TARGET: Final = 0.35
Wrap = Callable[[Iterable[None]], Iterable[None]]


def run(effort: Effort) -> Iterator[Row]:
    """Measure over a list, with a known length, and over a generator."""
    count = effort.count(ITERATIONS)
    elements = [None] * count
    yield from _over("list", lambda: elements, count, effort.rounds)
    yield from _over("generator", lambda: (element for element in elements), count, effort.rounds)


def _over(kind: str, make: Callable[[], Iterable[None]], count: int, rounds: int) -> Iterator[Row]:
    seconds = best_seconds(
        [
            Variant("bare", lambda: _loop(make, iter)),
            Variant("track, configured", lambda: _recorded(make)),
            Variant("track, not configured", lambda: _loop(make, progress.track)),
            Variant("tqdm", lambda: _loop(make, _tqdm)),
            Variant("rich.track", lambda: _loop(make, _rich)),
        ],
        rounds,
    )
    bare = seconds.pop("bare")
    over = {name: (best - bare) / count * 1e9 for name, best in seconds.items()}
    for name, ns in over.items():
        what, cost, ratio = f"{name}, over a {kind}", f"{ns:.1f} ns", ns / over["tqdm"]
        if name.startswith("track"):
            yield judged(what, cost, f"{ratio:.2f} × tqdm", f"≤ {TARGET} × tqdm", met=ratio <= TARGET)
        else:
            yield Row(what, cost, f"{ratio:.2f} × tqdm")


@contextmanager
def _loop(make: Callable[[], Iterable[None]], wrap: Wrap) -> Iterator[Job]:
    elements = make()

    def loop() -> None:
        for _ in wrap(elements):
            pass

    yield loop


@contextmanager
def _recorded(make: Callable[[], Iterable[None]]) -> Iterator[Job]:
    with configured(), _loop(make, progress.track) as job:
        yield job


def _tqdm(elements: Iterable[None]) -> Any:
    return tqdm(elements, file=io.StringIO())


def _rich(elements: Iterable[None]) -> Any:
    return rich_track(elements, console=Console(file=io.StringIO()))
