"""WebSocket: ``/api/v1/ws`` sends changes of subscribed operations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from otel_progress.semconv import RefusalReason
from otel_progress.server import security
from otel_progress.server.access import AccessControl
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.messages import encode_text
from otel_progress.server.streams.subscriber import Selection, Subscriber
from otel_progress.server.streams.waiting import wait_for_event
from otel_progress.text import MAX_ID, escape_controls, truncate

MAX_MESSAGE: Final = 64 * 1024
"""Largest message of a client, in bytes. A larger one is answered with an error."""


MESSAGES_PER_S: Final = 20.0
"""Average number of messages that a client may send per second."""


_BURST_MESSAGES: Final = 5 * MESSAGES_PER_S


GOING_AWAY: Final = 1001


TRY_LATER: Final = 1013


NO_TOKEN: Final = 4401


NO_ORIGIN: Final = 4403


class SubscriptionError(Exception):
    """Invalid message of a client, with a title and a detail."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(detail)
        self.title = title
        self.detail = detail


class WebSocketEndpoint:
    """ASGI application of the WebSocket, for any number of clients."""

    def __init__(self, hub: Hub, access: AccessControl) -> None:
        self._hub = hub
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it disconnects, blocks, or the server closes."""
        if (await receive())["type"] != "websocket.connect":
            return
        # The client may disconnect during a write.
        with suppress(OSError):
            await send({"type": "websocket.accept"})
            refusal = self._check_access(scope)
            if refusal is not None:
                code, reason = refusal
                self._hub.counts.count_refusal(reason)
                await send({"type": "websocket.close", "code": code, "reason": reason})
                return
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub = self._hub
        subscriber = hub.attach("ws")
        subscriber.start(None, (), levels=False)
        session = _WebSocketSession(hub, subscriber, receive, send, self._access.watch(scope))
        receiver = asyncio.get_running_loop().create_task(session.receive_messages())
        try:
            await session.send_updates()
        except asyncio.CancelledError:
            if not subscriber.evicted:
                raise
        finally:
            receiver.cancel()
            hub.detach(subscriber)
            await asyncio.gather(receiver, return_exceptions=True)

    def _check_access(self, scope: Scope) -> tuple[int, RefusalReason] | None:
        """Return the close code and reason of a refused client."""
        # Why: the connection closes after the handshake. A browser reports the code of a close to
        # its page, but nothing about a rejected handshake.
        if not security.is_origin_allowed(scope, self._access.settings):
            return NO_ORIGIN, "origin"
        if not self._access.is_valid(scope):
            return NO_TOKEN, "token"
        if self._hub.closed:
            return GOING_AWAY, "closing"
        return (TRY_LATER, "clients") if self._hub.is_full else None


class _WebSocketSession:
    """Connection of one client: one task receives messages, and one sends updates."""

    def __init__(
        self,
        hub: Hub,
        subscriber: Subscriber,
        receive: Receive,
        send: Send,
        has_access: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._has_access = has_access
        self._subscriber = subscriber
        self._receive = receive
        self._send_event = send
        self._reported_error: str | None = None
        self._is_ready = True
        # Token bucket.
        self._tokens = _BURST_MESSAGES
        self._received_at = hub.clock()

    async def receive_messages(self) -> None:
        """Handle the client's messages. An invalid message is answered with an error."""
        try:
            while (event := await self._receive())["type"] == "websocket.receive":
                try:
                    await self._consume_token()
                    await self._handle_message(_parse_message(event))
                except SubscriptionError as refusal:
                    self._hub.counts.count_refusal("message")
                    await self._send_json({"type": "error", "title": refusal.title, "detail": refusal.detail})
        finally:
            self._subscriber.disconnected = True
            self._subscriber.wake.set()

    async def send_updates(self) -> None:
        """Send changes until the client disconnects or the hub closes."""
        hub, subscriber = self._hub, self._subscriber
        while not self._has_ended():
            subscriber.wake.clear()
            await self._send_messages()
            if not self._has_ended():
                await asyncio.sleep(hub.pause_s)
            await wait_for_event(subscriber.wake, hub.limits.heartbeat_s)
        if not subscriber.disconnected:
            code, reason = GOING_AWAY, "The server is going away."
            if not self._has_access():
                code, reason = NO_TOKEN, "The session has ended."
            await self._send_event({"type": "websocket.close", "code": code, "reason": reason})

    def _has_ended(self) -> bool:
        return self._hub.closed or self._subscriber.disconnected or not self._has_access()

    async def _send_messages(self) -> None:
        hub, subscriber = self._hub, self._subscriber
        if subscriber.is_behind():
            reason = "This client was too slow, and the messages that it missed are no longer stored."
            await self._send_json({"type": "reset", "reason": reason})
            self._is_ready = False
            subscriber.restart()
        while (messages := subscriber.next_messages()) and not self._has_ended():
            for message in messages:
                await self._send(message.ws)
            hub.counts.count_sent("ws", len(messages))
            # Let other tasks run, and detect a disconnect.
            await asyncio.sleep(0)
        if hub.reader_error != self._reported_error:
            self._reported_error = hub.reader_error
            is_stale = self._reported_error is not None
            await self._send_json({"type": "stale", "stale": is_stale, "detail": self._reported_error})
        if not self._is_ready and subscriber.is_up_to_date():
            self._is_ready = True
            await self._send_json({"type": "ready"})

    async def _handle_message(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "ping":
            await self._send_json({"type": "pong"})
        elif kind == "subscribe":
            await self._subscribe(message)
        elif kind == "unsubscribe":
            ids = _parse_ids(message)
            self._subscriber.unfollow(ids)
            await self._send_json({"type": "unsubscribed", "operations": "*" if ids is None else ids})
        else:
            raise SubscriptionError("Unknown type", "Expected the type subscribe, unsubscribe or ping.")

    async def _subscribe(self, message: dict[str, Any]) -> None:
        ids, levels = _parse_ids(message), message.get("levels", False)
        if not isinstance(levels, bool):
            raise SubscriptionError("Invalid levels", "Expected true or false.")
        self._check_capacity(ids, levels)
        await self._send_json({"type": "subscribed", "operations": "*" if ids is None else ids})
        self._is_ready = False
        if ids is None:
            self._subscriber.follow_all(Selection())
        else:
            self._subscriber.follow(ids, levels=levels)

    def _check_capacity(self, ids: list[str] | None, levels: bool) -> None:
        max_ids = self._hub.limits.subscriptions
        if ids is None:
            if levels:
                raise SubscriptionError(
                    "Levels of all operations", "Name the operations to follow with their levels."
                )
        elif len({*ids, *self._subscriber.operation_ids}) > max_ids:
            raise SubscriptionError(
                "Too many subscriptions",
                f'Expected at most {max_ids} operations. Unsubscribe from some, or subscribe to "*".',
            )
        elif levels and not self._hub.subscriptions.has_tree_capacity(ids):
            raise SubscriptionError(
                "Too many trees",
                "Too many operations are followed with their levels. Subscribe with levels false.",
            )

    async def _consume_token(self) -> None:
        """Remove one token from the bucket. Raises SubscriptionError when it is empty."""
        now = self._hub.clock()
        refill = (now - self._received_at) * MESSAGES_PER_S
        self._tokens = min(_BURST_MESSAGES, self._tokens + refill)
        self._received_at = now
        if self._tokens < 1.0:
            # Nothing is received during the sleep, which slows the client down.
            await asyncio.sleep(1.0 / MESSAGES_PER_S)
            raise SubscriptionError(
                "Too many messages",
                f"Expected at most {MESSAGES_PER_S:g} messages per second. This message was ignored.",
            )
        self._tokens -= 1.0

    async def _send_json(self, document: dict[str, Any]) -> None:
        await self._send(encode_text(document))

    async def _send(self, text: str) -> None:
        with self._subscriber.timed_write():
            await self._send_event({"type": "websocket.send", "text": text})


_EXAMPLE: Final = '{"type":"subscribe","operations":["friday-42"]}'


def _parse_message(event: Any) -> dict[str, Any]:
    text = event.get("text")
    if text is None:
        raise SubscriptionError("Invalid message", "Expected a text message with a JSON object.")
    if len(text) > MAX_MESSAGE or len(text.encode("utf-8", "replace")) > MAX_MESSAGE:
        raise SubscriptionError("Message too long", f"Expected at most {MAX_MESSAGE} bytes.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise SubscriptionError("Invalid JSON", f"Expected a JSON object such as {_EXAMPLE}.") from None
    if not isinstance(document, dict):
        raise SubscriptionError("Invalid message", f"Expected a JSON object such as {_EXAMPLE}.")
    return document


def _parse_ids(message: dict[str, Any]) -> list[str] | None:
    """Return the ids that a message names, None for all."""
    ids = message.get("operations")
    if ids == "*":
        return None
    if not isinstance(ids, list) or not ids:
        raise SubscriptionError("Invalid operations", 'Expected a list of ids, or "*" for all.')
    for id_ in ids:
        if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID:
            quoted = escape_controls(truncate(repr(id_), 60))
            raise SubscriptionError("Invalid id", f"Expected 1 to {MAX_ID} characters instead of {quoted}.")
    return list(dict.fromkeys(ids))
