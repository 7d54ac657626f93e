"""All benchmarks with their names, headings and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks import counting, eta, importing, iterating, loading, remembering, spanning, streaming
from benchmarks.rounds import Effort
from benchmarks.table import Row


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark with its heading (``title``) and its explanation (``method``)."""

    name: str
    title: str
    method: str
    run: Callable[[Effort], Iterator[Row]]


BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    Benchmark(
        "track",
        "Iterating with track()",
        "A loop without work over five million elements, wrapped by each library. The same loop over "
        "the plain iterable is subtracted. Start and end of the level are included. `configured` runs"
        " with the live store and its ticker. tqdm and rich write to a `StringIO` with their default "
        "refresh rates. Best of the rounds.",
        iterating.run,
    ),
    Benchmark(
        "tqdm",
        "Recorded bars of tqdm",
        "The same loop over a list with a bar of tqdm, plain and recorded. The times are those of the "
        "whole loop. A disabled bar is compared with `track`, which counts as well. Best of the rounds.",
        iterating.run_bars,
    ),
    Benchmark(
        "increment",
        "Counting by hand",
        "One call in a loop while the ticker runs, minus the plain loop. `advance()` of rich runs in "
        "a started display that writes to a `StringIO`. `item()` stores one event per call. Best of "
        "the rounds. The last row counts on one level from several threads.",
        counting.run,
    ),
    Benchmark(
        "span",
        "A level from start to end",
        "Levels under one operation, after more levels than are stored, compared with plain SDK spans"
        " under one span. Both have the same attributes: some at the start, the others in one call "
        "before the end. Both use the same batch processor, whose exporter discards the spans. The "
        "ticker runs, and ended levels are folded into their parent. The runs are short, so the best "
        "one is not interrupted by the exporting thread. Best of the rounds.",
        spanning.run,
    ),
    Benchmark(
        "busy",
        "A busy process",
        "Operations that are all updated ten times per second for half a minute. The journal is in a "
        "temporary file, and another process scrapes the gauges every five seconds. Processor time of"
        " the whole process, including the updating loop, divided by wall time. The ticks are "
        "measured by their own histogram. The interval of the ticker grows if the ticks and the "
        "journal use more than a tenth of a core.",
        loading.busy,
    ),
    Benchmark(
        "idle",
        "An idle process",
        "The same configuration after its only operation has ended, idle for some seconds.",
        loading.idle,
    ),
    Benchmark(
        "stream_latency",
        "From the call to the client",
        "Three processes: a worker whose operations are all updated ten times per second, with the "
        "journal in a temporary file; `otel-progress serve`; and a hundred clients of "
        "`/api/v1/stream`. Ninety clients follow ten operations each, and ten follow everything. The "
        "message of each update has its time, and the clients compare it with the clock when they "
        "receive it.",
        streaming.latency,
    ),
    Benchmark(
        "memory",
        "Memory of active levels",
        "Growth of the resident memory by levels that are all active under one operation, including "
        "their handles. The tracer provider creates no spans. The first row is measured after their "
        "start, the second after a tick has created a snapshot of each.",
        remembering.active_levels,
    ),
    Benchmark(
        "journaled",
        "Memory of active levels, with a journal",
        "The same with a journal in a temporary file, which stores what it has written of each level."
        " The second row is measured after writing.",
        remembering.journaled_levels,
    ),
    Benchmark(
        "iterations",
        "Memory of a long loop",
        "Growth of the resident memory over the iterations, after a warm-up of a tenth as many.",
        remembering.iterations,
    ),
    Benchmark(
        "folding",
        "Memory of ended levels",
        "Growth of the resident memory while levels start and end, after the first tenth of them.",
        remembering.ended_levels,
    ),
    Benchmark(
        "import",
        "Importing",
        "New interpreters that have already imported opentelemetry-api. Time of the import statement "
        "alone. Median.",
        importing.package,
    ),
    Benchmark(
        "command",
        "The command's start",
        "Whole processes from start to exit, compared with an interpreter that does nothing, in "
        "turns. There is no target. Median.",
        importing.command,
    ),
    Benchmark(
        "eta",
        "The remaining time",
        "Recorded runs, replayed in their order. An estimate is requested at 5, 10 … 95 % of the "
        "actual duration, with the points so far and at most 20 earlier runs (at least 3 unless "
        "stated). Errors are |predicted − actual remaining time| / actual duration, mean of the jobs."
        " The own traces are in `benchmarks/traces`. The published traces, which have the targets, "
        "are replayed if they are available. `python -m benchmarks.eta` prints everything: [Remaining"
        " time](eta.md).",
        eta.run,
    ),
)
"""The benchmarks in the order of their table."""


def find(name: str) -> Benchmark:
    """Return the benchmark of that name. Raises KeyError."""
    return {benchmark.name: benchmark for benchmark in BENCHMARKS}[name]
