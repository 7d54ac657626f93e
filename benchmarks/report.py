"""Writer of docs/benchmarks.md and of the summary in README.md."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import machine
from benchmarks.catalogue import find
from benchmarks.table import Row, markdown

MARK: Final = "<!-- benchmarks -->"
END: Final = "<!-- end -->"
_COLUMNS: Final = 5
_MAX_COLUMNS: Final = 100
HEADLINES: Final = {
    "track, configured, over a list": "One iteration of `track`, relative to tqdm",
    "increment()": "One `increment()`, relative to `tqdm.update()`",
    "1,000 operations, 10,000 updates/s, journal and gauges on: process": (
        "Processor use with 1,000 operations and 10,000 updates per second"
    ),
    "1,000 operations, 100 clients: p99 from call to client": (
        "99th percentile from the call to one of 100 stream clients"
    ),
    "published traces, 3 to 20 runs of history: error": (
        "Error of the remaining time with history, on published traces"
    ),
}
"""Rows of the page that the README shows, by name, with their label there."""
_HEAD: Final = """# Benchmarks

The overhead of otel-progress, compared with tqdm, rich and the plain OpenTelemetry SDK.
`python -m benchmarks --write` writes this page and the summary in README.md. Do not edit it.

    python -m benchmarks                  # all, a few minutes
    python -m benchmarks track span       # some
    python -m benchmarks --effort quick   # a fifth of the work
    python -m benchmarks --write          # all, into this page and README.md

Run the command in the root of the repository, on an idle machine, with tqdm and rich installed. The
exit code is 1 if a target is not met.

Times depend on the machine. The targets are therefore ratios within one run. All variants of a
benchmark run in turns, and each round starts with another variant. The best time of each variant
counts, or the median where stated. Garbage is collected before each measurement, and the collector
is enabled during it. Each benchmark runs in its own process, without `OTEL_*` variables.
"""


def document(results: Mapping[str, Sequence[Row]]) -> str:
    """Return the whole page for the results of some benchmarks by name."""
    last = f"Last results: {machine.today()}, {machine.shape()}, {machine.libraries()}."
    parts = [_HEAD, f"{_fill(last)}\n"]
    for name, rows in results.items():
        benchmark = find(name)
        method = _fill(f"`python -m benchmarks {name}`. {benchmark.method}")
        parts.append(f"## {benchmark.title}\n\n{method}\n\n{markdown(rows)}\n")
    return "\n".join(parts)


def _fill(text: str) -> str:
    return textwrap.fill(text, _MAX_COLUMNS, break_on_hyphens=False)


def summary(page: str) -> str:
    """Return the five headline rows of a page for the README, with date and machine."""
    last = page[page.index("Last results: ") :].partition("\n\n")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
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
