"""The nginx configuration of the guide, with a real nginx."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("uvicorn", reason="the extra 'server' is not installed")

import otel_progress as progress
from otel_progress.testing import Recorder
from tests.support.api_server import serving
from tests.support.servers import accepts, free_port, require, running

pytestmark = [pytest.mark.process, pytest.mark.server]

GUIDE = Path(__file__).parents[2] / "docs/how-to/secure-server.md"
TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
IDS = ["a/b", ".", "..", "-1", "~", "../../x", "%2F", "//", "/", "a?b#c", "ä ö", "a\\b", "a+b&id=c"]
MAIN = """daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""


@pytest.fixture
def proxy_port(recorder: Recorder, tmp_path: Path) -> Iterator[int]:
    """The port of an nginx in front of a server of the recorder."""
    nginx = require("nginx")
    found = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    port = free_port()
    with serving(recorder, root_path="/progress", token=TOKEN) as server:
        location = found[1].replace("127.0.0.1:7764", f"127.0.0.1:{server.port}")
        assert location != found[1]
        config = tmp_path / "nginx.conf"
        config.write_text(MAIN.format(folder=tmp_path, port=port, location=location), encoding="utf-8")
        command = [nginx, "-c", str(config), "-p", str(tmp_path)]
        with running(command, ready=lambda: accepts(port), log=tmp_path / "nginx.log"):
            yield port


def send(
    port: int,
    path: str,
    method: str = "GET",
    body: str | None = None,
    headers: dict[str, str] | None = None,
    client: str = "127.0.0.1",
) -> tuple[http.client.HTTPResponse, bytes]:
    """Send a path unchanged. Clients such as httpx would normalise it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(client, 0))
    try:
        connection.request(
            method, f"/progress{path}", body=body, headers=BEARER if headers is None else headers
        )
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_any_id_is_reachable_through_the_proxy(recorder: Recorder, proxy_port: int) -> None:
    """In the path as the client sent it, and in the query."""
    for id_ in IDS:
        progress.operation("job", id=id_, total=3).start()
        encoded = quote(id_, safe="")
        for path in (f"/api/v1/operations/{encoded}", f"/api/v1/operations/~?levels=false&id={encoded}"):
            response, body = send(proxy_port, path)
            assert response.status == 200, (id_, path, body)
            assert json.loads(body)["operation_id"] == id_
        assert send(proxy_port, f"/api/v1/operations/~/export?format=csv&id={encoded}")[0].status == 200
    del recorder


def test_page_and_login_work_below_the_prefix(recorder: Recorder, proxy_port: int) -> None:
    """The cookie is limited to the prefix."""
    assert send(proxy_port, "/")[0].status == 200
    assert send(proxy_port, "/static/app.js")[0].status == 200
    response, _ = send(proxy_port, "/login", "POST", f"token={TOKEN}", {"Accept": "text/html"})
    assert (response.status, response.getheader("location")) == (303, "./")
    cookie = response.getheader("set-cookie") or ""
    assert "Path=/progress" in cookie
    assert (
        send(proxy_port, "/api/v1/operations", headers={"Cookie": cookie.partition(";")[0]})[0].status == 200
    )
    del recorder


def test_failed_attempts_count_the_client_of_the_proxy(recorder: Recorder, proxy_port: int) -> None:
    """Not the proxy, which all clients share."""
    wrong = {"Authorization": "Bearer wrong"}
    path = "/api/v1/operations"
    found = [send(proxy_port, path, headers=wrong, client="127.0.0.2")[0] for _ in range(11)]
    assert [response.status for response in found] == [401] * 10 + [429]
    assert found[-1].getheader("retry-after") is not None
    assert send(proxy_port, path, headers=wrong, client="127.0.0.3")[0].status == 401
    assert send(proxy_port, path, client="127.0.0.3")[0].status == 200
    del recorder
