"""A journal in Redis: 20 processes, three readers, a hundred stream clients.

    python -m benchmarks.sharing [--seconds 15] [--processes 20] [--operations 1000] [--outage 30]

It starts a Redis server, the processes, the readers and ``otel-progress serve``. Every operation is
updated ten times per second. Each message has its time, which readers and clients compare with the
clock of the machine. Then the server is killed, started again after ``--outage`` seconds, and the
time is measured until a reader has the current state of all operations. It needs ``redis-server``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import otel_progress as progress
from benchmarks.setting import clear_environment, configured
from benchmarks.streaming import at_share, read_cpu_seconds, read_server_counts, served, updated
from benchmarks.table import Row, judged, text

READER_TARGET_MS: Final = 100.0
CLIENT_TARGET_MS: Final = 250.0
RECOVERY_TARGET_S: Final = 2.0
READERS: Final = 3
READ_INTERVAL_S: Final = 0.02
NAMED_CLIENTS: Final = 90
OTHER_CLIENTS: Final = 10
WARM_S: Final = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table.

    The exit code is 1 if a target was missed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--operations", type=int, default=1_000)
    parser.add_argument("--clients", type=int, default=NAMED_CLIENTS + OTHER_CLIENTS)
    parser.add_argument("--outage", type=float, default=30.0)
    parser.add_argument("--role", choices=("worker", "reader"), help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role is None:
        # Why: each process has the same number of operations.
        options.operations -= options.operations % options.processes
    clear_environment()
    if options.role == "worker":
        work(options.store, options.first, options.operations, options.seconds)
        return 0
    if options.role == "reader":
        read(options.store, options.seconds)
        return 0
    if shutil.which("redis-server") is None:
        print("redis-server is not installed.")  # noqa: T201
        return 2
    rows = list(run(options))
    print(text(rows))  # noqa: T201
    return int(any(row.met == "NO" for row in rows))


def work(store: str, first: int, count: int, seconds: float) -> None:
    """Update operations until the end of stdin. Print the processor share."""
    with configured(store=store), ExitStack() as stack:
        operations = [
            stack.enter_context(
                progress.operation("load", f"operation {number}", id=f"load-{number}", total=1_000_000)
            )
            for number in range(first, first + count)
        ]
        with updated(operations):
            time.sleep(WARM_S)
            used, started = time.process_time(), time.monotonic()
            time.sleep(seconds)
            share = (time.process_time() - used) / (time.monotonic() - started)
            print(json.dumps(share), flush=True)  # noqa: T201
            sys.stdin.read()


def read(store: str, seconds: float) -> None:
    """Watch the journal, and print the ages of the changes and the processor share."""
    from otel_progress.journal import open_journal

    ages: list[float] = []
    calls: list[float] = []
    journal = open_journal(store, read_only=True)
    started, used = time.monotonic(), time.process_time()
    for number, changes in enumerate(journal.watch(READ_INTERVAL_S, levels=False)):
        now = time.monotonic_ns()
        if number == 0:
            # The first changes are all operations, however old.
            continue
        # The message has the time of the call, and the snapshot that of the tick, which writes it.
        ages += [(now / 1e9 - each.root.observed_clock) * 1e3 for each in changes]
        calls += [(now - made) / 1e6 for each in changes if (made := _get_time(each.message))]
        if time.monotonic() - started > seconds:
            break
    share = (time.process_time() - used) / (time.monotonic() - started)
    result = {"ages": _thin_out(ages), "calls": _thin_out(calls), "cpu": share}
    print(json.dumps(result))  # noqa: T201
    journal.close()


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Start everything, and yield the rows."""
    import redis

    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        port = _find_port()
        server = stack.enter_context(_running_redis(port, directory))
        client = redis.Redis(port=port)
        store = f"redis://127.0.0.1:{port}/0"
        before = client.info("memory")["used_memory"]
        each = options.operations // options.processes
        workers = [
            stack.enter_context(_running("worker", store, options, first=number * each, operations=each))
            for number in range(options.processes)
        ]
        api, api_port = stack.enter_context(served(store))
        time.sleep(WARM_S)
        readers = [stack.enter_context(_running("reader", store, options)) for _ in range(READERS)]
        stats, cpu, started = client.info("stats"), read_cpu_seconds(server.pid), time.monotonic()
        api_cpu = read_cpu_seconds(api.pid)
        named = options.clients * NAMED_CLIENTS // (NAMED_CLIENTS + OTHER_CLIENTS)
        counts = [str(options.seconds), str(named), str(options.clients - named)]
        command = [sys.executable, "-m", "benchmarks.following", str(api_port), *counts]
        seen = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        wall = time.monotonic() - started
        commands = (
            client.info("stats")["total_commands_processed"] - stats["total_commands_processed"]
        ) / wall
        shares = [json.loads(_read_line(worker)) for worker in workers]
        found = [json.loads(_read_line(reader)) for reader in readers]
        memory = client.info("memory")["used_memory"] - before
        used = (read_cpu_seconds(server.pid) - cpu) / wall, (read_cpu_seconds(api.pid) - api_cpu) / wall
        name = f"{options.operations:,} operations of {options.processes} processes"
        yield from _build_rows(name, found, seen, commands, memory / options.operations)
        yield Row(
            "  processor: Redis, server, each process, each reader",
            f"{used[0]:.0%}, {used[1]:.0%}, {sum(shares) / len(shares):.1%}, "
            f"{sum(one['cpu'] for one in found) / len(found):.0%} of a core",
        )
        yield Row("  messages of the server", f"{read_server_counts(api_port)['messages']:,.0f}")
        yield _measure_outage(stack, server, port, directory, store, options)


def _build_rows(
    name: str, found: list[dict[str, Any]], seen: dict[str, Any], commands: float, bytes_: float
) -> Iterator[Row]:
    ages = sorted(age for one in found for age in one["ages"])
    p99 = at_share(ages, 0.99)
    met = p99 <= READER_TARGET_MS
    yield judged(
        f"{name}: p99 from tick to reader", f"{p99:.0f} ms", "", f"≤ {READER_TARGET_MS:.0f} ms", met=met
    )
    yield Row("  p50, max", f"{at_share(ages, 0.5):.0f}, {ages[-1] if ages else 0:.0f} ms")
    calls = sorted(age for one in found for age in one["calls"])
    yield Row("  p50, p99 from call to reader", f"{at_share(calls, 0.5):.0f}, {at_share(calls, 0.99):.0f} ms")
    clients = max(at_share(seen["named"], 0.99), at_share(seen["all"], 0.99))
    met = clients <= CLIENT_TARGET_MS
    yield judged(
        "  p99 from call to stream client", f"{clients:.0f} ms", "", f"≤ {CLIENT_TARGET_MS:.0f} ms", met=met
    )
    yield Row("  commands per second", f"{commands:,.0f}")
    yield Row("  bytes per operation", f"{bytes_:,.0f}")


def _measure_outage(
    stack: ExitStack,
    server: subprocess.Popen[bytes],
    port: int,
    directory: str,
    store: str,
    options: argparse.Namespace,
) -> Row:
    """Kill and restart the server, and wait for the state of all operations."""
    from otel_progress.errors import JournalError
    from otel_progress.journal import open_journal

    server.kill()
    server.wait()
    time.sleep(options.outage)
    returned = time.monotonic_ns()
    stack.enter_context(_running_redis(port, directory))
    started = time.monotonic()
    journal = open_journal(store)
    current = 0
    while current < options.operations and time.monotonic() - started < 60.0:
        with suppress(JournalError):
            current = sum(_get_time(each.message) > returned for each in journal.active(levels=False))
        time.sleep(0.02)
    seconds = time.monotonic() - started
    journal.close()
    what = f"  killed for {options.outage:.0f} s: all operations current after"
    met = seconds <= RECOVERY_TARGET_S
    return judged(what, f"{seconds:.1f} s", "", f"≤ {RECOVERY_TARGET_S:.0f} s", met=met)


@contextmanager
def _running_redis(port: int, directory: str) -> Iterator[subprocess.Popen[bytes]]:
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
    with subprocess.Popen(
        [*command, "--save", "", "--appendonly", "yes"], stdout=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            time.sleep(0.05)
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def _running(
    role: str, store: str, options: argparse.Namespace, *, first: int = 0, operations: int = 0
) -> Iterator[subprocess.Popen[str]]:
    arguments = ["--role", role, "--store", store, "--first", str(first), "--operations", str(operations)]
    command = [sys.executable, "-m", "benchmarks.sharing", *arguments, "--seconds", str(options.seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(600.0, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            if process.stdin is not None:
                process.stdin.close()
            process.wait(120.0)


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _thin_out(values: list[float]) -> list[float]:
    values.sort()
    return values[:: max(1, len(values) // 5_000)] + values[-1:]


def _get_time(message: str | None) -> int:
    return int(message[3:]) if message and message.startswith("at=") else 0


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
