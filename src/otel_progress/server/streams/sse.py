"""Server-sent events: ``GET /api/v1/stream`` tells what changes, from the full set on or from where a client left off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from otel_progress.server import security
from otel_progress.server.problems import Problem
from otel_progress.server.settings import ServerSettings
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.messages import encode_text
from otel_progress.server.streams.subscriber import Selection, Subscriber
from otel_progress.server.streams.waiting import wait_for_event
from otel_progress.server.streams.websocket import WebSocketEndpoint
from otel_progress.text import MAX_ID

RETRY_MS: Final = 1_000
"""How long a browser waits before it connects again."""


HEARTBEAT: Final = b": heartbeat\n\n"


_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


_MOST_FIELDS: Final = 1_100


def stream_routes(hub: Hub, settings: ServerSettings) -> Sequence[BaseRoute]:
    """Return the routes of both streams, to be put before others of the application."""
    return (
        Route("/api/v1/stream", SseEndpoint(hub, settings), methods=["GET"], name="stream"),
        WebSocketRoute("/api/v1/ws", WebSocketEndpoint(hub, settings), name="ws"),
        Route("/api/v1/ws", _no_socket, methods=["GET"], name="no-ws"),
    )


async def _no_socket(request: Request) -> Response:
    """Answer a plain request to the WebSocket."""
    del request
    msg = (
        "This path is a WebSocket. Connect to it with a client of those, or follow /api/v1/stream over HTTP."
    )
    raise Problem(426, msg, headers={"Upgrade": "websocket", "Connection": "Upgrade"})


class SseEndpoint:
    """The ASGI application of one kind of stream, for any number of clients."""

    def __init__(self, hub: Hub, settings: ServerSettings) -> None:
        self._hub = hub
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell a client what changes until it goes, the server closes, or it does not read for too long."""
        hub = self._hub
        try:
            self._check(scope)
            wanted = StreamQuery(scope, hub.limits.subscriptions)
            if wanted.levels and not hub.subscriptions.has_tree_for(wanted.ids):
                hub.counts.refused("levels")
                raise Problem(
                    503,
                    "Too many operations are followed with their levels. Follow this one without, or try later.",
                )
        except Problem as problem:
            await problem(scope, receive, send)
            return
        follower = hub.attach("sse")
        gone = asyncio.get_running_loop().create_task(_until_gone(receive, follower))
        try:
            await _SseSession(hub, follower, send).run(wanted, security.header_of(scope, "last-event-id"))
        except asyncio.CancelledError:
            if not follower.evicted:  # the server is being closed in a hurry
                raise
        finally:
            gone.cancel()
            hub.detach(follower)

    def _check(self, scope: Scope) -> None:
        if not security.authorised(scope, self._settings):
            raise Problem(401, "This server asks for its token.", headers={"WWW-Authenticate": "Bearer"})
        if self._hub.closed:
            raise Problem(503, "The server is shutting down.", headers={"Retry-After": "1"})
        if self._hub.full:
            self._hub.counts.refused("clients")
            raise Problem(
                503, "Too many clients follow this server. Try again later.", headers={"Retry-After": "5"}
            )


class StreamQuery:
    """What the query asks for. Raises Problem when it cannot be had."""

    def __init__(self, scope: Scope, most: int) -> None:
        try:
            fields = parse_qsl(
                scope.get("query_string", b"").decode("latin-1"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MOST_FIELDS,
            )
        except ValueError:
            raise Problem(
                400, f"The query cannot be read: expected at most {_MOST_FIELDS} fields in UTF-8."
            ) from None
        self.ids = list(dict.fromkeys(value for name, value in fields if name == "operation"))
        types = [value for name, value in fields if name == "type"]
        batches = [value for name, value in fields if name == "batch"]
        levels = [value.lower() for name, value in fields if name == "levels"] or ["false"]
        for name, values in (("operation", self.ids), ("type", types), ("batch", batches)):
            if any(not 0 < len(value) <= MAX_ID for value in values):
                raise Problem(422, f"{name} is empty or too long: expected 1 to {MAX_ID} characters.")
        if len(self.ids) > most or len(types) > most:
            raise Problem(
                422,
                f"Too many operations or types are named: expected at most {most}. Leave them out to follow all.",
            )
        if len(batches) > 1:
            raise Problem(422, "batch is there more than once: expected one id.")
        if levels[-1] not in {"true", "false", "1", "0"}:
            raise Problem(422, "levels is neither true nor false.")
        self.levels = levels[-1] in {"true", "1"}
        if self.levels and not self.ids:
            raise Problem(
                422, "levels=true needs operation=ID: the levels of everything would be too much for anybody."
            )
        self.selection = Selection(frozenset(types), batches[0] if batches else None)


class _SseSession:
    """The conversation with one client."""

    def __init__(self, hub: Hub, follower: Subscriber, send: Send) -> None:
        self._hub = hub
        self._follower = follower
        self._send = send
        self._stale: str | None = None
        self._ready = False

    async def run(self, wanted: StreamQuery, last_event_id: str | None) -> None:
        hub, follower = self._hub, self._follower
        cursor = None if not last_event_id else hub.can_resume(last_event_id, wanted.ids)
        if wanted.ids:
            follower.begin(None, wanted.ids, levels=wanted.levels, only=wanted.selection)
        else:
            follower.begin(wanted.selection, (), levels=False)
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        first = b"retry: %d\n\n" % RETRY_MS
        if cursor is not None:
            follower.resume(cursor)
        elif last_event_id:
            first += self._reset("What was missed is no longer there. A full set of snapshots follows.")
        await self._write(first)
        while not (hub.closed or follower.disconnected):
            follower.wake.clear()
            await self._catch_up()
            await self._rest()
        await self._write(b"", more=False)

    async def _catch_up(self) -> None:
        """Tell all there is, in bounded pieces, each of them the newest there is when it is written."""
        hub, follower = self._hub, self._follower
        if follower.is_behind():
            await self._write(self._reset("This client was too slow, and what it missed is no longer there."))
            follower.restart()
        while (messages := follower.next_messages()) and not (hub.closed or follower.disconnected):
            await self._write(b"".join([message.sse for message in messages]))
            hub.counts.sent("sse", len(messages))
            await asyncio.sleep(0)  # the others' turn, and the moment to hear that this one has gone
        if hub.trouble != self._stale:
            self._stale = hub.trouble
            await self._write(_event("stale", {"stale": self._stale is not None, "detail": self._stale}))
        if not self._ready and follower.is_up_to_date():
            self._ready = True
            await self._write(self._event("ready", {}))

    async def _rest(self) -> None:
        """Pause, so that many changes become one write; then wait until there is something, and tell now and then that we live."""
        follower, hub = self._follower, self._hub
        if not (hub.closed or follower.disconnected):
            await asyncio.sleep(hub.pause_s)
        while not follower.wake.is_set():
            if not await wait_for_event(follower.wake, hub.limits.heartbeat_s):
                await self._write(HEARTBEAT)

    def _reset(self, reason: str) -> bytes:
        self._ready = False
        return _event("reset", {"reason": reason}, f"{self._hub.epoch}-0")

    def _event(self, kind: str, document: object) -> bytes:
        return _event(kind, document, f"{self._hub.epoch}-{self._follower.cursor}")

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        with self._follower.timed_write():
            await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _event(kind: str, document: object, id_: str | None = None) -> bytes:
    place = "" if id_ is None else f"id: {id_}\n"
    return f"event: {kind}\n{place}data: {encode_text(document)}\n\n".encode("utf-8", "replace")


async def _until_gone(receive: Receive, follower: Subscriber) -> None:
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
    follower.disconnected = True
    follower.wake.set()
