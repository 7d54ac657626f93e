"""The WebSocket: ``/api/v1/ws`` tells what changes in the operations a client subscribes to, and takes that back again."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from otel_progress.server import security
from otel_progress.server.settings import ServerSettings
from otel_progress.server.streams.hub import Hub
from otel_progress.server.streams.messages import encode_text
from otel_progress.server.streams.subscriber import Selection, Subscriber
from otel_progress.text import MAX_ID, escape_controls, truncate

MAX_MESSAGE: Final = 64 * 1024
"""Longest message of a client, in bytes."""


MESSAGES_PER_S: Final = 20.0
"""Messages a client may send a second in the long run; five times as many at once."""


GOING_AWAY: Final = 1001


TRY_LATER: Final = 1013


NO_TOKEN: Final = 4401


NO_ORIGIN: Final = 4403


class SubscriptionError(Exception):
    """A message that cannot be followed: a title, and a sentence with what was expected."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(detail)
        self.title = title
        self.detail = detail


class WebSocketEndpoint:
    """The ASGI application for any number of clients."""

    def __init__(self, hub: Hub, settings: ServerSettings) -> None:
        self._hub = hub
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Talk to one client until it goes, the server closes, or it does not read for too long."""
        if (await receive())["type"] != "websocket.connect":
            return
        with suppress(OSError):  # the client went in the middle of a write
            await send({"type": "websocket.accept"})
            refusal = self._refusal(scope)
            if refusal is not None:
                self._hub.counts.refused(refusal[1])
                await send({"type": "websocket.close", "code": refusal[0], "reason": refusal[1]})
                return
            await self._talk(receive, send)

    async def _talk(self, receive: Receive, send: Send) -> None:
        hub = self._hub
        follower = hub.attach("ws")
        follower.begin(None, (), levels=False)
        talk = _WebSocketSession(hub, follower, receive, send)
        listening = asyncio.get_running_loop().create_task(talk.listen())
        try:
            await talk.send_updates()
        except asyncio.CancelledError:
            if not follower.evicted:
                raise
        finally:
            listening.cancel()
            hub.detach(follower)
            await asyncio.gather(listening, return_exceptions=True)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        # Closed after the handshake, as a browser tells its page the code of a close, and nothing of a refused handshake.
        if not security.origin_allowed(scope, self._settings):
            return NO_ORIGIN, "origin"
        if not security.authorised(scope, self._settings):
            return NO_TOKEN, "token"
        if self._hub.closed:
            return GOING_AWAY, "closing"
        return (TRY_LATER, "clients") if self._hub.full else None


class _WebSocketSession:
    """The conversation with one client: a task that listens, and one that tells."""

    def __init__(self, hub: Hub, follower: Subscriber, receive: Receive, send: Send) -> None:
        self._hub = hub
        self._follower = follower
        self._receive = receive
        self._send_event = send
        self._stale: str | None = None
        self._ready = True
        self._allowance = 5 * MESSAGES_PER_S
        self._heard_at = hub.clock()

    async def listen(self) -> None:
        """Do what the client says; what cannot be done is answered by an error, and the connection stays."""
        try:
            while (event := await self._receive())["type"] == "websocket.receive":
                try:
                    await self._count()
                    await self._handle_message(_parse(event))
                except SubscriptionError as refusal:
                    self._hub.counts.refused("message")
                    await self._send_json({"type": "error", "title": refusal.title, "detail": refusal.detail})
        finally:
            self._follower.disconnected = True
            self._follower.wake.set()

    async def send_updates(self) -> None:
        """Tell what changes, until the client is gone or the hub is closed."""
        hub, follower = self._hub, self._follower
        while not (hub.closed or follower.disconnected):
            follower.wake.clear()
            await self._catch_up()
            if not (hub.closed or follower.disconnected):
                await asyncio.sleep(hub.pause_s)
            await follower.wake.wait()
        if not follower.disconnected:
            await self._send_event(
                {"type": "websocket.close", "code": GOING_AWAY, "reason": "The server is going away."}
            )

    async def _catch_up(self) -> None:
        hub, follower = self._hub, self._follower
        if follower.is_behind():
            await self._send_json(
                {
                    "type": "reset",
                    "reason": "This client was too slow, and what it missed is no longer there.",
                }
            )
            self._ready = False
            follower.restart()
        while (messages := follower.next_messages()) and not (hub.closed or follower.disconnected):
            for message in messages:
                await self._send(message.ws)
            hub.counts.sent("ws", len(messages))
            await asyncio.sleep(0)  # the others' turn, and the moment to hear that this one has gone
        if hub.trouble != self._stale:
            self._stale = hub.trouble
            await self._send_json({"type": "stale", "stale": self._stale is not None, "detail": self._stale})
        if not self._ready and follower.is_up_to_date():
            self._ready = True
            await self._send_json({"type": "ready"})

    async def _handle_message(self, message: dict[str, Any]) -> None:
        kind, follower = message.get("type"), self._follower
        if kind == "ping":
            await self._send_json({"type": "pong"})
        elif kind == "subscribe":
            ids, levels = _ids(message), message.get("levels", False)
            if not isinstance(levels, bool):
                raise SubscriptionError("levels is no boolean", "Expected true or false.")
            self._check(ids, levels)
            await self._send_json({"type": "subscribed", "operations": "*" if ids is None else ids})
            self._ready = False
            if ids is None:
                follower.widen(Selection())
            else:
                follower.follow(ids, levels=levels)
        elif kind == "unsubscribe":
            ids = _ids(message)
            follower.unfollow(ids)
            await self._send_json({"type": "unsubscribed", "operations": "*" if ids is None else ids})
        else:
            raise SubscriptionError(
                "Unknown type", "Expected a message of type subscribe, unsubscribe or ping."
            )

    def _check(self, ids: list[str] | None, levels: bool) -> None:
        most = self._hub.limits.subscriptions
        if ids is None:
            if levels:
                raise SubscriptionError(
                    "levels of everything", "Name the operations to follow with their levels."
                )
        elif len({*ids, *self._follower.operation_ids}) > most:
            raise SubscriptionError(
                "Too many subscriptions",
                f'One client can name {most} operations. Unsubscribe from some, or subscribe to "*".',
            )
        elif levels and not self._hub.subscriptions.has_tree_for(ids):
            raise SubscriptionError(
                "Too many trees",
                "Too many operations are followed with their levels. Subscribe with levels false.",
            )

    async def _count(self) -> None:
        """Take one from the allowance, which grows with time. Raises Refusal when it is used up."""
        now = self._hub.clock()
        self._allowance = min(5 * MESSAGES_PER_S, self._allowance + (now - self._heard_at) * MESSAGES_PER_S)
        self._heard_at = now
        if self._allowance < 1.0:
            await asyncio.sleep(1.0 / MESSAGES_PER_S)  # and meanwhile nothing more is read from it
            raise SubscriptionError(
                "Too many messages",
                f"A client may send {MESSAGES_PER_S:g} messages a second. This one was not looked at.",
            )
        self._allowance -= 1.0

    async def _send_json(self, document: dict[str, Any]) -> None:
        await self._send(encode_text(document))

    async def _send(self, text: str) -> None:
        with self._follower.timed_write():
            await self._send_event({"type": "websocket.send", "text": text})


def _parse(event: Any) -> dict[str, Any]:
    text = event.get("text")
    if text is None:
        raise SubscriptionError("No text", "Expected a text message that holds a JSON object.")
    if len(text) > MAX_MESSAGE or len(text.encode("utf-8", "replace")) > MAX_MESSAGE:
        raise SubscriptionError("Message too long", f"Expected at most {MAX_MESSAGE} bytes.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise SubscriptionError(
            "No JSON", 'Expected a JSON object such as {"type":"subscribe","operations":["friday-42"]}.'
        ) from None
    if not isinstance(document, dict):
        raise SubscriptionError(
            "No object", 'Expected a JSON object such as {"type":"subscribe","operations":["friday-42"]}.'
        )
    return document


def _ids(message: dict[str, Any]) -> list[str] | None:
    """Return the ids a message names, None for all."""
    wanted = message.get("operations")
    if wanted == "*":
        return None
    if not isinstance(wanted, list) or not wanted:
        raise SubscriptionError("No operations", 'Expected operations: a list of ids, or "*" for all.')
    for id_ in wanted:
        if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID:
            raise SubscriptionError(
                "Not an id",
                f"Expected ids of 1 to {MAX_ID} characters, and found {escape_controls(truncate(repr(id_), 60))}.",
            )
    return list(dict.fromkeys(wanted))
