"""Time to import the package, and time until the command responds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.rounds import Effort
from benchmarks.table import Row, judged

TARGET_MS: Final = 40.0
_IMPORT: Final = """
import sys, time
from opentelemetry import context, trace
started = time.perf_counter()
from otel_progress import operation, track  # the package imports its names at their first use
seconds = time.perf_counter() - started
print(seconds, sum((name + ".").startswith("opentelemetry.sdk.") for name in sys.modules))
"""


def package(effort: Effort) -> Iterator[Row]:
    """Import two helpers in new interpreters.

    The first import does not count, because it may compile.
    """
    answers = [_run("-c", _IMPORT).split() for _ in range(1 + 2 * effort.rounds)][1:]
    ms = median(float(seconds) for seconds, _ in answers) * 1e3
    sdk_modules = max(int(modules) for _, modules in answers)
    what = "from otel_progress import operation, track: beyond opentelemetry-api"
    yield judged(what, f"{ms:.1f} ms", "", f"< {TARGET_MS:.0f} ms", met=ms < TARGET_MS)
    yield judged("modules of opentelemetry-sdk it imports", str(sdk_modules), "", "0", met=sdk_modules == 0)


def command(effort: Effort) -> Iterator[Row]:
    """Start the command repeatedly."""
    with tempfile.TemporaryDirectory() as directory:
        store = _journal(Path(directory) / "journal.db")
        commands = {
            "python -c pass": ("-c", "pass"),
            "otel-progress --version": ("-m", "otel_progress", "--version"),
            "otel-progress ls": ("-m", "otel_progress", "--store", store, "ls"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(1 + effort.rounds):
            for name, arguments in commands.items():
                started = time.perf_counter()
                _run(*arguments)
                seconds[name].append(time.perf_counter() - started)
    middle = {name: median(times[1:]) for name, times in seconds.items()}
    for name, typical in middle.items():
        yield Row(
            name, f"{typical * 1e3:.0f} ms", f"{typical / middle['python -c pass']:.1f} × python -c pass"
        )


def _journal(path: Path) -> str:
    """Create a journal with one operation from another process. Return its address."""
    store = f"sqlite:///{path}"
    _run(
        "-c",
        f"import otel_progress as p\n"
        f"with p.configure(store={store!r}, console=False), p.operation('run'): pass",
    )
    return store


def _run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
