"""Server-sent events: ``GET /api/v1/stream`` sends changes.

A client starts with the full set, or resumes after a cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from otel_progress.server import security
from otel_progress.server.access import AccessControl
from otel_progress.server.problems import Problem
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.messages import encode_text
from otel_progress.server.streams.subscriber import Selection, Subscriber
from otel_progress.server.streams.waiting import wait_for_event
from otel_progress.server.streams.websocket import WebSocketEndpoint
from otel_progress.text import MAX_ID

RETRY_MS: Final = 1_000
"""Time after which a browser reconnects, in milliseconds."""


HEARTBEAT: Final = b": heartbeat\n\n"


_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


_FIELDS: Final = ("operation", "type", "batch", "levels", "all")


_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


def stream_routes(hub: Hub, access: AccessControl) -> Sequence[BaseRoute]:
    """Return the routes of both streams.

    They come before the other routes of the application.
    """
    return (
        Route("/api/v1/stream", SseEndpoint(hub, access), methods=["GET"], name="stream"),
        WebSocketRoute("/api/v1/ws", WebSocketEndpoint(hub, access), name="ws"),
        Route("/api/v1/ws", _require_upgrade, methods=["GET"], name="no-ws"),
    )


async def _require_upgrade(request: Request) -> Response:
    """Answer a request without an upgrade on the path of the WebSocket."""
    del request
    msg = "This path is a WebSocket. Connect with a WebSocket client, or follow /api/v1/stream over HTTP."
    raise Problem(426, msg, headers={"Upgrade": "websocket", "Connection": "Upgrade"})


class SseEndpoint:
    """ASGI application of the event stream, for any number of clients."""

    def __init__(self, hub: Hub, access: AccessControl) -> None:
        self._hub = hub
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it disconnects, blocks, or the server closes."""
        hub = self._hub
        try:
            self._check_access(scope)
            query = parse_stream_query(scope, hub.limits.subscriptions)
            self._check_capacity(query)
        except Problem as problem:
            await problem(scope, receive, send)
            return
        subscriber = hub.attach("sse")
        disconnect = asyncio.get_running_loop().create_task(_wait_for_disconnect(receive, subscriber))
        try:
            last_event_id = security.get_header(scope, "last-event-id")
            session = _SseSession(hub, subscriber, send, self._access.watch(scope))
            await session.run(query, last_event_id)
        except asyncio.CancelledError:
            if not subscriber.evicted:
                # The server closes without waiting.
                raise
        finally:
            disconnect.cancel()
            hub.detach(subscriber)

    def _check_access(self, scope: Scope) -> None:
        if not self._access.is_valid(scope):
            msg = "The token is missing or wrong. Send it as: Authorization: Bearer TOKEN."
            raise Problem(401, msg, headers={"WWW-Authenticate": "Bearer"})
        if self._hub.closed:
            raise Problem(503, "The server is shutting down.", headers={"Retry-After": "1"})
        if self._hub.is_full:
            self._hub.counts.count_refusal("clients")
            msg = "Too many clients follow this server. Try again later."
            raise Problem(503, msg, headers={"Retry-After": "5"})

    def _check_capacity(self, query: StreamQuery) -> None:
        if query.levels and not self._hub.subscriptions.has_tree_capacity(query.ids):
            self._hub.counts.count_refusal("levels")
            msg = "Too many trees are followed. Follow without levels, or try again later."
            raise Problem(503, msg)


@dataclass(frozen=True, slots=True)
class StreamQuery:
    """Query of a stream: operations by id, and a selection by type or batch.

    With ``all`` the stream sends all selected operations, in addition to those named by id.
    """

    ids: Sequence[str]
    levels: bool
    selection: Selection
    all: bool = False


def parse_stream_query(scope: Scope, max_values: int) -> StreamQuery:
    """Return the query of a stream request, with at most ``max_values`` ids and types.

    Raises Problem (400 or 422) when it is not valid.
    """
    fields = _parse_fields(scope)
    for name in ("operation", "type", "batch"):
        if any(not 0 < len(value) <= MAX_ID for value in fields[name]):
            raise Problem(422, f"Invalid {name}: expected 1 to {MAX_ID} characters.")
    ids, types, batches = list(dict.fromkeys(fields["operation"])), fields["type"], fields["batch"]
    if len(ids) > max_values or len(types) > max_values:
        raise Problem(
            422, f"Too many operations or types: expected at most {max_values}. Leave them out to follow all."
        )
    if len(batches) > 1:
        raise Problem(422, "Too many batches: expected one id. Open a stream for each batch.")
    levels, includes_all = _parse_boolean(fields, "levels"), _parse_boolean(fields, "all")
    if levels and not ids:
        raise Problem(
            422, "Invalid levels true: expected operation=ID with it. Name the operations to follow."
        )
    selection = Selection(frozenset(types), batches[0] if batches else None)
    return StreamQuery(ids, levels, selection, includes_all)


def _parse_boolean(fields: Mapping[str, list[str]], name: str) -> bool:
    value = _BOOLEANS.get((fields[name] or ["false"])[-1].lower())
    if value is None:
        raise Problem(422, f"Invalid {name}: expected true or false.")
    return value


def _parse_fields(scope: Scope) -> Mapping[str, list[str]]:
    """Return the values of the known fields of a query string."""
    fields: dict[str, list[str]] = {name: [] for name in _FIELDS}
    try:
        pairs = parse_qsl(
            scope.get("query_string", b"").decode("latin-1"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=security.MAX_QUERY_FIELDS,
        )
    except ValueError:
        raise Problem(
            400, f"Invalid query: expected at most {security.MAX_QUERY_FIELDS} fields in UTF-8."
        ) from None
    for name, value in pairs:
        if name in fields:
            fields[name].append(value)
    return fields


class _SseSession:
    """Connection of one client."""

    def __init__(self, hub: Hub, subscriber: Subscriber, send: Send, has_access: Callable[[], bool]) -> None:
        self._hub = hub
        self._subscriber = subscriber
        self._send = send
        self._has_access = has_access
        self._reported_error: str | None = None
        self._is_ready = False
        self._loop = asyncio.get_running_loop()
        self._next_heartbeat_at = 0.0

    async def run(self, query: StreamQuery, last_event_id: str | None) -> None:
        hub, subscriber = self._hub, self._subscriber
        merges = query.all and bool(query.ids)
        # Why: all other operations are resumed, and the full set is not sent for a further id.
        required_ids = () if merges else query.ids
        cursor = None if not last_event_id else hub.find_cursor(last_event_id, required_ids)
        if merges:
            subscriber.start(
                query.selection,
                query.ids,
                levels=query.levels,
                id_selection=query.selection,
                includes_all=True,
            )
        elif query.ids:
            subscriber.start(None, query.ids, levels=query.levels, id_selection=query.selection)
        else:
            subscriber.start(query.selection, (), levels=False)
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        first = b"retry: %d\n\n" % RETRY_MS
        if cursor is not None:
            # The client may not have the state of an id that it names only now.
            subscriber.resume_with(cursor, query.ids if merges else ())
        elif last_event_id:
            first += self._encode_reset(
                "The missed messages are no longer stored. A full set of snapshots follows."
            )
        await self._write(first)
        while not self._has_ended():
            subscriber.wake.clear()
            await self._send_updates()
            await self._send_due_heartbeat()
            await self._wait_for_changes()
        await self._write(b"", more=False)

    def _has_ended(self) -> bool:
        # A log-out ends the stream at its next message or heartbeat.
        return self._hub.closed or self._subscriber.disconnected or not self._has_access()

    async def _send_updates(self) -> None:
        """Send all messages in bounded pieces.

        Each has the latest state at the time of its write.
        """
        hub, subscriber = self._hub, self._subscriber
        if subscriber.is_behind():
            await self._write(
                self._encode_reset(
                    "This client was too slow, and the messages that it missed are no longer stored."
                )
            )
            subscriber.restart()
        while (messages := subscriber.next_messages()) and not self._has_ended():
            await self._write(b"".join([message.sse for message in messages]))
            hub.counts.count_sent("sse", len(messages))
            # Let other tasks run, and detect a disconnect.
            await asyncio.sleep(0)
        if hub.reader_error != self._reported_error:
            self._reported_error = hub.reader_error
            document = {"stale": self._reported_error is not None, "detail": self._reported_error}
            await self._write(_encode_event("stale", document))
        if not self._is_ready and subscriber.is_up_to_date():
            self._is_ready = True
            await self._write(_encode_event("ready", {}, f"{hub.epoch}-{subscriber.cursor}"))

    async def _wait_for_changes(self) -> None:
        """Pause, so that many changes share one write.

        Then wait for a change, until the next heartbeat.
        """
        subscriber, hub = self._subscriber, self._hub
        if not self._has_ended():
            await asyncio.sleep(hub.pause_s)
        await wait_for_event(subscriber.wake, max(0.0, self._next_heartbeat_at - self._loop.time()))

    async def _send_due_heartbeat(self) -> None:
        # Why: counts from the last write. The hub also wakes clients without a message for them.
        if self._loop.time() >= self._next_heartbeat_at and not self._has_ended():
            await self._write(HEARTBEAT)

    def _encode_reset(self, reason: str) -> bytes:
        self._is_ready = False
        return _encode_event("reset", {"reason": reason}, f"{self._hub.epoch}-0")

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        with self._subscriber.timed_write():
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._next_heartbeat_at = self._loop.time() + self._hub.limits.heartbeat_s


def _encode_event(kind: str, document: object, id_: str | None = None) -> bytes:
    id_line = "" if id_ is None else f"id: {id_}\n"
    return f"event: {kind}\n{id_line}data: {encode_text(document)}\n\n".encode("utf-8", "replace")


async def _wait_for_disconnect(receive: Receive, subscriber: Subscriber) -> None:
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
    subscriber.disconnected = True
    subscriber.wake.set()
