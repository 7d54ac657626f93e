"""All benchmarks: the name to run one by, what it measures, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks import counting, eta, importing, iterating, loading, remembering, spanning, streaming
from benchmarks.rounds import Effort
from benchmarks.table import Row


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: ``title`` and ``method`` are its heading and explanation in the documentation, ``run`` yields its rows."""

    name: str
    title: str
    method: str
    run: Callable[[Effort], Iterator[Row]]


BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    Benchmark(
        "track",
        "Iterating with track()",
        "A loop that does nothing over five million elements, wrapped by each library; the same loop over the bare iterable is "
        "subtracted, and beginning and ending the level is included. `configured` is with the live store and its ticker "
        "running. tqdm and rich write to a `StringIO` at their default refresh rates. Best of the rounds.",
        iterating.run,
    ),
    Benchmark(
        "increment",
        "Counting by hand",
        "One call in a loop, the bare loop subtracted, the ticker running. `advance()` of rich is within a started display "
        "that writes to a `StringIO`. `item()` remembers an event each time. Best of the rounds. Then many threads count on "
        "one level.",
        counting.run,
    ),
    Benchmark(
        "span",
        "A level from start to end",
        "Levels under one operation, after more of them than are kept, beside plain SDK spans under one span. Both carry the "
        "same attributes (those a level really writes: some at the start, the others in one call before the end) and end in "
        "the same batch processor with an exporter that discards. The ticker runs, ended levels fold into their parent. The "
        "runs are short, so that in the best one the exporting thread did not come in between. Best of the rounds.",
        spanning.run,
    ),
    Benchmark(
        "busy",
        "A busy process",
        "Operations that are all updated ten times a second for half a minute, in turns, with the journal in a temporary "
        "file and the gauges scraped every five seconds by another process. Processor time of the whole process, the "
        "updating loop included, against wall time; ticks from their own histogram. The tick stretches itself when it and "
        "the journal take more than a tenth of the time.",
        loading.busy,
    ),
    Benchmark(
        "idle",
        "An idle process",
        "The same configuration after its only operation has ended, left alone for some seconds.",
        loading.idle,
    ),
    Benchmark(
        "stream_latency",
        "From the call to the client",
        "Three processes: a worker whose operations are all updated ten times a second, with the journal in a temporary file; "
        "`otel-progress serve` on it; and a hundred clients of `/api/v1/stream`, ninety of which follow ten operations each and "
        "ten everything. Each update's message says when it was made, and the clients compare that with the clock when it comes.",
        streaming.latency,
    ),
    Benchmark(
        "memory",
        "Memory of active levels",
        "Growth of the resident memory by levels that are all active under one operation, their handles included, with a "
        "tracer provider that makes no spans: begun, and then collected, with the snapshot that a tick makes of each.",
        remembering.active_levels,
    ),
    Benchmark(
        "journaled",
        "Memory of active levels, with a journal",
        "The same with a journal in a temporary file, which remembers what it has written of each level; collected means "
        "written, here.",
        remembering.journaled_levels,
    ),
    Benchmark(
        "iterations",
        "Memory of a long loop",
        "Growth of the resident memory over the iterations, after a tenth as many to warm up.",
        remembering.iterations,
    ),
    Benchmark(
        "folding",
        "Memory of ended levels",
        "Growth of the resident memory while levels begin and end, after the first tenth of them.",
        remembering.ended_levels,
    ),
    Benchmark(
        "import",
        "Importing",
        "Fresh interpreters that have opentelemetry-api loaded already; the time of the import statement alone. Median.",
        importing.package,
    ),
    Benchmark(
        "command",
        "The command's start",
        "Whole processes, from start to exit, beside an interpreter that does nothing, in turns. Nothing is promised here. "
        "Median.",
        importing.command,
    ),
    Benchmark(
        "eta",
        "The remaining time",
        "Recorded runs, replayed in their order: each is asked about at 5, 10 … 95 % of its true duration, with the points it had by "
        "then and at most 20 earlier runs (at least 3, where none is said). Errors are |predicted − true remaining| / true duration, "
        "the mean of jobs. The own traces are those of `benchmarks/traces`; the published ones, of which something is promised, are "
        "replayed where they are at hand. `python -m benchmarks.eta` prints everything: [The remaining time](eta.md).",
        eta.run,
    ),
)
"""The benchmarks in the order of their table."""


def find(name: str) -> Benchmark:
    """Return the benchmark of that name. Raises KeyError."""
    return {benchmark.name: benchmark for benchmark in BENCHMARKS}[name]
