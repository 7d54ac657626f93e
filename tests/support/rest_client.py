"""REST clients in tests that call the application directly, without a socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

from otel_progress.semconv import SERVER_REFUSED

PROBLEM = "application/problem+json"


@dataclass
class Client:
    """Client of an ASGI application.

    Each request runs in a new event loop; exceptions fail the test.
    """

    app: Any
    base_url: str = "http://127.0.0.1"
    headers: dict[str, str] = field(default_factory=dict)
    root_path: str = ""

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Return the response to one request."""
        return asyncio.run(self._request(method, url, **options))

    def get(self, url: str, **options: Any) -> httpx.Response:
        """Return the response to a GET."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        """Return the response to a POST."""
        return self.request("POST", url, **options)

    def delete(self, url: str, **options: Any) -> httpx.Response:
        """Return the response to a DELETE."""
        return self.request("DELETE", url, **options)

    def json(self, url: str, **options: Any) -> Any:
        """Return the document at ``url``, which must exist."""
        answer = self.get(url, **options)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    def problem(self, status: int, url: str, method: str = "GET", **options: Any) -> dict[str, Any]:
        """Return the problem document of a request, which must have this status."""
        answer = self.request(method, url, **options)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == PROBLEM
        document: dict[str, Any] = answer.json()
        assert set(document) - {"errors"} == {"type", "title", "status", "detail"}
        assert document["status"] == status
        return document

    async def _request(self, method: str, url: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, root_path=self.root_path)
        async with httpx.AsyncClient(
            transport=transport, base_url=self.base_url, headers=self.headers
        ) as client:
            return await client.request(method, url, **options)


async def raw_request(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages that an application sends for a scope and messages."""
    sent: list[dict[str, Any]] = []
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(
        {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", **scope},
        receive,
        send,
    )
    return sent


def scope_of(
    path: str, method: str = "GET", headers: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the ASGI scope of a request like uvicorn's."""
    from urllib.parse import unquote

    raw, _, query = path.partition("?")
    given = {"host": "127.0.0.1", **(headers or {})}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    return {
        "method": method,
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": pairs,
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
        **more,
    }


def refusals(client: Client) -> dict[str, Any]:
    """Return the number of refusals by reason."""
    return {
        label: count for (label,), count in client.app.state.services.counts.read()[SERVER_REFUSED].items()
    }
