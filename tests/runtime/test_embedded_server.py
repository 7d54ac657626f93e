"""``configure(server_port=…)``: the server in the worker itself, with its token, its refusals, and without the extra."""

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
"""How long what has to happen may take; on a busy machine a thread can wait for its turn for seconds."""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks servers itself, whatever http_proxy says."""


def get(url: str | None, path: str, token: str | None = None) -> Any:
    """Return a document of a server."""
    request = urllib.request.Request(
        f"{url}{path.lstrip('/')}", headers={} if token is None else {"Authorization": f"Bearer {token}"}
    )
    with DIRECT.open(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def serving(url: str | None, operation_id: str) -> bool:
    """Tell whether a server that knows this operation answers; the port of one that ended may be another process's by then."""
    try:
        return any(
            one["operation_id"] == operation_id for one in get(url, "/api/v1/operations")["operations"]
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError):  # nobody, or somebody else
        return False


def test_a_worker_serves_what_it_does(tmp_path: Path) -> None:
    """The address answers with what runs now, also before anything is written; a cancel reaches the handle; after the end it is free."""
    before = set(threading.enumerate())
    with recording(store=f"sqlite:///{tmp_path}/p.db", server_port=0, ticking=True) as recorder:
        url = recorder.runtime.server_url
        assert url is not None
        assert url.startswith("http://127.0.0.1:")
        with progress.operation("o", id="live", total=2) as op:
            op.increment()
            (one,) = get(url, "/api/v1/operations")["operations"]
            assert (one["operation_id"], one["current"]) == ("live", 1)
            request = urllib.request.Request(
                f"{url}api/v1/operations/live/cancel",
                data=json.dumps({"reason": "enough"}).encode(),
                headers={"Content-Type": "application/json"},
                method="POST",
            )
            with DIRECT.open(request, timeout=PATIENCE_S) as answer:
                assert answer.status in (200, 202)
            assert op.cancel_requested
        assert serving(url, "live")
        assert recorder.runtime.shutdown(PATIENCE_S)
    assert "otel-progress-server" not in [thread.name for thread in set(threading.enumerate()) - before]
    assert not serving(url, "live")


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    """With a token, from a file here, nobody is told anything without it."""
    file = tmp_path / "token"
    file.write_text(TOKEN, encoding="ascii")
    with recording(server_port=0, token_file=str(file)) as recorder:
        url = recorder.runtime.server_url
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            get(url, "/api/v1/operations")
        refused.value.close()
        assert get(url, "/api/v1/operations", TOKEN)["operations"] == []


def test_what_is_refused(tmp_path: Path) -> None:
    """A taken port, a public address without a token and a token file that cannot be read are errors, and nothing is configured."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        store = f"sqlite:///{tmp_path}/p.db"
        refused: list[dict[str, Any]] = [
            {"server_port": port, "store": store},
            {"server_port": 0, "server_host": "0.0.0.0"},
            {"server_port": 0, "token_file": str(tmp_path / "absent")},
        ]
        for settings in refused:
            with pytest.raises(ConfigurationError), recording(**settings):
                pass
            assert config.current_runtime() is None
    with recording(
        store=store, server_port=0
    ) as recorder:  # not the port that was taken: by now another process may have it
        assert recorder.runtime.server_url is not None


@pytest.fixture
def server_not_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the server's modules, and afterwards those that were imported instead: later tests see one of each, as before."""
    before = {name: module for name, module in sys.modules.items() if name.startswith("otel_progress.server")}
    monkeypatch.setattr(progress, "server", None, raising=False)  # put back at the end, where there was one
    for name in before:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.startswith("otel_progress.server")]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.usefixtures("server_not_imported")
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server's packages are missing the error says what to install; without server_port nobody misses them."""
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
def test_a_forked_child_does_not_serve() -> None:
    """The address goes on to answer for the parent only, also when the child has ended."""
    with recording(server_port=0) as recorder, progress.operation("o", id="parent"):
        url = recorder.runtime.server_url
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                told = f"{recorder.runtime.server_url} {recorder.runtime.shutdown()}"
            except BaseException as error:
                told = repr(error)
            os.write(write, told.encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.read() == "None True"
        os.waitpid(child, 0)
        assert [one["operation_id"] for one in get(url, "/api/v1/operations")["operations"]] == ["parent"]
