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
_HEAD: Final = """# Benchmarks

What otel-progress costs, beside tqdm, rich and the bare OpenTelemetry SDK. Written by `python -m benchmarks
--write`, which also writes the summary in README.md; do not edit.

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
        parts.append(
            f"## {benchmark.title}\n\n`python -m benchmarks {name}`. {benchmark.method}\n\n{markdown(rows)}\n"
        )
    return "\n".join(parts)


def summary(page: str) -> str:
    """Return the rows of a page that promise something, for the README: what, measured, promised, met; and when and where."""
    last = next(line for line in page.splitlines() if line.startswith("Last results: "))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    promised = [row for row in rows if len(row) == _COLUMNS and row[3] not in ("", "target", "---")]
    table = [
        f"| {what} | {ratio or cost} | {target} | {met} |" for what, cost, ratio, target, met in promised
    ]
    return "\n".join([last, "", "| what | measured | promised | met |", "| --- | --- | --- | --- |", *table])


def with_summary(readme: str, page: str) -> str:
    """Return the README with the summary of a page between its marks."""
    before, _, rest = readme.partition(MARK)
    _, _, after = rest.partition(END)
    return f"{before}{MARK}\n\n{summary(page)}\n\n{END}{after}"
