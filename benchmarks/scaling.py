"""Capacity of each part, and a simulated day of a million operations.

The figures are those of docs/scale.md.

    python -m benchmarks.scaling [--effort quick] [--write]

It measures one process, both journals, the readers and Prometheus on this machine, and simulates
the day. Then it computes what the day needs. ``--write`` updates docs/scale.md. It needs
``redis-server`` and ``prometheus``. It takes some minutes.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import http.server
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import otel_progress as progress
from benchmarks.machine import shape, today
from benchmarks.rounds import Effort
from benchmarks.setting import clear_environment, configured
from benchmarks.streaming import read_cpu_seconds
from otel_progress import Level, Runtime
from otel_progress.journal import open_journal
from otel_progress.metrics.exposition import render_exposition

PAGE: Final = Path("docs/scale.md")
MARK: Final = "<!-- measured: scaling -->"
END: Final = "<!-- end of the measurement -->"

SHORT_OPERATIONS: Final = 20_000
LIVE_OPERATIONS: Final = 2_000
UPDATE_SECONDS: Final = 12.0
SLICES: Final = 20
FLUSH_S: Final = 120.0

OPERATIONS_PER_DAY: Final = 1_000_000
LIVE_TARGET: Final = 100_000
PEAK_FACTOR: Final = 2.0
"""Rate of starts at noon, compared with the mean of the day. It is 0 at midnight."""
DURATION_SIGMA: Final = 1.0
"""Width of the log-normal durations: two thirds are within a factor of 2.7 of the median."""
UPDATE_INTERVAL_S: Final = 10.0
"""Time between two changes of an operation of the simulated day, in seconds."""
CORE_SHARE: Final = 0.5
"""Share of a core that the plan uses at most, so that half is free for peaks."""

_EFFORTS: Final = {"full": Effort(), "quick": Effort(share=0.1), "tiny": Effort(share=0.005)}


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured or computed figure: its name, its value, and the text of the value."""

    name: str
    value: float
    text: str


class Figures:
    """Figures of one part, in order."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.all: list[Figure] = []

    def add(self, name: str, value: float, text: str) -> float:
        """Add a figure and return its value."""
        self.all.append(Figure(name, value, text))
        return value

    def markdown(self) -> str:
        """Return the table."""
        lines = [f"| {self.title} | value |", "| --- | ---: |"]
        return "\n".join([*lines, *(f"| {figure.name} | {figure.text} |" for figure in self.all)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, simulate, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=main.__doc__)
    parser.add_argument("--effort", choices=_EFFORTS, default="full")
    parser.add_argument("--write", action="store_true", help="update docs/scale.md")
    options = parser.parse_args(arguments)
    clear_environment()
    missing = [name for name in ("redis-server", "prometheus") if shutil.which(name) is None]
    if missing:
        sys.stderr.write(f"Not installed: {', '.join(missing)}.\n")
        return 2
    page = build_tables(_EFFORTS[options.effort])
    if not options.write:
        sys.stdout.write(f"{page}\n")
        return 0
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{MARK}\n\n{page}\n\n{END}{after}", encoding="utf-8")
    return 0


def build_tables(effort: Effort) -> str:
    """Return all tables, with the date, the machine and its load."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        sqlite = measure_journal("One process with SQLite", f"sqlite:///{folder}/progress.db", effort)
        size = (Path(folder) / "progress.db").stat().st_size
        per_ended = size / max(1, effort.count(SHORT_OPERATIONS) + effort.count(LIVE_OPERATIONS))
        sqlite.add("file per ended operation", per_ended, f"{per_ended:,.0f} bytes")
        with running_redis(folder) as server:
            redis = measure_redis(server, effort)
        prometheus = measure_prometheus(Path(folder), effort)
    day = simulate_day(random.Random(7), effort)
    plan = compute_plan(sqlite, redis, prometheus, day)
    head = f"Measured on {today()}: {shape()}. Load average before: {load:.1f}."
    return "\n\n".join([head, *(part.markdown() for part in (sqlite, redis, prometheus, day, plan))])


# --- one process ---------------------------------------------------------------------------------


def measure_journal(title: str, store: str, effort: Effort, *, has_memory: bool = True) -> Figures:
    """Measure short and live operations of one process, and their reader.

    Without ``has_memory``, an earlier measurement of this process has used the memory already.
    """
    figures = Figures(title)
    short, live = effort.count(SHORT_OPERATIONS), effort.count(LIVE_OPERATIONS)
    with configured(store=store, resources=False) as runtime:
        # Why first: the memory of ended operations would be used again.
        with ExitStack() as stack:
            operations, kib = _start_live(stack, live)
            if has_memory:
                figures.add("memory per live operation", kib, f"{kib:.1f} KiB")
            runtime.force_flush(FLUSH_S)
            share = _measure_updates(operations, effort.seconds(UPDATE_SECONDS))
            per_update = share / live * 1e6
            text = f"{per_update:,.0f} µs"
            figures.add("processor per update of a live operation, once per second", per_update, text)
            _add_reader(figures, store, live)
            _add_scrape(figures, runtime, live)
        runtime.force_flush(FLUSH_S)
        used = time.process_time()
        for _ in range(short):
            with progress.operation("short", total=1) as op:
                op.increment()
        runtime.force_flush(FLUSH_S)
        cpu_us = (time.process_time() - used) / short * 1e6
        figures.add("processor per operation from start to end", cpu_us, f"{cpu_us:,.0f} µs")
        figures.add("operations per second and core", 1e6 / cpu_us, f"{1e6 / cpu_us:,.0f}")
    return figures


def _start_live(stack: ExitStack, count: int) -> tuple[list[Level], float]:
    """Start operations. Return them and the memory of each in KiB."""
    with progress.operation("warm", total=1) as op:
        op.increment()
    gc.collect()
    before = _read_rss_kib()
    operations = [
        stack.enter_context(progress.operation("live", id=f"live-{number}", total=1_000_000))
        for number in range(count)
    ]
    gc.collect()
    return operations, max(0.0, _read_rss_kib() - before) / count


def _measure_updates(operations: list[Level], seconds: float) -> float:
    """Update each operation once per second. Return the processor share."""
    slices = [operations[number::SLICES] for number in range(SLICES)]
    used, started = time.process_time(), time.monotonic()
    turn = 0
    while time.monotonic() - started < max(1.0, seconds):
        for op in slices[turn % SLICES]:
            op.increment()
        turn += 1
        time.sleep(max(0.0, started + turn / SLICES - time.monotonic()))
    return (time.process_time() - used) / (time.monotonic() - started)


def _add_reader(figures: Figures, store: str, live: int) -> None:
    journal = open_journal(store, read_only=True)
    journal.active(levels=False)
    # Why processor time: other programs of the machine do not change it much.
    started = time.thread_time()
    found = len(journal.active(levels=False))
    per_operation = (time.thread_time() - started) / max(1, found) * 1e6
    journal.close()
    figures.add("reader: processor per live operation", per_operation, f"{per_operation:,.0f} µs")
    if found != live:
        msg = f"the reader found {found} of {live} operations"
        raise RuntimeError(msg)


def _add_scrape(figures: Figures, runtime: Runtime, live: int) -> None:
    collector = runtime.metrics_collector()
    started = time.thread_time()
    body, _ = render_exposition(collector)
    seconds = time.thread_time() - started
    shown = min(live, 1_000)
    series = sum(1 for line in body.decode().splitlines() if line.startswith("progress_operation_"))
    per_operation = series / shown
    figures.add("series per live operation", per_operation, f"{per_operation:.1f}")
    per_thousand = seconds / shown * 1e6
    figures.add("processor of a scrape of 1,000 operations", per_thousand, f"{per_thousand:,.0f} ms")


def _read_rss_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4.0


# --- Redis ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running server."""

    pid: int
    port: int
    client: Any


@contextmanager
def running_redis(folder: str) -> Iterator[RedisServer]:
    """Run a Redis server for the length of the block."""
    import redis

    port = _find_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _wait_for_port(port)
        client = redis.Redis(port=port)
        try:
            yield RedisServer(process.pid, port, client)
        finally:
            client.close()
            process.terminate()


def measure_redis(server: RedisServer, effort: Effort) -> Figures:
    """Measure one process with Redis, and what it costs the server."""
    memory, used = _read_memory(server), read_cpu_seconds(server.pid)
    commands = _read_commands(server)
    store = f"redis://127.0.0.1:{server.port}/0"
    figures = measure_journal("One process with Redis", store, effort, has_memory=False)
    count = effort.count(SHORT_OPERATIONS) + effort.count(LIVE_OPERATIONS)
    size = (_read_memory(server) - memory) / count
    figures.add("server: memory per stored operation", size, f"{size:,.0f} bytes")
    per_command = (_read_commands(server) - commands) / count
    figures.add("server: commands per operation, with its updates", per_command, f"{per_command:.1f}")
    updates = effort.count(LIVE_OPERATIONS) * max(1.0, effort.seconds(UPDATE_SECONDS))
    cpu_us = (read_cpu_seconds(server.pid) - used) / (count + updates) * 1e6
    text = f"{cpu_us:,.0f} µs"
    figures.add("server: processor per stored operation or update", cpu_us, text)
    return figures


def _read_memory(server: RedisServer) -> float:
    return float(server.client.info("memory")["used_memory"])


def _read_commands(server: RedisServer) -> float:
    return float(server.client.info("stats")["total_commands_processed"])


# --- Prometheus ----------------------------------------------------------------------------------


def measure_prometheus(folder: Path, effort: Effort) -> Figures:
    """Measure the memory of Prometheus per series, with two numbers of series."""
    figures = Figures("Prometheus")
    few, many = 1_000, max(2_000, effort.count(60_000))
    settle_s = effort.seconds(5.0)
    sizes = {count: _run_prometheus(folder / f"prometheus-{count}", count, settle_s) for count in (few, many)}
    per_series = (sizes[many] - sizes[few]) / (many - few)
    figures.add("memory per series", per_series, f"{per_series / 1024:.1f} KiB")
    return figures


def _run_prometheus(folder: Path, count: int, settle_s: float) -> float:
    """Let Prometheus scrape series. Return its memory in bytes."""
    folder.mkdir()
    lines = "".join(
        f'progress_operation_ratio{{operation_id="job-{number}",operation_type="job"}} 0.5\n'
        for number in range(count)
    ).encode()
    with _serving(lines) as target:
        port = _find_port()
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: a, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n",
            encoding="utf-8",
        )
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        log = (folder / "log").open("wb")
        with log, subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        ) as process:  # fmt: skip
            try:
                _wait_for_series(port, count)
                time.sleep(settle_s)
                status = Path(f"/proc/{process.pid}/status").read_text("ascii")
                (kib,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
                return float(kib) * 1024
            finally:
                process.terminate()


def _wait_for_series(port: int, count: int) -> None:
    for _ in range(600):
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("prometheus_tsdb_head_series ") and float(line.split()[1]) >= count:
                    return
        time.sleep(0.1)
    msg = "Prometheus has not scraped the series"
    raise RuntimeError(msg)


@contextmanager
def _serving(body: bytes) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


# --- the day -------------------------------------------------------------------------------------


def simulate_day(generator: random.Random, effort: Effort) -> Figures:
    """Simulate two days of operations, and return the figures of the second one.

    Starts are a Poisson process whose rate follows the time of day. Durations are log-normal. Their
    mean is such that the mean number of live operations is the target.
    """
    figures = Figures("Simulated day")
    scale = min(1.0, effort.share * 10)
    per_day = OPERATIONS_PER_DAY * scale
    mean_s = LIVE_TARGET / OPERATIONS_PER_DAY * 86_400.0
    mu = math.log(mean_s) - DURATION_SIGMA**2 / 2
    ends: list[float] = []
    starts_by_second: dict[int, int] = {}
    live_peak, live_sum, samples, started = 0, 0.0, 0, 0
    next_sample = 86_400.0
    for at in _generate_starts(generator, per_day, 2 * 86_400.0):
        while next_sample <= at:
            while ends and ends[0] <= next_sample:
                heapq.heappop(ends)
            live_peak = max(live_peak, len(ends))
            live_sum += len(ends)
            samples += 1
            next_sample += 60.0
        if at >= 86_400.0:
            started += 1
            starts_by_second[int(at)] = starts_by_second.get(int(at), 0) + 1
        heapq.heappush(ends, at + generator.lognormvariate(mu, DURATION_SIGMA))
    peak_starts = sorted(starts_by_second.values())[-max(1, len(starts_by_second) // 1_000)] / scale
    figures.add("operations", started / scale, f"{started / scale:,.0f}")
    figures.add("mean duration", mean_s, f"{mean_s / 60:.0f} min")
    figures.add("live operations, mean", live_sum / samples / scale, f"{live_sum / samples / scale:,.0f}")
    figures.add("live operations, peak", live_peak / scale, f"{live_peak / scale:,.0f}")
    figures.add("starts per second, mean", started / scale / 86_400, f"{started / scale / 86_400:.1f}")
    figures.add("starts per second, 99.9th percentile", peak_starts, f"{peak_starts:.0f}")
    updates = live_peak / scale / UPDATE_INTERVAL_S
    name = f"updates per second at the peak, one per operation and {UPDATE_INTERVAL_S:.0f} s"
    figures.add(name, updates, f"{updates:,.0f}")
    return figures


def _generate_starts(generator: random.Random, per_day: float, seconds: float) -> Iterator[float]:
    """Yield the times of starts, by thinning of a process with the highest rate."""
    highest = PEAK_FACTOR * per_day / 86_400.0
    at = 0.0
    while True:
        at += generator.expovariate(highest)
        if at >= seconds:
            return
        share = 0.5 * (1.0 - math.cos(2.0 * math.pi * at / 86_400.0))
        if generator.random() < share:
            yield at


def compute_plan(sqlite: Figures, redis: Figures, prometheus: Figures, day: Figures) -> Figures:
    """Return what the simulated day needs, from the measured figures."""
    plan = Figures("What this day needs")
    peak = _get(day, "live operations, peak")
    updates = _get(day, "updates per second at the peak")
    starts = _get(day, "starts per second, 99.9th")
    cpu = starts * _get(redis, "processor per operation") / 1e6
    cpu += updates * _get(redis, "processor per update") / 1e6
    plan.add("processor of all instrumented processes", cpu, f"{cpu:.2f} cores")
    memory = peak * _get(sqlite, "memory per live operation") / 1024
    plan.add("memory of all instrumented processes for it", memory, f"{memory:,.0f} MiB")
    server = (2 * starts + updates) * _get(redis, "server: processor per stored") / 1e6
    plan.add("processor of Redis at the peak", server, f"{server:.2f} cores")
    servers = max(1, math.ceil(server / CORE_SHARE))
    plan.add(f"Redis nodes at {CORE_SHARE:.0%} of a core each", servers, f"{servers}")
    stored = (OPERATIONS_PER_DAY + peak) * _get(redis, "server: memory per stored") / 2**30
    plan.add("memory of Redis with 24 h retention", stored, f"{stored:.1f} GiB")
    file = (OPERATIONS_PER_DAY + peak) * _get(sqlite, "file per ended operation") / 2**30
    plan.add("file with 24 h retention on one machine (SQLite)", file, f"{file:.1f} GiB")
    full_read = peak * _get(redis, "reader: processor per live") / 1e6
    plan.add("processor of one read of all live operations", full_read, f"{full_read:.1f} s")
    series = _get(sqlite, "series per live operation")
    every = peak * series
    size = every * _get(prometheus, "memory per series") / 2**30
    plan.add("series if each live operation had its own", every, f"{every / 1e6:.1f} million")
    plan.add("memory of Prometheus for them", size, f"{size:.1f} GiB")
    churn = OPERATIONS_PER_DAY * series / 1e6
    plan.add("new series per day", churn, f"{churn:.0f} million")
    return plan


def _get(figures: Figures, start: str) -> float:
    (found,) = [figure.value for figure in figures.all if figure.name.startswith(start)]
    return found


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    msg = f"nothing listens on port {port}"
    raise RuntimeError(msg)


if __name__ == "__main__":
    sys.exit(main())
