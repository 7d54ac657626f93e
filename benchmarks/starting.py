"""What importing the package adds to a program's start, and how long the command takes to answer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.rounds import Effort
from benchmarks.table import Row, judged

TARGET_MS: Final = 40.0
_API: Final = "from opentelemetry import context, trace"
_IMPORT: Final = f"""
import time
{_API}
began = time.perf_counter()
import otel_progress
seconds = time.perf_counter() - began
import sys
print(seconds, sum(name == "opentelemetry.sdk" or name.startswith("opentelemetry.sdk.") for name in sys.modules))
"""


def importing(effort: Effort) -> Iterator[Row]:
    """Import the package in fresh interpreters that have opentelemetry-api loaded."""
    seconds, sdk_modules = [], 0
    for _ in range(1 + 2 * effort.rounds):
        answer = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True).stdout.split()
        seconds.append(float(answer[0]))
        sdk_modules = max(sdk_modules, int(answer[1]))
    ms = median(seconds[1:]) * 1e3
    what = "import otel_progress beyond opentelemetry-api"
    yield judged(f"{what} (median)", f"{ms:.1f} ms", "", f"< {TARGET_MS:.0f} ms", met=ms < TARGET_MS)
    yield judged(f"{what}: modules of the SDK", str(sdk_modules), "", "0", met=sdk_modules == 0)


def command(effort: Effort) -> Iterator[Row]:
    """Start the command, beside an interpreter that does nothing."""
    with tempfile.TemporaryDirectory() as directory:
        store = f"sqlite:///{Path(directory) / 'journal.db'}"
        commands = {
            "python -c pass": ("-c", "pass"),
            "otel-progress --version": ("-m", "otel_progress", "--version"),
            "otel-progress ls, nothing recorded": ("-m", "otel_progress", "--store", store, "ls"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(1 + effort.rounds):
            for name, arguments in commands.items():
                seconds[name].append(_time(arguments))
    bare = median(seconds["python -c pass"][1:])
    for name, times in seconds.items():
        best = median(times[1:])
        yield Row(f"{name} (median)", f"{best * 1e3:.0f} ms", f"{best / bare:.1f} × python -c pass")


def _time(arguments: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=False, capture_output=True)
    return time.perf_counter() - began
