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
    """Return the whole page for the results of some benchmarks, by name."""
    parts = [_HEAD, f"Last results: {machine.today()}, {machine.shape()}, {machine.libraries()}.\n"]
    for name, rows in results.items():
        benchmark = find(name)
        method = textwrap.fill(f"`python -m benchmarks {name}`. {benchmark.method}", 100, break_on_hyphens=False)
        parts.append(f"## {benchmark.title}\n\n{method}\n\n{markdown(rows)}\n")
    return "\n".join(parts)


def summary(page: str) -> str:
    """Return the rows of a page that have a target, as a table for the README."""
    last = next(line for line in page.splitlines() if line.startswith("Last results: "))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    promised = [row for row in rows if len(row) == _COLUMNS and row[3] not in ("", "target", "---")]
    table = [f"| {what} | {ratio or cost} | {target} | {met} |" for what, cost, ratio, target, met in promised]
    return "\n".join([last, "", "| what | measured | promised | met |", "| --- | --- | --- | --- |", *table])


def with_summary(readme: str, page: str) -> str:
    """Return the README with the summary of a page between its marks."""
    before, _, rest = readme.partition(MARK)
    _, _, after = rest.partition(END)
    return f"{before}{MARK}\n\n{summary(page)}\n\n{END}{after}"
