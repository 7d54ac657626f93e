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
import otel_progress.tqdm
from benchmarks.rounds import Effort, Job, Variant, best_seconds
from benchmarks.setting import configured
from benchmarks.table import Row, judged
from otel_progress.integrations import tqdm as tqdm_integration

ITERATIONS: Final = 5_000_000
"""Enough iterations for tqdm to find out how often to read the clock (0.1 s)."""
TARGET: Final = 0.35
"""Cost of ``track`` relative to tqdm."""
DROP_IN_TARGET: Final = 1.15
"""Cost of a recorded bar relative to a plain bar of tqdm, for the whole loop."""
DISABLED_TARGET: Final = 1.0
"""Cost of a disabled bar relative to ``track``, for the whole loop."""
Wrap = Callable[[Iterable[None]], Iterable[None]]


def run(effort: Effort) -> Iterator[Row]:
    """Measure over a list, with a known length, and over a generator."""
    count = effort.count(ITERATIONS)
    elements = [None] * count
    yield from _over("list", lambda: elements, count, effort.rounds)
    yield from _over("generator", lambda: (element for element in elements), count, effort.rounds)


def run_bars(effort: Effort) -> Iterator[Row]:
    """Measure recorded bars of tqdm: drop-in, unchanged code, and disabled."""
    count = effort.count(ITERATIONS)
    elements = [None] * count
    seconds = best_seconds(
        [
            Variant("bare", lambda: _loop(lambda: elements, iter)),
            Variant("tqdm", lambda: _loop(lambda: elements, _tqdm)),
            Variant("drop-in", lambda: _recorded(lambda: elements, _drop_in)),
            Variant("instrument_tqdm", lambda: _instrumented(lambda: elements, _tqdm)),
            Variant("tqdm, disabled", lambda: _loop(lambda: elements, _disabled)),
            Variant("instrument_tqdm, disabled", lambda: _instrumented(lambda: elements, _disabled)),
            Variant("track", lambda: _recorded(lambda: elements)),
        ],
        effort.rounds,
    )
    plain, track = seconds["tqdm"], seconds["track"]
    for name, best in seconds.items():
        cost = f"{best / count * 1e9:.1f} ns"
        if name in {"drop-in", "instrument_tqdm"}:
            yield _judge(name, cost, best / plain, "tqdm", DROP_IN_TARGET)
        elif name == "instrument_tqdm, disabled":
            yield _judge(name, cost, best / track, "track", DISABLED_TARGET)
        else:
            yield Row(name, cost, f"{best / plain:.2f} × tqdm")


def _judge(name: str, cost: str, ratio: float, other: str, target: float) -> Row:
    return judged(name, cost, f"{ratio:.2f} × {other}", f"≤ {target} × {other}", met=ratio <= target)


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
def _recorded(make: Callable[[], Iterable[None]], wrap: Wrap = progress.track) -> Iterator[Job]:
    with configured(), _loop(make, wrap) as job:
        yield job


@contextmanager
def _instrumented(make: Callable[[], Iterable[None]], wrap: Wrap) -> Iterator[Job]:
    tqdm_integration.instrument()
    try:
        with _recorded(make, wrap) as job:
            yield job
    finally:
        tqdm_integration.uninstrument()


def _tqdm(elements: Iterable[None]) -> Any:
    return tqdm(elements, file=io.StringIO())


def _drop_in(elements: Iterable[None]) -> Any:
    return otel_progress.tqdm.tqdm(elements, file=io.StringIO())


def _disabled(elements: Iterable[None]) -> Any:
    return tqdm(elements, disable=True)


def _rich(elements: Iterable[None]) -> Any:
    return rich_track(elements, console=Console(file=io.StringIO()))
