"""Log records on their way: from the thread that logged to their operation, and to the next batch. Bounded on both."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import count
from typing import Final
from weakref import WeakKeyDictionary

from otel_progress.live.node import Node, Operation
from otel_progress.observations import LogRecord

MAX_WAITING: Final = 10_000
"""Records that may wait for the next batch."""
MAX_A_LEVEL: Final = 200
"""Records kept in memory a level; the oldest of the level make room."""
MAX_AN_OPERATION: Final = 1_000
"""Records kept in memory an operation; its oldest make room."""
MAX_IN_ALL: Final = 20_000
"""Records kept in memory of all operations, ended ones included; the oldest make room."""


class Logbook:
    """Takes records from any thread without a lock; the store sorts and takes them under its own."""

    def __init__(self) -> None:
        self._new: deque[tuple[Node, LogRecord]] = deque()
        self._unsent: list[LogRecord] = []
        self._shelves: WeakKeyDictionary[Operation, _Shelf] = WeakKeyDictionary()
        self._arrivals = count()
        self._order: deque[tuple[_Shelf, int]] = deque()
        self._kept = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._unsent)

    def add(self, node: Node, record: LogRecord) -> bool:
        """Leave a record; False when too many wait for the next tick, and this one was let go."""
        if len(self) >= MAX_WAITING:
            return False
        self._new.append((node, record))
        return True

    def sort(self) -> None:
        """Move new records to their operations, and to those the next batch takes."""
        for _ in range(len(self._new)):
            node, record = self._new.popleft()
            self._unsent.append(record)
            self._keep(node.operation, record)

    def take(self) -> list[LogRecord]:
        """Return what the next batch has to carry."""
        self.sort()
        records, self._unsent = self._unsent, []
        return records

    def of(self, operation: Operation) -> Sequence[LogRecord]:
        """Return the kept records of an operation, oldest first."""
        self.sort()
        shelf = self._shelves.get(operation)
        return [] if shelf is None else sorted(shelf.records.values(), key=lambda record: record.number)

    def forget(self, operation: Operation) -> None:
        """Let go of what is kept of an operation; what waits for the next batch still goes there."""
        self.sort()
        shelf = self._shelves.pop(operation, None)
        if shelf is not None:
            self._kept -= len(shelf.records)
            shelf.clear()

    def _keep(self, operation: Operation, record: LogRecord) -> None:
        shelf = self._shelves.get(operation)
        if shelf is None:
            shelf = self._shelves[operation] = _Shelf()
        arrival = next(self._arrivals)
        self._order.append((shelf, arrival))
        self._kept += 1 - shelf.put(arrival, record)
        while self._kept > MAX_IN_ALL:
            shelf, arrival = self._order.popleft()
            self._kept -= shelf.drop(arrival)
        if len(self._order) > 2 * MAX_IN_ALL:  # most of it is gone by other bounds: look through it once in a long while
            self._order = deque(one for one in self._order if one[1] in one[0].records)


class _Shelf:
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
        if len(path) > MAX_A_LEVEL:
            return self.drop(path[0])
        return self.drop(next(iter(self.records))) if len(self.records) > MAX_AN_OPERATION else 0

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
