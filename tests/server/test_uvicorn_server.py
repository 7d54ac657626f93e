"""The serving process: where it may listen, how it ends, and what a fork and a second server do to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

import otel_progress as progress
from otel_progress.errors import ConfigurationError
from otel_progress.server import connections
from otel_progress.server.settings import ConnectionLimits
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import Recorder
from tests.support.api_server import PATIENCE_S, answers, get, is_free, serving, stream, until
from tests.support.server_threads import threads_end
from tests.support.servers import accepts, poll


def test_it_serves_and_frees_its_port(recorder: Recorder) -> None:
    """A started server answers at its address; closed, twice, the port can be taken again."""
    with serving(recorder) as server:
        assert get(f"{server.url}healthz").status_code == 200
        assert "server" not in get(f"{server.url}healthz").headers
        server.close()
        server.close()
        poll(lambda: is_free(server.port))


def test_a_taken_port_is_said(recorder: Recorder) -> None:
    """Two servers cannot share a port; the second one says so, and what to do."""
    with serving(recorder) as server, pytest.raises(ConfigurationError, match=r"in use.*another port"):
        Server(recorder.runtime.store.reader, port=server.port)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"host": "0.0.0.0"}, "token"),
        ({"host": "::"}, "token"),
        ({"host": ""}, "token"),
        ({"host": "192.0.2.1", "allow_public": True}, "address of this machine"),
        ({"host": "no such host", "allow_public": True}, "address of this machine"),
        ({"port": 65536}, "0 .any free port. to 65535"),
        ({"port": True}, "whole number"),
        ({"token": "short"}, "token"),
        ({"allowed_hosts": ["http://x"]}, "host"),
        ({"allowed_origins": ["*"]}, "origin"),
        ({"root_path": "/x/"}, "root path"),
    ],
)
def test_what_cannot_be_served_is_refused(
    recorder: Recorder, arguments: dict[str, object], text: str
) -> None:
    """A public address without a token, and every value that makes no sense, is refused before anything is served."""
    with pytest.raises(ConfigurationError, match=text):
        Server(recorder.runtime.store.reader, **{"port": 0, **arguments})  # type: ignore[arg-type]


def test_open_streams_end_with_the_server(recorder: Recorder) -> None:
    """A client of the stream sees its end, and not a broken connection."""
    with progress.operation("survey", id="one"), serving(recorder) as server, stream(server) as told:
        until(told, "ready")
        server.close()
        assert list(told) == []


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_holds_nothing_open(recorder: Recorder) -> None:
    """While a child of the serving process lives on, streams still end for their clients and the port is free again."""
    with serving(recorder) as server, stream(server) as told:
        until(told, "ready")
        with child_that_stays():
            server.close(PATIENCE_S)
            assert list(told) == []
            poll(lambda: is_free(server.port))


@contextmanager
def child_that_stays() -> Iterator[None]:
    """Fork a child that does nothing within the block, which begins when the child has come out of the fork."""
    begun, beginning = os.pipe()
    ending, over = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of Python 3.12 on, for a fork beside threads, as in this test
        child = os.fork()
    if child == 0:
        os.close(over)
        os.write(beginning, b"x")
        os.read(ending, 1)
        os._exit(0)
    try:
        os.close(beginning)
        assert os.read(begun, 1) == b"x"  # until then it may still hold what it is to let go of
        yield
    finally:
        os.close(over)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(ending)


UPLOAD = b"POST /api/v1/operations/x/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"


@pytest.mark.parametrize(("sent", "reason"), [(b"", "head"), (b"GET / HT", "head"), (UPLOAD, "body")])
def test_who_does_not_get_on_with_a_request_is_cut_off(recorder: Recorder, sent: bytes, reason: str) -> None:
    """A head or a body that does not come in time ends the connection, however it was begun."""
    server = Server(recorder.runtime.store.reader, port=0, connections=ConnectionLimits(request_s=0.1))
    with threads_end(), closing(server), socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            sent
        )  # before anybody takes the connection and its time begins, so that it is read first for certain
        server.start()
        assert ends(client)
        poll(lambda: {(reason,): 1} in server.counts.read().values())


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system does not give up on clients by itself"
)
def test_whom_the_system_gives_up_on_is_counted_as_slow(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine so busy that the system is first to cut off a client that takes nothing, it is counted all the same."""
    monkeypatch.setattr(connections._Http, "_cut", lambda _connection, _reason: None)
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


def test_too_many_connections_are_closed_at_once(recorder: Recorder) -> None:
    """One more than the limit is closed and counted; when another one goes there is room again."""
    with serving(recorder, connections=ConnectionLimits(most=2, request_s=600.0)) as server:
        first, second, third = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(3))
        with second, third:
            with first:
                assert ends(third)
                assert {("connections",): 1} in server.counts.read().values()
            poll(lambda: answers(f"{server.url}healthz"))


def ends(client: socket.socket) -> bool:
    """Read to the end of a connection, clean or not; it has to come within ``PATIENCE_S``."""
    client.settimeout(PATIENCE_S)
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


@contextmanager
def command(*arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command; whatever a test does, it does not outlive the block."""
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
def test_the_command_serves_until_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    """`serve` says where to look before there was any work on the machine, answers, ends its streams and exits with 0."""
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
def test_the_command_refuses_what_it_cannot_serve(arguments: list[str], text: str, tmp_path: Path) -> None:
    """One line on stderr, exit code 2, and no server."""
    with command(
        "serve", "--port", "0", *arguments, XDG_STATE_HOME=str(tmp_path), HOME=str(tmp_path)
    ) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert output == ""
    assert text in errors
    assert errors.count("\n") == 1


@pytest.mark.process
def test_the_command_asks_for_the_token_of_a_file(tmp_path: Path) -> None:
    """The token is read from the file, asked for, and never printed."""
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
def test_the_command_serves_where_the_environment_says(tmp_path: Path) -> None:
    """Host, port and token come from the variables of the settings; an option comes before its variable."""
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
def test_the_command_serves_the_first_work_of_the_machine(tmp_path: Path) -> None:
    """A journal that is made after the server began is served from then on."""
    environ = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with command("serve", "--port", "0", **environ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        assert get(f"{url}api/v1/operations").json()["operations"] == []
        work = (
            "import otel_progress as p\n"
            "runtime = p.configure(service_name='first', console=False)\n"
            "with p.operation('first', id='first'): pass\n"
            f"assert runtime.force_flush({PATIENCE_S})\n"  # a shutdown waits for a few seconds only
            "runtime.shutdown()"
        )
        subprocess.run(
            [sys.executable, "-c", work], env={**os.environ, **environ}, check=True, timeout=PATIENCE_S
        )
        found = get(f"{url}api/v1/operations/first")
        assert found.json()["status"] == "completed"
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0


def test_a_worker_shows_its_own_counters(recorder: Recorder) -> None:
    """/metrics of a server that was given a runtime's totals shows them; without them it cannot know."""
    recorder.runtime.totals.count_dropped("journal", 3)
    for totals, shown in ((recorder.runtime.totals, True), (None, False)):
        with serving(recorder, totals=totals) as server:
            text = get(f"{server.url}metrics").text
        assert (
            any(
                line.startswith("progress_") and "journal" in line and line.endswith(" 3.0")
                for line in text.splitlines()
            )
            is shown
        )


def test_closing_keeps_to_its_time(recorder: Recorder) -> None:
    """With no time left a close returns at once; an open stream does not keep the port, which is free soon after."""
    with serving(recorder) as server, stream(server) as told:
        until(told, "ready")
        server.close(timeout=0.0)
        poll(lambda: not accepts(server.port))
        server.close(PATIENCE_S)
        poll(lambda: is_free(server.port))
