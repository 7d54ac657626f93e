"""A Reader that returns scripted operations, and helpers to run a hub over it."""

# ruff: noqa: ARG002, D102 - the signatures are the protocol's

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import BatchQuery, EventQuery, HistoryQuery, PreviewQuery
from otel_progress.records import Preview
from otel_progress.server.streams.subscriber import Subscriber
from tests.support.factories import operation, snapshot
from tests.support.server_threads import threads_end


class Scripted:
    """A Reader with scripted results; its watch yields the queued ones.

    It is read in threads while the test continues, so each call reads a copy. A watch starts when
    ``there`` is set.
    """

    def __init__(self) -> None:
        self.operations: dict[str, OperationSnapshot] = {}
        self.items: dict[str, list[Event]] = {}
        self.queue: list[Sequence[OperationSnapshot] | Exception] = []
        self.watches = 0
        self.asked: list[str] = []
        self.there = threading.Event()
        self.there.set()
        self._more = threading.Event()

    def put(self, found: Sequence[OperationSnapshot] | Exception) -> None:
        self.queue.append(found)
        self._more.set()

    def watch(self, interval: float = 0.25, *, levels: bool = True) -> Iterator[Sequence[OperationSnapshot]]:
        assert not levels, "the watch is asked for small operations"
        self.watches += 1
        self.there.wait(60.0)
        yield tuple(one for one in list(self.operations.values()) if not one.status.finished)
        while True:
            self._more.wait(interval)
            self._more.clear()
            found = self.queue.pop(0) if self.queue else ()
            if isinstance(found, Exception):
                raise found
            yield found

    def get(self, operation_id: str) -> OperationSnapshot | None:
        self.asked.append(operation_id)
        return self.operations.get(operation_id)

    def active(self, *, levels: bool = True) -> Sequence[OperationSnapshot]:
        return [one for one in list(self.operations.values()) if not one.status.finished]

    def history(self, query: HistoryQuery = HistoryQuery()) -> Sequence[OperationSnapshot]:
        return [one for one in list(self.operations.values()) if one.status.finished]

    def events(self, operation_id: str, query: EventQuery = EventQuery()) -> Sequence[Event]:
        return self.items.get(operation_id, [])[-query.limit :]

    def previews(self, operation_id: str, query: PreviewQuery = PreviewQuery()) -> Sequence[Preview]:
        return ()

    def batches(self, query: BatchQuery = BatchQuery()) -> Sequence[BatchSnapshot]:
        return []


def an(id_: str, sequence: int = 1, *, run: str | None = None, **fields: Any) -> OperationSnapshot:
    """Return an operation of this id at a sequence number."""
    root = snapshot(sequence=sequence, operation_id=id_, run=run or f"run of {id_}", **fields)
    return operation(root)


def an_ended(id_: str, sequence: int = 9, **fields: Any) -> OperationSnapshot:
    """Return a completed operation."""
    return an(id_, sequence, status=Status.COMPLETED, ended_at=1.0, duration_s=1.0, **fields)


def a_batch(id_: str) -> BatchSnapshot:
    """Return an empty batch."""
    counts = dict.fromkeys(Status, 0)
    return BatchSnapshot(id_, id_, "batch", 10, 1.0, None, 2.0, counts, 0.0, None, None, (), ())


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function to its end, and wait for the threads of its hub."""

    async def main() -> None:
        await test()

    with threads_end():
        asyncio.run(main())


def seen(follower: Subscriber) -> list[str]:
    """Read the available messages.

    Return all kinds read so far, and record (kind, sequence) of each.
    """
    kept: list[tuple[str, int]] = follower.__dict__.setdefault("seen", [])
    for message in follower.next_messages():
        document = json.loads(message.sse.decode().partition("data: ")[2])
        kept.append((message.kind, document.get("sequence", 0)))
    return [kind for kind, _ in kept]


async def eventually(condition: Callable[[], object], follower: Subscriber) -> object:
    """Read messages until a condition is true. Fail after one minute."""
    deadline = time.monotonic() + 60.0
    while True:
        seen(follower)
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            pytest.fail("it did not come true within a minute")
        await asyncio.sleep(0.005)
