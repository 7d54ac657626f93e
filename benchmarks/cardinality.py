"""Number of series and cost of a scrape: ``python -m benchmarks.cardinality``.

The numbers are those of docs/deploy.md. Real operations are started in this process and scraped as
OpenMetrics text, as Prometheus does. The time is the best of several scrapes. The last row shows
the limits.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import otel_progress as progress
from otel_progress.metrics.exposition import render_exposition

SCENES: Final = (
    (1, 0),
    (1, 10),
    (1, 100),
    (10, 10),
    (100, 0),
    (100, 10),
    (1_000, 0),
    (1_000, 10),
    (2_000, 10),
)
"""Scenarios as (operations, levels per operation).

The last ones exceed the limits: 1,000 operations, 50 levels of each, 5,000 levels in all.
"""
SCRAPES: Final = 5
SCRAPES_A_DAY: Final = 86_400 // 15
"""Scrapes per day with the interval of deploy/prometheus/prometheus.yml."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one scrape: series, plain and compressed bytes, seconds."""

    operations: int
    levels: int
    series: int
    size: int
    zipped: int
    seconds: float


def measure(operations: int, levels: int, scrapes: int = SCRAPES) -> Cost:
    """Start operations with levels, scrape them, and end them."""
    with (
        progress.configure(store="memory:", console=False, otlp=False, resources=False) as runtime,
        ExitStack() as running,
    ):
        for number in range(operations):
            op = running.enter_context(
                progress.operation(
                    "import", f"Import {number}", id=f"import-{number:06}", total=levels or 100, deadline=3600
                )
            )
            if not levels:
                op.increment(10)
            for place in range(levels):
                running.enter_context(op.level("file", place, total=100)).increment(50)
        # Why: some series exist only after the first tick.
        runtime.force_flush()
        collector = runtime.metrics_collector()
        best, body = float("inf"), b""
        for _ in range(scrapes):
            started = time.perf_counter()
            body, _type = render_exposition(collector, "application/openmetrics-text; version=1.0.0")
            best = min(best, time.perf_counter() - started)
    series = sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))
    return Cost(operations, levels, series, len(body), len(gzip.compress(body, 6)), best)


def table(costs: Iterator[Cost]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| operations | levels each | series | scrape size | gzipped | scrape time | samples per day |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for cost in costs:
        yield (
            f"| {cost.operations:,} | {cost.levels} | {cost.series:,} "
            f"| {_kilo(cost.size)} | {_kilo(cost.zipped)} "
            f"| {cost.seconds * 1000:,.1f} ms | {cost.series * SCRAPES_A_DAY / 1e6:,.1f} million |"
        )


def _kilo(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"


def main() -> int:
    """Measure and print."""
    for line in table(measure(*scene) for scene in SCENES):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
