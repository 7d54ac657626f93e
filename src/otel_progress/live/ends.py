"""Queue of ended operations that wait for a tick, each in its smallest form."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

RECORD_OVERHEAD_BYTES: Final = 48
"""Memory of a waiting record besides its text, in bytes."""


SPILL_RATIO: Final = 0.5
"""Fraction of the size limit of the queue from which a tick moves records to the file."""


class EndOverflow(Protocol):
    """First-in, first-out file of records."""

    lost: int
    """Number of records that were lost because other programs removed or damaged the file."""

    def __len__(self) -> int:
        """Return the number of records that were not removed."""

    def append(self, records: Sequence[bytes]) -> int:
        """Append records. Return how many of the first ones were stored. Never raises."""

    def read(self, max_records: int) -> list[bytes]:
        """Return the oldest records. Never raises."""

    def remove_read(self) -> None:
        """Remove the records that the last ``read`` returned."""


class EndQueue:
    """Bounded queue of ended operations.

    Beyond ``max_bytes`` the oldest records are dropped and counted. Ticks prevent
    that: from half of the limit they move records to the ``overflow``, if there is one. Methods
    whose name ends in ``_locked`` require the lock of the live store.
    """

    def __init__(self, max_bytes: int, overflow: EndOverflow | None = None) -> None:
        self.overflow = overflow
        self._dropped = 0
        self._max_bytes = max_bytes
        self._records: deque[bytes] = deque()
        self._size_bytes = 0

    def __len__(self) -> int:
        """Return the number of waiting operations, those in the file included."""
        return len(self._records) + (0 if self.overflow is None else len(self.overflow))

    @property
    def dropped(self) -> int:
        """Number of records that were dropped or lost."""
        return self._dropped + (0 if self.overflow is None else self.overflow.lost)

    def add_locked(self, record: bytes) -> int:
        """Add a record. Return the number of records that were dropped for it."""
        self._records.append(record)
        self._size_bytes += len(record) + RECORD_OVERHEAD_BYTES
        dropped = 0
        while self._size_bytes > self._max_bytes and len(self._records) > 1:
            dropped += len(self.take_locked(1))
        self._dropped += dropped
        return dropped

    def take_locked(self, max_records: int) -> list[bytes]:
        """Remove and return the oldest records in memory."""
        taken: list[bytes] = []
        # Why so careful: a signal handler may end operations in between.
        while self._records and len(taken) < max_records:
            record = self._records.popleft()
            self._size_bytes -= len(record) + RECORD_OVERHEAD_BYTES
            taken.append(record)
        if not self._records:
            self._size_bytes = 0
        return taken

    def take_surplus_locked(self) -> list[bytes]:
        """Remove and return the records that belong into the overflow, oldest first."""
        limit = SPILL_RATIO * self._max_bytes
        if self.overflow is None or self._size_bytes <= limit:
            return []
        surplus: list[bytes] = []
        while self._size_bytes > limit / 2 and self._records:
            surplus += self.take_locked(1)
        return surplus

    def return_locked(self, records: Sequence[bytes]) -> None:
        """Put records back that could not be moved to the overflow."""
        self._records.extendleft(reversed(records))
        self._size_bytes += sum(map(len, records)) + RECORD_OVERHEAD_BYTES * len(records)
