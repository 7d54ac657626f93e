"""HTTP server of the metrics: responses, limits, errors and shutdown."""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_progress import semconv
from otel_progress.errors import ConfigurationError
from otel_progress.metrics import ProgressCollector
from otel_progress.metrics.http_server import MAX_CONNECTIONS, MetricsServer, serve_metrics
from tests.support.loopback import listens, own_host
from tests.support.metrics_operations import Shelf, operation
from tests.support.metrics_scrape import parse_openmetrics
from tests.support.metrics_server import PATIENCE_S, connections, serving
from tests.support.servers import answers, poll

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def shelf() -> Shelf:
    """Return a reader with one operation."""
    return Shelf([operation(ratio=0.5)])


@pytest.fixture
def server(shelf: Shelf) -> Iterator[MetricsServer]:
    """Serve that reader on a free port."""
    with serving(ProgressCollector(shelf)) as running:
        yield running


def run_scene(scene: str) -> None:
    """Run a scene with a server in a process of its own.

    It prints only that it is done.
    """
    command = [sys.executable, "-m", "tests.support.programs.metrics_server", scene]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def is_disconnected(client: socket.socket) -> bool:
    """Return whether the server closes or resets the connection without a response."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def fetch(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of a response."""
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, {key.lower(): value for key, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {key.lower(): value for key, value in error.headers.items()}, error.read()


def test_server_by_default_sends_text(server: MetricsServer) -> None:
    """It listens on the loopback address."""
    status, headers, body = fetch(server.url)
    assert (status, server.host) == (200, "127.0.0.1")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert (
        f'{semconv.OPERATION_RATIO.prometheus}{{operation_id="op",operation_type="render"}} 0.5\n'.encode()
        in body
    )


def test_server_sends_openmetrics_and_gzip_on_request(server: MetricsServer) -> None:
    """The client requests both by headers."""
    status, headers, body = fetch(server.url, Accept=OPENMETRICS, **{"Accept-Encoding": "gzip"})
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(gzip.decompress(body).decode())}
    assert semconv.OPERATION_RATIO.prometheus in names


def test_server_sends_one_metric_by_name(server: MetricsServer) -> None:
    """The query parameter ``name[]`` selects it."""
    _, _, body = fetch(f"{server.url}?name[]={semconv.OPERATION_RATIO.prometheus}")
    assert {line.split("{")[0] for line in body.decode().splitlines() if not line.startswith("#")} == {
        semconv.OPERATION_RATIO.prometheus
    }


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/favicon.ico", "/%2e%2e/metrics", "/metrics.txt"])
def test_server_sends_404_for_other_paths(server: MetricsServer, path: str) -> None:
    """The text names the path of the metrics."""
    status, _, body = fetch(server.url.replace("/metrics", path))
    assert status == 404
    assert b"/metrics" in body


def test_health_check_does_not_scrape(server: MetricsServer, shelf: Shelf) -> None:
    """The response is ``ok``."""
    assert fetch(server.url.replace("/metrics", "/healthz"))[::2] == (200, b"ok\n")
    assert shelf.reads == 0


def test_server_refuses_other_methods(server: MetricsServer) -> None:
    """The status is 405."""
    assert fetch(server.url, "POST")[0] == 405


@pytest.mark.process
def test_server_writes_nothing_to_stderr() -> None:
    """Requests may be invalid or interrupted."""
    run_scene("quiet")


def test_silent_clients_do_not_block_others(server: MetricsServer) -> None:
    """Some clients send nothing, others half of a request."""
    with contextlib.ExitStack() as stack:
        for place in range(10):
            client = stack.enter_context(socket.create_connection((server.host, server.port)))
            client.sendall(b"GET /metr" if place % 2 else b"")
        assert fetch(server.url)[0] == 200


def test_silent_client_is_disconnected_after_the_timeout(shelf: Shelf) -> None:
    """It has sent half of a request."""
    with (
        serving(ProgressCollector(shelf), timeout_s=0.05) as server,
        socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client,
    ):
        with contextlib.suppress(ConnectionError):  # the timeout may expire first
            client.sendall(b"GET /metr")
        assert is_disconnected(client)


def test_connections_beyond_the_limit_are_closed(shelf: Shelf) -> None:
    """New connections are accepted once others end."""
    with serving(ProgressCollector(shelf), timeout_s=10 * PATIENCE_S) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                stack.enter_context(socket.create_connection((server.host, server.port), timeout=PATIENCE_S))
            with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as extra:
                assert is_disconnected(extra)
            assert len(connections(server)) == MAX_CONNECTIONS
        poll(lambda: answers(server.url), what="response after the idle clients left")


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of open files")
def test_server_without_file_descriptors_recovers() -> None:
    """A waiting client is served as soon as one is available."""
    run_scene("starved")


def test_server_without_threads_recovers(monkeypatch: pytest.MonkeyPatch, server: MetricsServer) -> None:
    """Connections are closed, and no slot is lost."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if getattr(thread, "_target", None) != server._server.process_request_thread:
            return start(thread)  # a thread of another test
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for _ in range(MAX_CONNECTIONS + 1):
            with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client:
                assert is_disconnected(client)
    assert fetch(server.url)[0] == 200


def test_port_in_use_raises_with_the_port_and_a_fix(server: MetricsServer, shelf: Shelf) -> None:
    """Port 0 is suggested."""
    with pytest.raises(
        ConfigurationError, match=rf"Port {server.port} of 127.0.0.1 is in use.*0 for a free one"
    ):
        serve_metrics(ProgressCollector(shelf), server.port)


@pytest.mark.parametrize("port", [-1, 65536, "9464", True, 1.5, None], ids=str)
def test_invalid_port_is_rejected(shelf: Shelf, port: int) -> None:
    """A port is a whole number from 0 to 65535."""
    with pytest.raises(ConfigurationError, match="expected a whole number from 0"):
        serve_metrics(ProgressCollector(shelf), port)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no such host.invalid", "x" * 300, "a..b"], ids=["foreign", "name", "long", "dots"]
)
def test_host_of_another_machine_is_rejected(shelf: Shelf, host: str) -> None:
    """The same applies to invalid host names."""
    with pytest.raises(ConfigurationError, match="an address of this machine"):
        serve_metrics(ProgressCollector(shelf), 0, host)


def test_close_frees_the_port_and_ends_the_thread(shelf: Shelf) -> None:
    """Closing twice is harmless."""
    running = serve_metrics(ProgressCollector(shelf), 0, own_host())
    assert running._thread.daemon
    running.close()
    running.close()
    running._thread.join(PATIENCE_S)
    assert not running._thread.is_alive()
    assert not listens(running.host, running.port)
    with serving(ProgressCollector(shelf), running.port, running.host) as again:
        assert fetch(again.url)[0] == 200


def test_server_listens_on_ipv6_and_on_all_addresses(shelf: Shelf) -> None:
    """The URL is one that a client can use."""
    with serving(ProgressCollector(shelf), 0, "0.0.0.0") as everywhere:
        assert fetch(everywhere.url)[0] == 200
    if not socket.has_ipv6 or not _binds("::1"):
        pytest.skip("this machine has no IPv6 loopback")
    with serving(ProgressCollector(shelf), 0, "::1") as sixth:
        assert sixth.url.startswith("http://[::1]:")
        assert fetch(sixth.url)[0] == 200


def _binds(host: str) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
        return True


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_child_closes_its_copy_of_the_socket(shelf: Shelf) -> None:
    """The child can close the server without hanging."""
    running = serve_metrics(ProgressCollector(shelf), 0, own_host())
    gate_out, gate_in = os.pipe()
    ready_out, ready_in = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(gate_in)
            running.close()
            os.write(ready_in, b"x")
            os.read(gate_out, 1)
            os._exit(0)
        finally:  # the child never continues with the tests
            os._exit(1)
    os.close(gate_out)
    os.close(ready_in)
    try:
        assert os.read(ready_out, 1) == b"x"
        assert fetch(running.url)[0] == 200
        running.close()
        running._thread.join(PATIENCE_S)
        assert not listens(running.host, running.port)
    finally:
        os.close(gate_in)
        os.close(ready_out)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_collector_that_raises_is_a_500_and_a_log_record(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback reaches the terminal."""

    class Broken(ProgressCollector):
        def read(self):  # type: ignore[no-untyped-def]
            raise RuntimeError("boom")

    with serving(Broken(Shelf())) as running:
        status, _, body = fetch(running.url)
    assert (status, b"boom" in body) == (500, False)
    assert "could not be rendered" in caplog.text
    assert capfd.readouterr().err == ""
