"""Bounded buffers of events, log records and previews."""

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
    """Buffer of the events of items.

    ``record`` takes no lock, so any thread may call it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._new: deque[tuple[Node, Event]] = deque()
        self._unsent: list[Event] = []
        self._by_operation: WeakKeyDictionary[Operation, _OperationEvents] = WeakKeyDictionary()

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
        """Add the event of one unit of work.

        Return False and drop it when too many events wait for a tick.
        """
        # Why not len(self): this runs for each item of the caller.
        if len(self._new) + len(self._unsent) >= self._limits.waiting_events:
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

    def distribute_locked(self) -> None:
        """Move new events to their operations and to the next change set.

        Evict the oldest of full operations.
        """
        operation: Operation | None = None
        events: _OperationEvents | None = None
        for _ in range(len(self._new)):
            # Why removed last: an exception that interrupts the caller must not lose the event.
            node, event = self._new[0]
            # Why compared first: most events in a row are of one operation, and the lookup is slow.
            if node.operation is not operation or events is None:
                operation = node.operation
                events = self._by_operation.get(operation)
                if events is None:
                    events = self._by_operation[operation] = _OperationEvents(self._limits)
            (events.completed if event.outcome is Outcome.COMPLETED else events.others).append(event)
            self._unsent.append(event)
            self._new.popleft()

    def drain_locked(self) -> list[Event]:
        """Return the events for the next change set."""
        self.distribute_locked()
        events, self._unsent = self._unsent, []
        return events

    def list_events_locked(self, operation: Operation, *, is_complete: bool = True) -> Sequence[Event]:
        """Return the events of an operation in memory, in no particular order.

        Without ``is_complete``, the newest ones may be missing and nothing changes.
        """
        if is_complete:
            self.distribute_locked()
        events = self._by_operation.get(operation)
        return [] if events is None else [*events.completed, *events.others]

    def drop_operation_locked(self, operation: Operation) -> None:
        """Drop the events of an operation from memory.

        The next change set still has its unsent ones.
        """
        self.distribute_locked()
        self._by_operation.pop(operation, None)


class _OperationEvents:
    """Newest events of one operation: completed items, and all other items."""

    __slots__ = ("completed", "others")

    def __init__(self, limits: Limits) -> None:
        self.completed: deque[Event] = deque(maxlen=limits.events)
        self.others: deque[Event] = deque(maxlen=limits.failed_events)


MAX_UNSENT_LOGS: Final = 10_000
"""Log records that wait for the next tick. Beyond it, new ones are dropped."""


MAX_LOGS_PER_LEVEL: Final = 200
"""Log records per level in memory. Beyond it, the oldest of the level are evicted."""


MAX_LOGS_PER_OPERATION: Final = 1_000
"""Log records per operation in memory. Beyond it, the oldest of the operation are evicted."""


MAX_LOGS: Final = 20_000
"""Log records of all operations in memory, ended ones included. Beyond it, the oldest are evicted.
"""


class LogBuffer:
    """Buffer of log records. ``add`` takes no lock, so any thread may call it."""

    def __init__(
        self,
        *,
        max_unsent: int = MAX_UNSENT_LOGS,
        max_per_level: int = MAX_LOGS_PER_LEVEL,
        max_per_operation: int = MAX_LOGS_PER_OPERATION,
        max_total: int = MAX_LOGS,
    ) -> None:
        self._max_unsent = max_unsent
        self._max_per_level = max_per_level
        self._max_per_operation = max_per_operation
        self._max_total = max_total
        self._new: deque[tuple[Node, LogRecord]] = deque()
        self._unsent: list[LogRecord] = []
        self._by_operation: WeakKeyDictionary[Operation, _OperationLogs] = WeakKeyDictionary()
        self._next_arrival = count()
        self._order: deque[tuple[_OperationLogs, int]] = deque()
        """Operation and arrival of all records in memory and of some evicted ones."""
        self._size = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._unsent)

    def add(self, node: Node, record: LogRecord) -> bool:
        """Add a record. Return False and drop it when too many records wait for a tick."""
        if len(self) >= self._max_unsent:
            return False
        self._new.append((node, record))
        return True

    def distribute_locked(self) -> None:
        """Move new records to their operations and to the next change set."""
        for _ in range(len(self._new)):
            node, record = self._new[0]
            self._unsent.append(record)
            self._store_locked(node.operation, record)
            self._new.popleft()

    def drain_locked(self) -> list[LogRecord]:
        """Return the records for the next change set."""
        self.distribute_locked()
        records, self._unsent = self._unsent, []
        return records

    def list_logs_locked(self, operation: Operation, *, is_complete: bool = True) -> Sequence[LogRecord]:
        """Return the records of an operation in memory, oldest first.

        Without ``is_complete``, the newest ones may be missing and nothing changes.
        """
        if is_complete:
            self.distribute_locked()
        logs = self._by_operation.get(operation)
        return [] if logs is None else sorted(logs.records.values(), key=lambda record: record.number)

    def drop_operation_locked(self, operation: Operation) -> None:
        """Drop the records of an operation from memory.

        The next change set still has its unsent ones.
        """
        self.distribute_locked()
        logs = self._by_operation.pop(operation, None)
        if logs is not None:
            self._size -= len(logs.records)
            logs.clear()

    def _store_locked(self, operation: Operation, record: LogRecord) -> None:
        logs = self._by_operation.get(operation)
        if logs is None:
            logs = self._by_operation[operation] = _OperationLogs(
                self._max_per_level, self._max_per_operation
            )
        arrival = next(self._next_arrival)
        self._order.append((logs, arrival))
        self._size += 1 - logs.add(arrival, record)
        while self._size > self._max_total:
            logs, arrival = self._order.popleft()
            self._size -= logs.evict(arrival)
        # Why rarely: the other limits evict records, too, and leave their entries in the order.
        if len(self._order) > 2 * self._max_total:
            self._order = deque(entry for entry in self._order if entry[1] in entry[0].records)


class _OperationLogs:
    """Log records of one operation by arrival, and the arrivals by path.

    Each step takes constant time.
    """

    __slots__ = ("_arrivals_by_path", "_max_per_level", "_max_records", "records")

    def __init__(self, max_per_level: int, max_records: int) -> None:
        self._max_per_level = max_per_level
        self._max_records = max_records
        self.records: OrderedDict[int, LogRecord] = OrderedDict()
        self._arrivals_by_path: dict[str, deque[int]] = {}

    def add(self, arrival: int, record: LogRecord) -> int:
        """Add a record. Return the number of records that were evicted for it."""
        self.records[arrival] = record
        arrivals = self._arrivals_by_path.setdefault(record.path, deque())
        arrivals.append(arrival)
        if len(arrivals) > self._max_per_level:
            return self.evict(arrivals[0])
        return self.evict(next(iter(self.records))) if len(self.records) > self._max_records else 0

    def evict(self, arrival: int) -> int:
        """Evict a record, which is the oldest of its path.

        Return 1, or 0 when it was evicted before.
        """
        record = self.records.pop(arrival, None)
        if record is None:
            return 0
        arrivals = self._arrivals_by_path[record.path]
        arrivals.popleft()
        if not arrivals:
            del self._arrivals_by_path[record.path]
        return 1

    def clear(self) -> None:
        """Drop all records."""
        self.records.clear()
        self._arrivals_by_path.clear()


MAX_UNSENT_PREVIEWS: Final = 10_000
"""Preview records that wait for the next tick. Beyond it, the oldest are dropped."""


class PreviewBuffer:
    """Previews of this process by operation, and those for the next change set."""

    def __init__(self) -> None:
        self._by_operation: WeakKeyDictionary[Operation, list[Preview]] = WeakKeyDictionary()
        self._unsent: list[Preview] = []

    def __len__(self) -> int:
        return len(self._unsent)

    def add_locked(self, operation: Operation, preview: Preview, evicted: Sequence[Preview]) -> None:
        """Add a preview and remove the evicted ones."""
        evicted_numbers = {each.number for each in evicted}
        previews = self._by_operation.setdefault(operation, [])
        previews[:] = [*(each for each in previews if each.number not in evicted_numbers), preview]
        operation.previews = max(operation.previews, preview.number)
        self._unsent += [*evicted, preview]
        del self._unsent[:-MAX_UNSENT_PREVIEWS]

    def drain_locked(self) -> list[Preview]:
        """Return the previews for the next change set.

        Those without a location were evicted.
        """
        records, self._unsent = self._unsent, []
        return records

    def list_previews_locked(self, operation: Operation) -> Sequence[Preview]:
        """Return the previews of an operation."""
        return list(self._by_operation.get(operation, ()))

    def drop_operations_locked(self, operations: Iterable[Operation]) -> list[str]:
        """Drop the previews of these operations. Return the locations of their contents."""
        return [
            preview.location for operation in operations for preview in self._by_operation.pop(operation, ())
        ]
