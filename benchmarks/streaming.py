"""Latency from a call to a stream client: 1,000 operations, 100 clients."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import otel_progress as progress
from benchmarks.rounds import Effort
from benchmarks.setting import configured
from benchmarks.table import Row, judged
from otel_progress import Level

OPERATIONS: Final = 1_000
UPDATES_PER_SECOND: Final = 10
SLICES: Final = 10
SECONDS: Final = 15.0
NAMED: Final = 90
EVERYTHING: Final = 10
TARGET_MS: Final = 250.0
FLUSH_S: Final = 60.0


def latency(effort: Effort) -> Iterator[Row]:
    """Update operations here, serve them in another process, measure in a third."""
    count, seconds = effort.count(OPERATIONS), max(1.0, effort.seconds(SECONDS))
    named, everything = effort.count(NAMED), max(1, int(EVERYTHING * effort.share))
    with tempfile.TemporaryDirectory() as directory:
        store = f"sqlite:///{Path(directory) / 'journal.db'}"
        with configured(store=store) as runtime, ExitStack() as stack:
            operations = [
                stack.enter_context(
                    progress.operation("load", f"operation {number}", id=f"load-{number}", total=1_000_000)
                )
                for number in range(count)
            ]
            runtime.force_flush(FLUSH_S)  # The server does not start without a journal.
            with updated(operations), served(store) as (server, port):
                time.sleep(effort.seconds(1.0))
                mine, theirs, started = time.process_time(), read_cpu_seconds(server.pid), time.monotonic()
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.following",
                    str(port),
                    str(seconds),
                    str(named),
                    str(everything),
                ]
                seen = json.loads(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                )
                wall = time.monotonic() - started
                used = (time.process_time() - mine) / wall, (read_cpu_seconds(server.pid) - theirs) / wall
                counts = read_server_counts(port)
    yield from _rows(seen, used, counts, f"{count:,} operations, {named + everything} clients")


def _rows(
    seen: dict[str, Any], used: tuple[float, float], counts: dict[str, float], what: str
) -> Iterator[Row]:
    everyone = sorted(seen["named"] + seen["all"])
    p99 = max(at_share(seen["named"], 0.99), at_share(seen["all"], 0.99))
    yield judged(
        f"{what}: p99 from call to client", f"{p99:.0f} ms", "", f"≤ {TARGET_MS:.0f} ms", met=p99 <= TARGET_MS
    )
    for name, latencies, number in (
        ("ten operations each", seen["named"], seen["counts"][0]),
        ("everything", seen["all"], seen["counts"][1]),
    ):
        middle, last = at_share(latencies, 0.5), max(latencies, default=float("nan"))
        yield Row(
            f"  following {name}: p50, p99, max",
            f"{middle:.0f}, {at_share(latencies, 0.99):.0f}, {last:.0f} ms",
            f"{number:,} snapshots",
        )
    yield Row(
        "  processor: worker, server, clients", f"{used[0]:.0%}, {used[1]:.0%}, {seen['cpu']:.0%} of a core"
    )
    yield Row(
        "  messages sent, versions coalesced",
        f"{counts['messages']:,.0f}, {counts['coalesced']:,.0f}",
        f"{len(everyone):,} kept",
    )


def at_share(latencies: list[float], share: float) -> float:
    """Return the latency below which this share of the sorted latencies is."""
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))] if latencies else float("inf")


@contextmanager
def updated(operations: list[Level]) -> Iterator[None]:
    """Update each operation ten times per second with the time as message."""
    stop, pause = threading.Event(), 1.0 / UPDATES_PER_SECOND / SLICES

    def work() -> None:
        started, turn = time.monotonic(), 0
        while not stop.is_set():
            for operation in operations[turn % SLICES :: SLICES]:
                operation.update(current=turn, message=f"at={time.monotonic_ns()}")
            turn += 1
            stop.wait(max(0.0, started + turn * pause - time.monotonic()))

    thread = threading.Thread(target=work, name="work")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def served(store: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the server of a journal. Yield its process and its port."""
    command = [sys.executable, "-m", "otel_progress", "--store", store, "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            yield server, int(line.partition("127.0.0.1:")[2].partition("/")[0])
        finally:
            server.terminate()


def read_server_counts(port: int) -> dict[str, float]:
    """Return the numbers of sent messages and of coalesced versions of a server."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"progress_server_{name}_total")
        )
        for name in ("messages", "coalesced")
    }


def read_cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process, NaN if the system has no such value."""
    import os

    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
