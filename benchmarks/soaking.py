"""Soak under random faults: every reader has the final state of every operation.

    python -m benchmarks.soaking [--duration 600] [--seed 1]

Processes write to a journal in SQLite, to one in Redis, and send OTLP to `otel-progress serve`,
directly and through a Collector (rotel, if it is installed). Each of them stores the final state of
its operations in a file. At the same time, Redis, the servers and the Collector are killed,
suspended and started again, connections are cut and stalled in both directions, the journal is
locked, and the network is disabled, if the system permits a network namespace. Processes exit
during faults.

Two losses are known and not caused: a Collector drops data that it has accepted when it is killed
or its connection breaks, so it has a server of its own without faults. Of operations whose process
exits during an outage of its journal, only the end is stored in a file, not its levels.

Readers watch both journals and the streams of both servers all the time. At the end, their states
and the answers to queries are compared with the files. It prints the losses, and exits with 1 if
there are any. It needs ``redis-server``.
"""

from __future__ import annotations

import argparse
import http
import http.client
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import otel_progress as progress
from benchmarks.faults import (
    HOST,
    Faults,
    Proxy,
    ServerProcess,
    cut_network,
    enter_network_namespace,
    find_port,
    lock_journal,
    suspend,
)
from benchmarks.setting import clear_environment
from benchmarks.table import Row, text
from otel_progress.errors import JournalError
from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import HistoryQuery

State: TypeAlias = "tuple[object, ...]"
"""Status, count, total and message of an operation, and of each of its levels."""

States: TypeAlias = "dict[str, State]"
"""Final states by run."""

OPERATIONS_PER_S: Final = 2.5
"""Operations that a process starts per second."""
SHORT_LIVED_S: Final = 4.0
"""Duration of a process that exits during the soak."""
RECOVERY_S: Final = 180.0
"""Time limit until all readers have all states after the last fault, in seconds."""
FLUSH_S: Final = 90.0
WATCH_S: Final = 0.2
RECENT: Final = 500
"""Ended operations that a reader reads after an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak and print its table. The exit code is 1 if a state was lost."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soaking", description=main.__doc__)
    parser.add_argument("--duration", type=float, default=600.0, help="seconds of faults")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, help="folder for journals and logs, kept")
    parser.add_argument("--role", choices=("worker",), help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.role == "worker":
        work(options.store, options.folder, options.seed, options.seconds)
        return 0
    if shutil.which("redis-server") is None:
        print("redis-server is not installed.")  # noqa: T201
        return 2
    has_namespace = enter_network_namespace([sys.executable, "-m", "benchmarks.soaking", *given])
    clear_environment()
    os.environ["no_proxy"] = "*"
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder, options.seed, has_namespace=has_namespace)
        stack.callback(soak.close)
        soak.start()
        rows, losses = soak.run(options.duration)
    print(text(rows))  # noqa: T201
    for line in losses[:50]:
        print(line)  # noqa: T201
    print(f"seed {options.seed}: losses: {len(losses) or 'none'}")  # noqa: T201
    return int(bool(losses))


# --- processes that record -----------------------------------------------------------------------


def work(store: str, truth: Path, seed: int, seconds: float) -> None:
    """Record operations until a line on stdin, or for ``seconds``.

    Store their final states.
    """
    chosen, is_over = random.Random(seed), threading.Event()
    runtime = progress.configure(store=store, console=False, service_name=f"worker-{seed}", retention="3h")
    lock = threading.Lock()

    def store_truth(state: Mapping[str, object]) -> None:
        with lock, truth.open("a") as file:
            file.write(json.dumps(state) + "\n")

    if seconds:
        threading.Timer(seconds, is_over.set).start()
    else:
        threading.Thread(target=lambda: (sys.stdin.readline(), is_over.set()), daemon=True).start()
    threads: list[threading.Thread] = []
    number = 0
    while not is_over.wait(1.0 / OPERATIONS_PER_S):
        threads = [each for each in threads if each.is_alive()]
        number += 1
        arguments = (f"{seed}-{number}", random.Random(chosen.random()), is_over, store_truth, not seconds)
        threads.append(threading.Thread(target=record_operation, args=arguments))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if not seconds:
        print("stopped", flush=True)  # noqa: T201
        sys.stdin.readline()
        runtime.force_flush(FLUSH_S)
        runtime.shutdown(FLUSH_S)


def record_operation(
    id_: str,
    chosen: random.Random,
    is_over: threading.Event,
    store: Callable[[dict[str, object]], None],
    has_levels: bool,
) -> None:
    """Record one operation of random length and outcome."""
    steps = chosen.choice((0, 1, 3, 10, 40))
    op = progress.operation("soak", f"operation {id_}", id=id_, total=steps or 1).start()
    levels = []
    for number in range(steps):
        if chosen.random() < 0.3:
            level = op.level("part", str(number), total=2).start()
            level.increment(chosen.choice((1, 2)))
            if chosen.random() < 0.2:
                level.fail("no")
            else:
                level.complete()
            levels.append(level)
        op.increment(message=f"step {number}")
        if is_over.is_set():
            break
        time.sleep(chosen.uniform(0.0, 0.4))
    end = chosen.random()
    if end < 0.1:
        op.fail("broken")
    elif end < 0.2:
        op.cancel("not needed")
    else:
        op.complete()
    root = op.snapshot()
    # Why after the end: the process may exit before it is stored, and then it is not expected.
    store(
        {
            "id": id_,
            "run": root.info.run,
            "state": _describe(root),
            "levels": {each.path: _describe(each.snapshot()) for each in levels},
            "has_levels": has_levels,
        }
    )


def _describe(level: Any) -> list[object]:
    return [level.status.value, level.current, level.total, level.message]


# --- readers -------------------------------------------------------------------------------------


def watch_journal(store: str, states: States, is_over: threading.Event) -> None:
    """Store the states of a watched journal. Watch again after errors."""
    from otel_progress.journal import open_journal

    while not is_over.is_set():
        with suppress(JournalError), closing(open_journal(store, read_only=True, missing_ok=True)) as journal:
            is_first = True
            for changed in journal.watch(WATCH_S):
                # Why the history: operations that ended before the first poll are not changes.
                recent = journal.history(HistoryQuery(limit=RECENT)) if is_first else ()
                is_first = False
                for operation in (*recent, *changed):
                    states[operation.run] = _describe_operation(operation)
                if is_over.is_set():
                    return
        time.sleep(WATCH_S)


def follow_stream(port: int, states: States, is_over: threading.Event) -> None:
    """Store the states of a stream. Connect again after errors, at the last message.

    Like the page, it reads the history at the start of each connection.
    """
    last = ""
    while not is_over.is_set():
        connection = http.client.HTTPConnection(HOST, port, timeout=30.0)
        with suppress(OSError, http.client.HTTPException, ValueError):
            headers = {"Last-Event-ID": last} if last else {}
            connection.request("GET", "/api/v1/stream", headers=headers)
            answer = connection.getresponse()
            if answer.status == 200:
                for name, data, identity in _read_messages(answer):
                    if name == "snapshot":
                        states[data["run"]] = _describe_document(data)
                    elif name == "ready":
                        _read_history(port, states)
                    last = identity or last
                    if is_over.is_set():
                        break
        connection.close()
        time.sleep(WATCH_S)


def _read_history(port: int, states: States) -> None:
    """Store the states of the history.

    Raise HTTPException while the store cannot be read.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=30.0)
    with closing(connection):
        connection.request("GET", f"/api/v1/history?limit={RECENT}")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"status {answer.status}")
        for document in json.loads(body)["operations"]:
            states[document["run"]] = _describe_document(document)


def _read_messages(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any, str]]:
    name, data, identity = "", [], ""
    for raw in answer:
        field, _, value = raw.decode().rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            identity = value
        elif not field and data:
            yield name, json.loads("\n".join(data)), identity
            name, data = "", []


def _describe_operation(operation: OperationSnapshot) -> State:
    return tuple(_describe(operation.root))


def _describe_document(document: Mapping[str, Any]) -> State:
    return tuple(document[name] for name in ("status", "current", "total", "message"))


# --- the soak ------------------------------------------------------------------------------------


class Soak:
    """Servers, proxies, processes and readers of one soak."""

    def __init__(self, folder: Path, seed: int, *, has_namespace: bool) -> None:
        self._folder = folder
        self._seed = seed
        self._is_over = threading.Event()
        self._has_namespace = has_namespace
        self._workers: list[subprocess.Popen[str]] = []
        self._short: list[subprocess.Popen[str]] = []
        self._next = seed * 1_000
        self._servers: list[ServerProcess] = []

    def start(self) -> None:
        """Start the servers and proxies."""
        self._start_servers()
        self._faults = self._build_faults()
        self._groups = self._build_groups()

    def _start_server(self, command: Sequence[str], port: int, name: str) -> ServerProcess:
        server = ServerProcess(command, port, self._folder / f"{name}.log")
        self._servers.append(server)
        server.start()
        return server

    def _start_servers(self) -> None:
        folder, python = self._folder, [sys.executable, "-m", "otel_progress"]
        redis_port, self._server_port, self._otlp_port = find_port(), find_port(), find_port()
        redis_command = ["redis-server", "--port", str(redis_port), "--bind", HOST, "--dir", str(folder)]
        self._redis = self._start_server(
            [*redis_command, "--save", "", "--appendonly", "yes"], redis_port, "redis"
        )
        self._redis_proxy, self._reader_proxy = Proxy(redis_port), Proxy(redis_port)
        self.sqlite = folder / "sqlite" / "progress.db"
        self.stores = {
            "sqlite": f"sqlite:///{self.sqlite}",
            "redis": f"redis://{HOST}:{self._redis_proxy.port}/0",
            "redis-read": f"redis://{HOST}:{self._reader_proxy.port}/0",
            "redis-direct": f"redis://{HOST}:{redis_port}/0",
            "otlp": f"sqlite:///{folder / 'received' / 'progress.db'}",
        }
        serve = ["serve", "--port"]
        self._server = self._start_server(
            [*python, "--store", self.stores["redis-read"], *serve, str(self._server_port)],
            self._server_port,
            "server",
        )
        otlp = [str(self._otlp_port), "--otlp", "--otlp-port", str(self._otlp_port)]
        self._otlp_server = self._start_server(
            [*python, "--store", self.stores["otlp"], *serve, *otlp], self._otlp_port, "otlp"
        )
        self._otlp_proxy, self._stream_proxy = Proxy(self._otlp_port), Proxy(self._otlp_port)
        self._server_proxy = Proxy(self._server_port)
        self._collector: ServerProcess | None = None
        collected_port = find_port()
        collected = [str(collected_port), "--otlp", "--otlp-port", str(collected_port)]
        self.stores["collected"] = f"sqlite:///{folder / 'collected' / 'progress.db'}"
        rotel = importlib.util.find_spec("rotel")
        binary = None if rotel is None or not rotel.origin else Path(rotel.origin).with_name("rotel-agent")
        if binary is not None and not subprocess.run([str(binary), "--version"], check=False).returncode:
            http_port = find_port()
            self._start_server(
                [*python, "--store", self.stores["collected"], *serve, *collected],
                collected_port,
                "collected",
            )
            command = [
                str(binary), "start", "--otlp-grpc-endpoint", f"{HOST}:{find_port()}",
                "--otlp-http-endpoint", f"{HOST}:{http_port}", "--exporter", "otlp",
                "--otlp-exporter-protocol", "http", "--batch-timeout", "50ms",
                "--otlp-exporter-endpoint", f"http://{HOST}:{collected_port}",
                "--otlp-exporter-request-timeout", "60s",
                "--pid-file", str(folder / "rotel.pid"), "--log-file", str(folder / "rotel.log"),
            ]  # fmt: skip
            self._collector = self._start_server(command, http_port, "collector")
            self._collector_in = Proxy(http_port)

    def _build_faults(self) -> Faults:
        faults = Faults(self._seed)
        faults.add_server("Redis", self._redis)
        faults.add_server("server", self._server)
        faults.add_server("OTLP server", self._otlp_server)
        faults.add_proxy("Redis", self._redis_proxy)
        faults.add_proxy("readers of Redis", self._reader_proxy)
        faults.add_proxy("OTLP", self._otlp_proxy)
        faults.add_proxy("streams", self._stream_proxy)
        faults.add_proxy("streams of Redis", self._server_proxy)
        if self._collector is not None:
            # Why not SIGKILL: what a Collector has accepted is only in its memory.
            faults.add("Collector SIGSTOP", lambda seconds: suspend(self._collector_send, seconds))
            faults.add_proxy("Collector", self._collector_in)
        faults.add("journal locked", lambda seconds: lock_journal(self.sqlite, seconds))
        faults.add("process SIGSTOP", self._suspend_worker)
        if self._has_namespace:
            faults.add("network", cut_network)
        return faults

    def _collector_send(self, number: int) -> None:
        if self._collector is not None:
            self._collector.send(number)

    def _suspend_worker(self, seconds: float) -> None:
        worker = random.choice(self._workers)
        suspend(worker.send_signal, seconds)

    def _build_groups(self) -> dict[str, dict[str, str]]:
        """Return the environment of each kind of process."""
        groups = {
            "sqlite": {},
            "redis": {},
            "otlp": {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{self._otlp_proxy.port}"},
        }
        if self._collector is not None:
            groups["collector"] = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{self._collector_in.port}"}
        return groups

    def _start_worker(self, group: str, seconds: float = 0.0) -> subprocess.Popen[str]:
        self._next += 1
        store = self.stores.get(group, "memory:") if group != "otlp" else "memory:"
        environ = {
            **os.environ,
            "XDG_STATE_HOME": str(self._folder / "state"),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            **self._groups[group],
        }
        command = [sys.executable, "-m", "benchmarks.soaking", "--role", "worker", "--store", store]
        command += ["--folder", str(self._folder / f"truth-{group}.jsonl"), "--seed", str(self._next)]
        with (self._folder / "workers.log").open("a") as log:
            return subprocess.Popen(
                [*command, "--seconds", str(seconds)],
                env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def _start_readers(self) -> dict[str, States]:
        readers: dict[str, States] = {name: {} for name in ("sqlite", "redis", "otlp", "redis-stream")}
        targets: list[tuple[Callable[..., None], str | int, str]] = [
            (watch_journal, self.stores["sqlite"], "sqlite"),
            (watch_journal, self.stores["redis-read"], "redis"),
            (follow_stream, self._stream_proxy.port, "otlp"),
            (follow_stream, self._server_proxy.port, "redis-stream"),
        ]
        for function, source, name in targets:
            arguments = (source, readers[name], self._is_over)
            threading.Thread(target=function, args=arguments, daemon=True).start()
        return readers

    def run(self, duration: float) -> tuple[list[Row], list[str]]:
        """Make faults for ``duration`` seconds. Return the rows and the losses."""
        readers = self._start_readers()
        self._workers = [self._start_worker(group) for group in self._groups for _ in range(1)]
        stop_short = threading.Event()
        short = threading.Thread(target=self._start_short_workers, args=(stop_short,))
        short.start()
        self._faults.run(duration)
        stop_short.set()
        short.join()
        for worker in self._workers:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            worker.stdout.readline()
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        started = time.monotonic()
        codes = [worker.wait(3 * FLUSH_S) for worker in (*self._workers, *self._short)]
        truths = {group: self._read_truth(group) for group in self._groups}
        losses = [f"a process exited with {code}" for code in codes if code]
        while (found := self._compare(truths, readers)) and time.monotonic() - started < RECOVERY_S:
            time.sleep(2.0)
        losses += found
        recovery_s = time.monotonic() - started
        rows = [Row(f"operations of {group}", f"{len(known)}") for group, known in truths.items()]
        rows.append(Row("faults", f"{sum(self._faults.counts.values())}", self._describe_faults()))
        rows.append(Row("processes", f"{len(self._workers) + len(self._short)}"))
        rows.append(Row("time until all readers had all states", f"{recovery_s:.1f} s"))
        rows.append(Row("lost states", f"{len(losses) or 'none'}"))
        return rows, losses

    def _describe_faults(self) -> str:
        return f"{sum(map(bool, self._faults.counts.values()))} of {len(self._faults.counts)} kinds"

    def _start_short_workers(self, stop: threading.Event) -> None:
        """Start processes that exit after some seconds, one after the other."""
        number = 0
        while not stop.is_set():
            group = ("sqlite", "redis")[number % 2]
            self._short.append(self._start_worker(group, SHORT_LIVED_S))
            number += 1
            stop.wait(SHORT_LIVED_S + 2.0)

    def _read_truth(self, group: str) -> dict[str, Any]:
        path = self._folder / f"truth-{group}.jsonl"
        truths = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return {truth["run"]: truth for truth in truths}

    def _compare(self, truths: Mapping[str, Mapping[str, Any]], readers: Mapping[str, States]) -> list[str]:
        """Return a line for each state that a reader does not have."""
        views = {"sqlite": ["sqlite"], "redis": ["redis", "redis-stream"], "otlp": ["otlp"]}
        views["collector"] = []
        stores = {**self.stores, "redis": self.stores["redis-direct"], "collector": self.stores["collected"]}
        losses = []
        for group, known in truths.items():
            for run, truth in known.items():
                expected = tuple(truth["state"])
                for view in views[group]:
                    state = readers[view].get(run)
                    if state != expected:
                        losses.append(f"{group}: reader {view} of {truth['id']}: {state}, not {expected}")
            losses += self._compare_journal(group, stores[group], known)
        return losses

    def _compare_journal(self, group: str, store: str, known: Mapping[str, Any]) -> list[str]:
        from otel_progress.journal import open_journal

        losses = []
        with closing(open_journal(store, read_only=True, missing_ok=True)) as journal:
            for truth in known.values():
                try:
                    found = journal.get(truth["id"])
                except JournalError as error:
                    return [f"{group}: {error}"]
                state = None if found is None else _describe_operation(found)
                if state != tuple(truth["state"]):
                    losses.append(f"{group}: journal of {truth['id']}: {state}, not {truth['state']}")
                elif found is not None and truth["has_levels"]:
                    levels = {level.path: _describe(level) for level in found.levels}
                    losses += [
                        f"{group}: level {path} of {truth['id']}: {levels.get(path)}, not {expected}"
                        for path, expected in truth["levels"].items()
                        if levels.get(path) != expected
                    ]
        return losses

    def close(self) -> None:
        """Stop everything."""
        self._is_over.set()
        for process in (*self._workers, *self._short):
            if process.poll() is None:
                process.kill()
            process.wait()
        for server in self._servers:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
