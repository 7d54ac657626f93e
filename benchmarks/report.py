"""docs/benchmarks.md, written from the results and the catalogue, so that no figure in it was typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import machine
from benchmarks.catalogue import find
from benchmarks.table import Row, markdown

_HEAD: Final = """# Benchmarks

What otel-progress costs, beside tqdm, rich and the bare OpenTelemetry SDK. Written by `python -m benchmarks
--markdown`; do not edit.

    python -m benchmarks                  # all, a few minutes
    python -m benchmarks track span       # some
    python -m benchmarks --effort quick   # a fifth of the work
    python -m benchmarks --markdown > docs/benchmarks.md

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
