"""Events of items on their way: from the thread that counted them to their operation, and to the next batch. Bounded on both."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from otel_progress import semconv
from otel_progress.live.node import Node
from otel_progress.live.tree import Limits
from otel_progress.model import Failure, MetadataValue, Outcome
from otel_progress.operations import Event


class Inbox:
    """Takes events from any thread without a lock; the store sorts and takes them under its own."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._new: deque[tuple[Node, Event]] = deque()
        self._unsent: list[Event] = []

    def __len__(self) -> int:
        return len(self._new) + len(self._unsent)

    def record(
        self,
        node: Node,
        name: str,
        outcome: Outcome,
        error: Failure | None,
        metadata: Mapping[str, MetadataValue],
        at: float,
    ) -> bool:
        """Remember one unit of work; False when too many wait for the next tick, and this one was let go."""
        if len(self) >= self._limits.waiting_events:
            return False
        operation = node.operation
        event = Event(
            operation.id,
            operation.type,
            operation.run,
            node.path,
            node.spec.type,
            semconv.EVENT_ITEM,
            operation.next_number(),
            at,
            name,
            outcome,
            error,
            metadata,
        )
        self._new.append((node, event))
        return True

    def sort(self) -> None:
        """Move new events to their operations, the oldest there making room, and to those the next batch takes."""
        for _ in range(len(self._new)):
            node, event = self._new.popleft()
            completed = event.outcome is Outcome.COMPLETED
            kept = node.operation.items if completed else node.operation.failures
            kept.append(event)
            if len(kept) > (self._limits.events if completed else self._limits.failed_events):
                kept.popleft()
            self._unsent.append(event)

    def take(self) -> list[Event]:
        """Return what the next batch has to carry."""
        self.sort()
        events, self._unsent = self._unsent, []
        return events
