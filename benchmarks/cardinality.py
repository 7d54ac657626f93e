"""How many series there are, and what a scrape of them costs: ``python -m benchmarks.cardinality``. The numbers of docs/deploy.md.

Real operations are begun in this process, all running, and scraped as Prometheus does it: text as OpenMetrics. The time is the best of
some scrapes. What stands below the last line are the caps at work.
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
"""(operations, levels of each): the last ones are beyond the caps, which are 1,000 operations, 50 levels of one and 5,000 in all."""
SCRAPES: Final = 5
SCRAPES_A_DAY: Final = 86_400 // 15
"""At the interval of deploy/prometheus/prometheus.yml."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one scrape comes to: series, bytes as they are and gzipped, seconds."""

    operations: int
    levels: int
    series: int
    size: int
    zipped: int
    seconds: float


def measure(operations: int, levels: int, scrapes: int = SCRAPES) -> Cost:
    """Begin that many operations with as many levels each, scrape them, and end them."""
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
        collector = runtime.metrics_collector()
        best, body = float("inf"), b""
        for _ in range(scrapes):
            began = time.perf_counter()
            body, _type = render_exposition(collector, "application/openmetrics-text; version=1.0.0")
            best = min(best, time.perf_counter() - began)
    series = sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))
    return Cost(operations, levels, series, len(body), len(gzip.compress(body, 6)), best)


def table(costs: Iterator[Cost]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| operations | levels each | series | a scrape | gzipped | time of a scrape | samples a day |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for cost in costs:
        yield (
            f"| {cost.operations:,} | {cost.levels} | {cost.series:,} | {_kilo(cost.size)} | {_kilo(cost.zipped)} "
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
