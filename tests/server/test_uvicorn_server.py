"""The uvicorn server: addresses, limits, shutdown, forks and the command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest

import otel_progress as progress
from otel_progress import semconv
from otel_progress.errors import ConfigurationError
from otel_progress.journal import SqliteJournal
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.server import connections
from otel_progress.server.settings import ConnectionLimits
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import Recorder, wait_until
from tests.support.api_server import PATIENCE_S, answers, get, is_free, serving, stream, until
from tests.support.otlp_records import WALL, level, make_span
from tests.support.otlp_requests import build_protobuf_request, build_span_request
from tests.support.server_threads import threads_end
from tests.support.servers import accepts, poll

TOKEN = "correct-horse-battery"


def test_closed_server_frees_its_port(recorder: Recorder) -> None:
    """It can be closed twice."""
    with serving(recorder) as server:
        assert get(f"{server.url}healthz").status_code == 200
        assert "server" not in get(f"{server.url}healthz").headers
        server.close()
        server.close()
        poll(lambda: is_free(server.port))


def test_port_in_use_is_reported_with_a_fix(recorder: Recorder) -> None:
    """Two servers cannot share a port."""
    with serving(recorder) as server, pytest.raises(ConfigurationError, match=r"in use.*another port"):
        Server(recorder.runtime.reader, port=server.port)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"host": "0.0.0.0"}, "token"),
        ({"host": "::"}, "token"),
        ({"host": ""}, "token"),
        ({"host": "192.0.2.1", "allow_public": True}, "address of this machine"),
        ({"host": "no such host", "allow_public": True}, "address of this machine"),
        ({"port": 65536}, "an integer from 0 to 65535"),
        ({"port": True}, "an integer"),
        ({"token": "short"}, "token"),
        ({"allowed_hosts": ["http://x"]}, "host"),
        ({"allowed_origins": ["*"]}, "origin"),
        ({"root_path": "/x/"}, "root path"),
    ],
)
def test_invalid_argument_is_refused_before_serving(
    recorder: Recorder, arguments: dict[str, object], text: str
) -> None:
    """A public address without a token is invalid, too."""
    with pytest.raises(ConfigurationError, match=text):
        Server(recorder.runtime.reader, **{"port": 0, **arguments})  # type: ignore[arg-type]


def test_open_stream_ends_cleanly_with_the_server(recorder: Recorder) -> None:
    """The client does not see a broken connection."""
    with progress.operation("survey", id="one"), serving(recorder) as server, stream(server) as told:
        until(told, "ready")
        server.close()
        assert list(told) == []


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_does_not_keep_connections_open(recorder: Recorder) -> None:
    """Streams end, and the port is free, while the child runs."""
    with serving(recorder) as server, stream(server) as told:
        until(told, "ready")
        with idle_child():
            server.close(PATIENCE_S)
            assert list(told) == []
            poll(lambda: is_free(server.port))


@contextmanager
def idle_child() -> Iterator[None]:
    """Fork a child that waits until the end of the block."""
    started, starting = os.pipe()
    ending, ended = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and newer warn about a fork in a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(ended)
        os.write(starting, b"x")
        os.read(ending, 1)
        os._exit(0)
    try:
        os.close(starting)
        # Until then the child may still hold the inherited connections.
        assert os.read(started, 1) == b"x"
        yield
    finally:
        os.close(ended)
        os.waitpid(child, 0)
        os.close(started)
        os.close(ending)


UPLOAD = b"POST /api/v1/operations/x/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"


@pytest.mark.parametrize(("sent", "reason"), [(b"", "head"), (b"GET / HT", "head"), (UPLOAD, "body")])
def test_slow_request_is_aborted(recorder: Recorder, sent: bytes, reason: str) -> None:
    """A head or a body that is too slow ends the connection."""
    server = Server(recorder.runtime.reader, port=0, connections=ConnectionLimits(request_s=0.1))
    with threads_end(), closing(server), socket.create_connection(("127.0.0.1", server.port)) as client:
        # Sent before the server accepts the connection and starts its timer.
        client.sendall(sent)
        server.start()
        assert ends(client)
        poll(lambda: {(reason,): 1} in server.counts.read().values())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no TCP_USER_TIMEOUT")
def test_client_that_the_system_times_out_is_counted_as_slow(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the system may abort a client first."""
    monkeypatch.setattr(connections._Http, "_abort", lambda _connection, _reason: None)
    with (
        progress.operation("load", id="load", message="x" * 900) as operation,
        serving(
            recorder, connections=ConnectionLimits(blocked_s=0.1, buffer=1024, kernel_buffer=1024)
        ) as server,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def counted() -> bool:
            operation.increment()
            return {("slow",): 1} in server.counts.read().values()

        poll(counted, what="count of a slow client")


def test_connection_beyond_the_limit_evicts_the_oldest_idle_one(recorder: Recorder) -> None:
    """It is counted. Connections with a running request are not evicted."""
    with serving(recorder, connections=ConnectionLimits(max_connections=2, request_s=600.0)) as server:
        with stream(server) as told:
            assert next(told).kind == "ready"
            first, second = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(2))
            with first, second:
                assert ends(first)
                assert {("connections",): 1} in server.counts.read().values()
                assert answers(f"{server.url}healthz")
                assert ends(second)
            with stream(server), socket.create_connection(("127.0.0.1", server.port)) as refused:
                assert ends(refused)
        poll(lambda: answers(f"{server.url}healthz"))


def test_refused_client_and_health_check_lose_their_connection(recorder: Recorder) -> None:
    """The response says so, and the place is free at once."""
    requests = {
        "/healthz": "200",
        "/api/v1/stream": "401",
        "/api/v1/operations": "401",
        "/api/v1/ws": "401",
    }
    with serving(recorder, token=TOKEN, connections=ConnectionLimits(idle_s=600)) as server:
        for path, status in requests.items():
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                head = receive_all(client).partition(b"\r\n\r\n")[0].decode().lower()
                assert head.startswith(f"http/1.1 {status} ")
                assert "connection: close" in head


@pytest.mark.parametrize(
    "head",
    [
        "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        "POST /login HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked",
    ],
)
def test_request_with_two_body_lengths_closes_the_connection(recorder: Recorder, head: str) -> None:
    """A request hidden in its body is not answered."""
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        serving(recorder) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.sendall(head.encode() + b"\r\n\r\n0\r\n\r\n" + hidden)
        response = receive_all(client)
        assert response.startswith(b"HTTP/1.1 400 ")
        assert response.count(b"content-type:") == 1


def test_authenticated_client_is_served_during_a_flood_of_idle_connections(recorder: Recorder) -> None:
    """All are from one address. The established stream continues."""
    limits = ConnectionLimits(max_connections=60, idle_per_peer=20, idle_s=600, request_s=600.0)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    with (
        ExitStack() as flood,
        serving(recorder, token=TOKEN, connections=limits) as server,
        stream(server, **bearer) as told,
    ):
        assert next(told).kind == "ready"
        for number in range(200):
            client = flood.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            path = ("/static/login.js", "/login", "/nothing")[number % 3]
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if number % 20 == 0:
                assert get(f"{server.url}api/v1/operations", headers=bearer).status_code == 200
        with progress.operation("job", id="job"):
            assert next(told).document["operation_id"] == "job"
        # The server closes an evicted connection after it has accepted another one.
        wait_until(lambda: len(server._uvicorn.server_state.connections) <= 61)


def receive_all(client: socket.socket) -> bytes:
    """Return what a server sends until it closes the connection."""
    client.settimeout(PATIENCE_S)
    received = b""
    while data := client.recv(4096):
        received += data
    return received


def ends(client: socket.socket) -> bool:
    """Read to the end of a connection. Fail after ``PATIENCE_S`` seconds."""
    client.settimeout(PATIENCE_S)
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


@contextmanager
def command(*arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command, and kill it at the end of the block."""
    line = [sys.executable, "-m", "otel_progress", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, env={**os.environ, **environ}, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_command_stops_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """It prints its URL, ends its streams and exits with 0."""
    with command("serve", "--port", "0", XDG_STATE_HOME=str(tmp_path), HOME=str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        url = line.split()[2]
        assert get(f"{url}api/v1/operations").json()["operations"] == []
        with httpx.stream(
            "GET", f"{url}api/v1/stream", timeout=PATIENCE_S, trust_env=False, verify=False
        ) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "retry: 1000"
            process.send_signal(number)
            for _ in lines:
                pass
        assert process.wait(timeout=PATIENCE_S) == 0
        assert process.stderr.read() == ""


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--host", "0.0.0.0"], "--allow-public-without-token"),
        (["--token-file", "/no/such/file"], "cannot be read"),
        (["--port", "99999"], "99999"),
        (["--allow-host", "a b"], "host"),
    ],
)
def test_serve_command_with_an_invalid_option_exits_with_2(
    arguments: list[str], text: str, tmp_path: Path
) -> None:
    """The error is one line on stderr."""
    with command(
        "serve", "--port", "0", *arguments, XDG_STATE_HOME=str(tmp_path), HOME=str(tmp_path)
    ) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert output == ""
    assert text in errors
    assert errors.count("\n") == 1


@pytest.mark.process
def test_serve_command_reads_the_token_from_a_file(tmp_path: Path) -> None:
    """The token is required, and never printed."""
    (tmp_path / "token").write_text("correct-horse-battery\n", encoding="utf-8")
    options = ["--port", "0", "--token-file", str(tmp_path / "token")]
    with command("serve", *options, XDG_STATE_HOME=str(tmp_path), HOME=str(tmp_path)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        assert get(f"{url}api/v1/operations").status_code == 401
        answer = get(f"{url}api/v1/operations", headers={"Authorization": "Bearer correct-horse-battery"})
        assert answer.status_code == 200
        process.terminate()
        rest, errors = process.communicate(timeout=PATIENCE_S)
    assert "horse" not in url + rest + errors
    assert process.returncode == 0


@pytest.mark.process
def test_serve_command_reads_its_settings_from_the_environment(tmp_path: Path) -> None:
    """An option has precedence over its variable."""
    environ = {
        "XDG_STATE_HOME": str(tmp_path),
        "HOME": str(tmp_path),
        "OTEL_PROGRESS_SERVER_HOST": "localhost",
        "OTEL_PROGRESS_SERVER_PORT": "0",
        "OTEL_PROGRESS_TOKEN": "correct-horse-battery",
    }
    (tmp_path / "token").write_text("another-horse-battery", encoding="utf-8")
    for options, token in (
        ((), "correct-horse-battery"),
        (("--token-file", str(tmp_path / "token")), "another-horse-battery"),
    ):
        with command("serve", *options, **environ) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[2]
            assert url.startswith("http://localhost:")
            assert get(f"{url}api/v1/operations").status_code == 401
            bearer = {"Authorization": f"Bearer {token}"}
            assert get(f"{url}api/v1/operations", headers=bearer).status_code == 200
            process.terminate()
            assert process.wait(timeout=PATIENCE_S) == 0


@pytest.mark.process
def test_serve_command_receives_otlp_into_its_journal(tmp_path: Path) -> None:
    """On both ports. The page shows the operation."""
    environ = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with command("serve", "--port", "0", "--otlp", "--otlp-port", "0", **environ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        endpoint = process.stdout.readline().strip().partition("OTEL_EXPORTER_OTLP_ENDPOINT=")[2]
        assert endpoint != url.rstrip("/")
        for number, origin in enumerate((endpoint, url.rstrip("/"))):
            running = level(operation_id=f"o{number}", run=f"r{number}")
            event = build_level_event("progress.updated", running, WALL)
            answer = httpx.post(
                f"{origin}/v1/logs",
                content=build_protobuf_request([event]),
                headers={"content-type": "application/x-protobuf"},
                timeout=PATIENCE_S,
                trust_env=False,
            )
            assert (answer.status_code, answer.content) == (200, b"")
            assert get(f"{url}api/v1/operations/o{number}").json()["alive"] is True
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0


@pytest.mark.process
def test_serve_command_stores_waiting_spans_at_its_end(tmp_path: Path) -> None:
    """The parent of the span has not arrived."""
    store = tmp_path / "progress.db"
    attributes = {semconv.CURRENT: 3, semconv.TOTAL: 3}
    now = str(time.time_ns())
    times = {"startTimeUnixNano": now, "endTimeUnixNano": now}
    span = make_span("pull", parentSpanId="1" * 16, flags=0x100, attributes=attributes, **times)
    otlp = ("--otlp", "--otlp-port", "0")
    environ = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with command("--store", f"sqlite:///{store}", "serve", "--port", "0", *otlp, **environ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        answer = httpx.post(
            f"{url}v1/traces",
            content=build_span_request(span),
            headers={"content-type": "application/json"},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        assert (answer.status_code, answer.json()) == (200, {})
        assert get(f"{url}api/v1/operations").json()["operations"] == []
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0
    with closing(SqliteJournal(store)) as journal:
        assert [done.name for done in journal.history()] == ["pull"]


@pytest.mark.process
def test_serve_command_with_a_used_otlp_port_exits_with_1(tmp_path: Path) -> None:
    """A Collector may listen there. The message names the fix."""
    environ = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        options = ("--port", "0", "--otlp", "--otlp-port", port)
        with command("serve", *options, **environ) as process:
            _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert f"Port {port} of 127.0.0.1 is in use, so OTLP (otlp_port, --otlp-port) cannot" in errors


@pytest.mark.process
def test_serve_command_serves_a_journal_that_is_created_later(tmp_path: Path) -> None:
    """The journal does not exist when the server starts."""
    environ = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with command("serve", "--port", "0", **environ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        assert get(f"{url}api/v1/operations").json()["operations"] == []
        work = (
            "import otel_progress as p\n"
            "runtime = p.configure(service_name='first', console=False)\n"
            "with p.operation('first', id='first'): pass\n"
            # A shutdown waits only for a few seconds.
            f"assert runtime.force_flush({PATIENCE_S})\n"
            "runtime.shutdown()"
        )
        subprocess.run(
            [sys.executable, "-c", work], env={**os.environ, **environ}, check=True, timeout=PATIENCE_S
        )
        found = get(f"{url}api/v1/operations/first")
        assert found.json()["status"] == "completed"
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0


def test_metrics_include_the_totals_of_a_runtime(recorder: Recorder) -> None:
    """A server without totals does not have them."""
    recorder.runtime._totals.count_dropped("journal", 3)
    for totals, shown in ((recorder.runtime._totals, True), (None, False)):
        with serving(recorder, totals=totals) as server:
            text = get(f"{server.url}metrics").text
        assert (
            any(
                line.startswith("progress_") and "journal" in line and line.endswith(" 3.0")
                for line in text.splitlines()
            )
            is shown
        )


def test_close_without_time_returns_immediately(recorder: Recorder) -> None:
    """An open stream does not keep the port in use."""
    with serving(recorder) as server, stream(server) as told:
        until(told, "ready")
        server.close(timeout=0.0)
        poll(lambda: not accepts(server.port))
        server.close(PATIENCE_S)
        poll(lambda: is_free(server.port))
