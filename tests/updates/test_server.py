"""Updates over a real socket: applied once, validated, bounded, and lost never."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_progress as progress
from otel_progress.instrument.level import Level
from otel_progress.model import Status
from otel_progress.testing import Recorder, wait_until
from otel_progress.updates.client import (
    ADDRESS_VARIABLE,
    PARENT_VARIABLE,
    UnavailableServerError,
    UpdateClient,
    UpdateError,
    connect,
)
from otel_progress.updates.levels import RemoteLevels
from otel_progress.updates.requests import InvalidRequestError, parse_request
from otel_progress.updates.server import UpdateServer
from tests.support.forks import needs_fork, run_in_child

TIMEOUT_S = 60.0


@pytest.fixture
def op(recorder: Recorder) -> Level:  # noqa: ARG001
    """Return a running operation."""
    return progress.operation("nightly", id="n-1", total=1000).start()


@pytest.fixture
def limits() -> dict[str, int]:
    """Limits of the server. Tests replace them by a parameter."""
    return {}


@pytest.fixture(params=["unix", "tcp"])
def server(op: Level, request: pytest.FixtureRequest, limits: dict[str, int]) -> Iterator[UpdateServer]:
    """Serve the operation on a Unix socket, and on a port."""
    levels, is_unix = RemoteLevels(op), request.param == "unix"
    with UpdateServer(levels.apply, levels.end_abandoned, uses_unix_socket=is_unix, **limits) as server:
        yield server


def environ(server: UpdateServer, parent: str = "") -> dict[str, str]:
    """Return the environment of a process below the operation."""
    return {ADDRESS_VARIABLE: server.address, PARENT_VARIABLE: parent}


def send(server: UpdateServer, action: str = "update", parent: str = "", **values: Any) -> dict[str, Any]:
    """Send one request with a connection of its own."""
    with UpdateClient(environ(server, parent), TIMEOUT_S) as client:
        return client.request(action, **values)


def exchange(server: UpdateServer, data: bytes) -> bytes:
    """Send bytes and return all bytes of the answer."""
    with connect(server.address, TIMEOUT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def test_update_changes_the_operation(op: Level, server: UpdateServer) -> None:
    send(server, current=5, message="a")
    send(server, increment=2)
    send(server, total=10, increment=0.5)
    snapshot = op.snapshot()
    assert (snapshot.current, snapshot.total, snapshot.message) == (7.5, 10, "a")


def test_concurrent_increments_are_counted_once_each(op: Level, server: UpdateServer) -> None:
    def count() -> None:
        for _ in range(25):
            send(server, increment=1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert op.snapshot().current == 200


def test_repeated_request_is_applied_once(op: Level, server: UpdateServer) -> None:
    """The client repeats a request whose reply it did not receive."""
    line = json.dumps({"action": "update", "request": "r-1", "increment": 3}).encode() + b"\n"
    assert exchange(server, line) == exchange(server, line + line).splitlines(keepends=True)[0]
    assert op.snapshot().current == 3


def test_client_repeats_request_after_lost_connection(
    op: Level, server: UpdateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = UpdateClient(environ(server), TIMEOUT_S)
    received = client._exchange
    failures = [ConnectionResetError("lost"), BlockingIOError("busy")]

    def lose_reply(line: bytes, deadline: float) -> dict[str, Any]:
        reply = received(line, deadline)
        if failures:
            raise failures.pop()
        return reply

    monkeypatch.setattr(client, "_exchange", lose_reply)
    client.request("update", increment=1)
    client.close()
    assert (op.snapshot().current, failures) == (1, [])


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"current": 2000}, "Invalid count 2000: expected at most the total 1000"),
        ({"current": -1}, "Invalid current"),
        ({"current": "5"}, "Invalid current"),
        ({"current": True}, "Invalid current"),
        ({"total": float("nan")}, "Invalid total"),
        ({"current": 2**63}, "Invalid current"),
        ({"current": 1, "increment": 1}, "expected a current or an increment"),
        ({"message": 5}, "Invalid message"),
        ({"path": "song:9", "current": 1}, "Invalid level 'song:9': expected a running level"),
        ({"path": "x" * 5000, "current": 1}, "Invalid path"),
        ({"parent": "1;other;id;", "current": 1}, "Invalid OTEL_PROGRESS_PARENT"),
        ({"parent": "broken", "current": 1}, "Invalid OTEL_PROGRESS_PARENT"),
        ({"action": "delete"}, "Invalid action"),
        ({"action": "start"}, "Invalid type"),
        ({"action": "end"}, "Invalid level"),
        ({"action": "end", "status": "lost"}, "Invalid status"),
    ],
)
def test_invalid_request_changes_nothing(
    op: Level, server: UpdateServer, values: dict[str, Any], error: str
) -> None:
    before = op.snapshot()
    with pytest.raises(UpdateError, match=error):
        send(server, **values)
    assert (op.snapshot().current, op.snapshot().total) == (before.current, before.total)


def test_levels_are_started_changed_and_ended(op: Level, server: UpdateServer) -> None:
    reply = send(server, "start", type="song", id="a/b", name="Blue", total=4, unit="bar")
    path, parent = reply["path"], reply["environment"][PARENT_VARIABLE]
    send(server, parent=parent, increment=3, message="chorus")
    send(server, "start", parent, type="track", id="1")
    child = send(server, path=f"{path}/track:1", message="drums")
    send(server, "end", path=f"{path}/track:1", status="failed", message="clipped")
    send(server, "end", path=path, status="skipped", message="later")
    operation = progress.get_operation("n-1")
    assert operation is not None
    levels = {level.path: level for level in operation.levels}
    song, track = levels["song:a%2Fb"], levels["song:a%2Fb/track:1"]
    assert (path, child["path"]) == ("song:a%2Fb", "song:a%2Fb/track:1")
    assert (song.status, song.current, song.info.unit, song.info.name) == (Status.SKIPPED, 3, "bar", "Blue")
    assert (track.status, track.error.message if track.error else "") == (Status.FAILED, "clipped")
    assert op.recording


def test_bound_level_without_end_fails_with_its_connection(op: Level, server: UpdateServer) -> None:
    client = UpdateClient(environ(server), TIMEOUT_S)
    client.request("start", type="song", id="1", bound=True)
    client.request("start", type="song", id="2")
    client.close()
    operation = progress.get_operation("n-1")
    assert operation is not None

    def get_statuses() -> dict[str, Status]:
        found = progress.get_operation("n-1")
        return {} if found is None else {level.path: level.status for level in found.levels}

    wait_until(lambda: get_statuses().get("song:1") is Status.FAILED)
    assert get_statuses()["song:2"] is Status.RUNNING
    assert op.recording


def test_closing_server_applies_requests_that_have_arrived(op: Level) -> None:
    levels = RemoteLevels(op)
    server = UpdateServer(levels.apply, levels.end_abandoned)
    clients = [connect(server.address, TIMEOUT_S) for _ in range(20)]
    for number, client in enumerate(clients):
        request = {"action": "update", "request": str(number), "increment": 1}
        client.sendall(json.dumps(request).encode() + b"\n")
    with server:
        pass
    replies = [json.loads(client.recv(65_536)) for client in clients]
    for client in clients:
        client.close()
    assert [reply["ok"] for reply in replies] == [True] * 20
    assert op.snapshot().current == 20
    with pytest.raises(UnavailableServerError, match="has ended"):
        send(server, increment=1)


def test_levels_that_no_update_ended_are_cancelled_with_the_block(op: Level) -> None:
    """Their parent continues, and a level that has ended stays as it is."""
    with op.level("host", "alpha", total=2) as host:
        with host.environment(updates=True) as variables:
            client = UpdateClient(variables, TIMEOUT_S)
            client.request("start", type="dump", id="a")
            client.request("start", type="table", id="t", path="dump:a")
            client.request("start", type="song", id="s", bound=True)
            client.request("start", type="done", id="d")
            client.request("end", path="done:d")
        client.close()
        found = progress.get_operation("n-1")
        assert found is not None
        ends = {level.path: (level.status, level.message) for level in found.levels}
    open_levels = ("host:alpha/dump:a", "host:alpha/dump:a/table:t", "host:alpha/song:s")
    assert ends == {
        **dict.fromkeys(open_levels, (Status.CANCELLED, "no update ended it")),
        "host:alpha/done:d": (Status.COMPLETED, None),
        "host:alpha": (Status.RUNNING, None),
    }


@pytest.mark.parametrize("limits", [{"max_connections": 3}])
def test_server_serves_more_clients_than_its_limit(op: Level, server: UpdateServer) -> None:
    idle = [connect(server.address, TIMEOUT_S) for _ in range(3)]
    threads = [threading.Thread(target=send, args=(server,), kwargs={"increment": 1}) for _ in range(10)]
    for thread in threads:
        thread.start()
    for connection in idle:
        connection.close()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert op.snapshot().current == 10


@pytest.mark.parametrize("limits", [{"max_bound_levels": 1}])
def test_bound_levels_are_limited(server: UpdateServer) -> None:
    with UpdateClient(environ(server), TIMEOUT_S) as client:
        client.request("start", type="song", bound=True)
        with pytest.raises(UpdateError, match="expected at most 1 levels"):
            send(server, "start", type="song", bound=True)
        send(server, increment=1)


def test_too_long_request_is_rejected_and_the_server_continues(op: Level, server: UpdateServer) -> None:
    with contextlib.suppress(OSError):  # the connection may be reset before the client has sent all
        assert b"at most 64 KiB" in exchange(server, b"x" * 66_000)
    send(server, increment=1)
    assert op.snapshot().current == 1


def test_long_message_is_truncated(op: Level, server: UpdateServer) -> None:
    send(server, message="m" * 1_000_000)
    assert (op.snapshot().message or "").startswith("mmm")


def test_socket_is_private_and_removed(op: Level) -> None:
    levels = RemoteLevels(op)
    with UpdateServer(levels.apply, levels.end_abandoned) as server:
        path = Path(server.address.removeprefix("unix:"))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


def test_port_without_token_is_closed(op: Level) -> None:
    levels = RemoteLevels(op)
    with UpdateServer(levels.apply, levels.end_abandoned, uses_unix_socket=False) as server:
        address = server.address.rpartition(":")[0] + ":" + "0" * 32
        line = json.dumps({"action": "update", "request": "r", "increment": 3}).encode() + b"\n"
        with connect(address, TIMEOUT_S) as connection:
            connection.sendall(line)
            with pytest.raises((ConnectionError, AssertionError)):
                assert connection.recv(100) != b""
        send(server, increment=1)
    assert op.snapshot().current == 1


def test_long_temporary_folder_uses_a_port(
    op: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    levels = RemoteLevels(op)
    with UpdateServer(levels.apply, levels.end_abandoned) as server:
        assert server.address.startswith("tcp:127.0.0.1:")
        send(server, increment=1)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["unix:", "tcp:127.0.0.1", "tcp:127.0.0.1:x:y", "tcp:127.0.0.1:1:", "http://x", ":"]
)
def test_client_with_invalid_address_reports_it(address: str) -> None:
    with (
        UpdateClient({ADDRESS_VARIABLE: address}) as client,
        pytest.raises(UpdateError, match="Invalid OTEL"),
    ):
        client.request("update", increment=1)


def test_client_without_address_names_the_fix() -> None:
    with pytest.raises(UnavailableServerError, match="otel-progress run -- COMMAND"):
        UpdateClient({})


def test_client_without_reply_fails_after_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        client = UpdateClient({ADDRESS_VARIABLE: f"unix:{tmp_path / 's'}"}, timeout_s=0.2)
        with client, pytest.raises(UpdateError, match="not confirmed within"):
            client.request("update", increment=1)


def test_environment_with_updates_receives_them_for_its_level(recorder: Recorder) -> None:
    with progress.operation("nightly", id="n-1") as op, op.level("host", "a", total=9) as host:
        with host.environment(updates=True) as environment, UpdateClient(environment, TIMEOUT_S) as client:
            client.request("update", increment=2)
            reply = client.request("start", type="file", id="1")
            client.request_end(reply["environment"], "completed", None)
            with pytest.raises(UpdateError, match="expected a level that an update started"):
                client.request("end")
        with pytest.raises(UnavailableServerError):
            UpdateClient(environment).request("update", increment=1)
        assert host.snapshot().current == 2
        assert op.snapshot().current == 0
    operation = recorder.operation("n-1")
    assert "host:a/file:1" in {level.path for level in operation.levels}


@given(
    st.one_of(
        st.binary(max_size=200),
        st.dictionaries(
            st.sampled_from(["action", "request", "current", "total", "type", "path", "status", "bound"]),
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
        ).map(lambda document: json.dumps(document).encode()),
    )
)
def test_any_request_is_valid_or_rejected(line: bytes) -> None:
    try:
        request = parse_request(line)
    except InvalidRequestError:
        return
    else:
        assert request.action in ("update", "start", "end")


@needs_fork
def test_forked_child_leaves_the_server_of_its_parent(op: Level, server: UpdateServer) -> None:
    assert run_in_child(server.close) == 0
    send(server, increment=1)
    assert op.snapshot().current == 1
