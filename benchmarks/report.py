"""docs/benchmarks.md, written from the results and the catalogue, so that no figure in it was typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import machine
from benchmarks.catalogue import find
from benchmarks.table import Row, markdown

MARK: Final = "<!-- benchmarks -->"
END: Final = "<!-- end -->"
_COLUMNS: Final = 5
HEADLINES: Final = {
    "track, configured, over a list": "One iteration of `track`, relative to tqdm",
    "increment()": "One `increment()`, relative to `tqdm.update()`",
    "1,000 operations, 10,000 updates/s, journal and gauges on: process": (
        "Processor use with 1,000 operations and 10,000 updates per second"
    ),
    "1,000 operations, 100 clients: p99 from call to client": "99th percentile from the call to one of 100 stream clients",
    "published traces, 3 to 20 runs of history: error": "Error of the remaining time with history, on published traces",
}
"""Rows of the page that the README shows, by name, with the label they have there."""
_HEAD: Final = """# Benchmarks

The cost of otel-progress next to tqdm, rich and the bare OpenTelemetry SDK. Written by `python -m benchmarks
--write`, which also writes five of its lines into README.md; do not edit.

    python -m benchmarks                  # all, a few minutes
    python -m benchmarks track span       # some
    python -m benchmarks --effort quick   # a fifth of the work
    python -m benchmarks --write          # all, into this page and README.md

Run it from the root of the repository, on a machine that does nothing else, with tqdm and rich installed. The command
ends with 1 when something promised is not met.

Times depend on the machine, so what is promised are ratios, taken in one run: all variants of a benchmark take turns,
round after round, each round from another one on, and the best time of each counts (a median where it says so).
Garbage is collected before each measurement and the collector left on during it, for all alike. Every benchmark runs
in a process of its own, without the `OTEL_*` variables of the shell.
"""


def document(results: Mapping[str, Sequence[Row]]) -> str:
    """Return the whole page for the results of some benchmarks, by name."""
    parts = [_HEAD, f"Last results: {machine.today()}, {machine.shape()}, {machine.libraries()}.\n"]
    for name, rows in results.items():
        benchmark = find(name)
        parts.append(f"## {benchmark.title}\n\n`python -m benchmarks {name}`. {benchmark.method}\n\n{markdown(rows)}\n")
    return "\n".join(parts)


def summary(page: str) -> str:
    """Return the five headline rows of a page for the README, with the date and the machine."""
    last = next(line for line in page.splitlines() if line.startswith("Last results: "))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    rows = {row[0]: row for row in cells if len(row) == _COLUMNS}
    table = []
    for name, label in HEADLINES.items():
        if name in rows:
            _, cost, ratio, target, _ = rows[name]
            table.append(f"| {label} | {ratio or cost} | {target} |")
    return "\n".join([last, "", "| measurement | result | target |", "| --- | --- | --- |", *table])


def with_summary(readme: str, page: str) -> str:
    """Return the README with the summary of a page between its marks."""
    before, _, rest = readme.partition(MARK)
    _, _, after = rest.partition(END)
    return f"{before}{MARK}\n\n{summary(page)}\n\n{END}{after}"
