"""Server in the instrumented process: ``configure(server_port=…)``."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import ConfigurationError, MissingExtraError, config
from otel_progress.testing import recording

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
TOKEN = "quite-a-long-token-for-tests"
PATIENCE_S = 60.0
"""Time limit of each step. On a busy machine a thread may wait for seconds."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opener that ignores http_proxy."""


def get(url: str | None, path: str, token: str | None = None) -> Any:
    """Return the JSON of a path of a server."""
    request = urllib.request.Request(
        f"{url}{path.lstrip('/')}", headers={} if token is None else {"Authorization": f"Bearer {token}"}
    )
    with DIRECT.open(request, timeout=PATIENCE_S) as response:
        return json.load(response)


def is_serving(url: str | None, operation_id: str) -> bool:
    """True if a server with this operation responds.

    After its end, the port may belong to another process.
    """
    try:
        operations = get(url, "/api/v1/operations")["operations"]
        return any(operation["operation_id"] == operation_id for operation in operations)
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False


def test_embedded_server_serves_current_operations_and_cancel_requests(tmp_path: Path) -> None:
    """It serves them before they are written. After the shutdown the port is free."""
    before = set(threading.enumerate())
    with recording(store=f"sqlite:///{tmp_path}/p.db", server_port=0, ticking=True) as recorder:
        url = recorder.runtime.server_url
        assert url is not None
        assert url.startswith("http://127.0.0.1:")
        with progress.operation("o", id="live", total=2) as op:
            op.increment()
            (operation,) = get(url, "/api/v1/operations")["operations"]
            assert (operation["operation_id"], operation["current"]) == ("live", 1)
            request = urllib.request.Request(
                f"{url}api/v1/operations/live/cancel",
                data=json.dumps({"reason": "enough"}).encode(),
                headers={"Content-Type": "application/json"},
                method="POST",
            )
            with DIRECT.open(request, timeout=PATIENCE_S) as response:
                assert response.status in (200, 202)
            assert op.cancel_requested
        assert is_serving(url, "live")
        assert recorder.runtime.shutdown(PATIENCE_S)
    assert "otel-progress-server" not in [thread.name for thread in set(threading.enumerate()) - before]
    assert not is_serving(url, "live")


def test_embedded_server_with_token_file_requires_the_token(tmp_path: Path) -> None:
    """A request without it is rejected with 401."""
    file = tmp_path / "token"
    file.write_text(TOKEN, encoding="ascii")
    with recording(server_port=0, token_file=str(file)) as recorder:
        url = recorder.runtime.server_url
        with pytest.raises(urllib.error.HTTPError, match="401") as rejection:
            get(url, "/api/v1/operations")
        rejection.value.close()
        assert get(url, "/api/v1/operations", TOKEN)["operations"] == []


def test_embedded_server_with_invalid_settings_is_rejected(tmp_path: Path) -> None:
    """Nothing is configured then."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        store = f"sqlite:///{tmp_path}/p.db"
        invalid: list[dict[str, Any]] = [
            {"server_port": port, "store": store},
            {"server_port": 0, "server_host": "0.0.0.0"},
            {"server_port": 0, "token_file": str(tmp_path / "absent")},
        ]
        for settings in invalid:
            with pytest.raises(ConfigurationError), recording(**settings):
                pass
            assert config.current_runtime() is None
    # Why not the same port: another process may use it by now.
    with recording(store=store, server_port=0) as recorder:
        assert recorder.runtime.server_url is not None


@pytest.fixture
def server_not_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unload the server's modules during the test.

    Afterwards the same modules are loaded again, so that later tests have one of each.
    """
    before = {name: module for name, module in sys.modules.items() if name.startswith("otel_progress.server")}
    monkeypatch.setattr(progress, "server", None, raising=False)
    for name in before:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.startswith("otel_progress.server")]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.usefixtures("server_not_imported")
def test_embedded_server_without_the_extra_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the command to install it."""
    for name in ("fastapi", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'otel-progress\[server\]'"),
        recording(server_port=0),
    ):
        pass
    with recording() as recorder:
        assert recorder.runtime.server_url is None


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_does_not_serve() -> None:
    """The URL stays that of the parent, also after the end of the child."""
    with recording(server_port=0) as recorder, progress.operation("o", id="parent"):
        url = recorder.runtime.server_url
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                output = f"{recorder.runtime.server_url} {recorder.runtime.shutdown()}"
            except BaseException as error:
                output = repr(error)
            os.write(write, output.encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.read() == "None True"
        os.waitpid(child, 0)
        operations = get(url, "/api/v1/operations")["operations"]
        assert [operation["operation_id"] for operation in operations] == ["parent"]
