"""Events of items on their way: from the thread that counted them to their operation, and to the next batch. Bounded on both."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Final
from weakref import WeakKeyDictionary

from otel_progress import semconv
from otel_progress.live.node import Node, Operation
from otel_progress.live.tree import Limits
from otel_progress.model import Failure, MetadataValue, Outcome
from otel_progress.operations import Event
from otel_progress.records import LogRecord, Preview


class EventBuffer:
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

    def distribute(self) -> None:
        """Move new events to their operations, the oldest there making room, and to those the next batch takes."""
        for _ in range(len(self._new)):
            node, event = self._new.popleft()
            completed = event.outcome is Outcome.COMPLETED
            kept = node.operation.items if completed else node.operation.failures
            kept.append(event)
            if len(kept) > (self._limits.events if completed else self._limits.failed_events):
                kept.popleft()
            self._unsent.append(event)

    def drain(self) -> list[Event]:
        """Return what the next batch has to carry."""
        self.distribute()
        events, self._unsent = self._unsent, []
        return events


MAX_UNSENT_LOGS: Final = 10_000
"""Records that may wait for the next batch."""


MAX_LOGS_PER_LEVEL: Final = 200
"""Records kept in memory a level; the oldest of the level make room."""


MAX_LOGS_PER_OPERATION: Final = 1_000
"""Records kept in memory an operation; its oldest make room."""


MAX_LOGS: Final = 20_000
"""Records kept in memory of all operations, ended ones included; the oldest make room."""


class LogBuffer:
    """Takes records from any thread without a lock; the store sorts and takes them under its own."""

    def __init__(self) -> None:
        self._new: deque[tuple[Node, LogRecord]] = deque()
        self._unsent: list[LogRecord] = []
        self._shelves: WeakKeyDictionary[Operation, _OperationLogs] = WeakKeyDictionary()
        self._arrivals = count()
        self._order: deque[tuple[_OperationLogs, int]] = deque()
        self._kept = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._unsent)

    def add(self, node: Node, record: LogRecord) -> bool:
        """Leave a record; False when too many wait for the next tick, and this one was let go."""
        if len(self) >= MAX_UNSENT_LOGS:
            return False
        self._new.append((node, record))
        return True

    def distribute(self) -> None:
        """Move new records to their operations, and to those the next batch takes."""
        for _ in range(len(self._new)):
            node, record = self._new.popleft()
            self._unsent.append(record)
            self._keep(node.operation, record)

    def drain(self) -> list[LogRecord]:
        """Return what the next batch has to carry."""
        self.distribute()
        records, self._unsent = self._unsent, []
        return records

    def logs_of(self, operation: Operation) -> Sequence[LogRecord]:
        """Return the kept records of an operation, oldest first."""
        self.distribute()
        shelf = self._shelves.get(operation)
        return [] if shelf is None else sorted(shelf.records.values(), key=lambda record: record.number)

    def drop_operation(self, operation: Operation) -> None:
        """Let go of what is kept of an operation; what waits for the next batch still goes there."""
        self.distribute()
        shelf = self._shelves.pop(operation, None)
        if shelf is not None:
            self._kept -= len(shelf.records)
            shelf.clear()

    def _keep(self, operation: Operation, record: LogRecord) -> None:
        shelf = self._shelves.get(operation)
        if shelf is None:
            shelf = self._shelves[operation] = _OperationLogs()
        arrival = next(self._arrivals)
        self._order.append((shelf, arrival))
        self._kept += 1 - shelf.put(arrival, record)
        while self._kept > MAX_LOGS:
            shelf, arrival = self._order.popleft()
            self._kept -= shelf.drop(arrival)
        if (
            len(self._order) > 2 * MAX_LOGS
        ):  # most of it is gone by other bounds: look through it once in a long while
            self._order = deque(one for one in self._order if one[1] in one[0].records)


class _OperationLogs:
    """The kept records of one operation by arrival, and the arrivals of each path. Each step takes the same time, however many."""

    __slots__ = ("_paths", "records")

    def __init__(self) -> None:
        self.records: OrderedDict[int, LogRecord] = OrderedDict()
        self._paths: dict[str, deque[int]] = {}

    def put(self, arrival: int, record: LogRecord) -> int:
        """Keep a record; return how many made room for it."""
        self.records[arrival] = record
        path = self._paths.setdefault(record.path, deque())
        path.append(arrival)
        if len(path) > MAX_LOGS_PER_LEVEL:
            return self.drop(path[0])
        return self.drop(next(iter(self.records))) if len(self.records) > MAX_LOGS_PER_OPERATION else 0

    def drop(self, arrival: int) -> int:
        """Let go of a record, always the oldest of its path; return 1 unless it was gone before."""
        record = self.records.pop(arrival, None)
        if record is None:
            return 0
        path = self._paths[record.path]
        path.popleft()
        if not path:
            del self._paths[record.path]
        return 1

    def clear(self) -> None:
        """Let go of everything."""
        self.records.clear()
        self._paths.clear()


MAX_UNSENT_PREVIEWS: Final = 10_000
"""Records of previews that may wait for the next batch; the oldest go."""


class PreviewBuffer:
    """The previews of this process by operation, oldest first, and those that no sink was told of."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Operation, list[Preview]] = WeakKeyDictionary()
        self._unsent: list[Preview] = []

    def __len__(self) -> int:
        return len(self._unsent)

    def add(self, operation: Operation, preview: Preview, gone: Sequence[Preview]) -> None:
        """Take in a preview and those that made room for it."""
        without = {one.number for one in gone}
        kept = self._kept.setdefault(operation, [])
        kept[:] = [*(one for one in kept if one.number not in without), preview]
        operation.previews = max(operation.previews, preview.number)
        self._unsent += [*gone, preview]
        del self._unsent[:-MAX_UNSENT_PREVIEWS]

    def drain(self) -> list[Preview]:
        """Return what the next batch has to carry; those without a location are gone."""
        records, self._unsent = self._unsent, []
        return records

    def previews_of(self, operation: Operation) -> Sequence[Preview]:
        """Return the previews of an operation."""
        return list(self._kept.get(operation, ()))

    def drop_operations(self, operations: Iterable[Operation]) -> list[str]:
        """Let go of operations; return where their content is."""
        return [one.location for operation in operations for one in self._kept.pop(operation, ())]
