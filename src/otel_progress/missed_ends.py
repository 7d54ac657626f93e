"""Operations that ended while a watch of a reader was interrupted by an error."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from otel_progress.operations import OperationSnapshot
from otel_progress.protocols import HistoryQuery, Reader

MAX_MISSED_ENDS: Final = 1_000
"""Ended operations that are read after an interruption, the newest. Further ones are missed."""


_MAX_KNOWN_RUNS: Final = 4 * MAX_MISSED_ENDS
"""Ended runs that are remembered. The oldest are dropped first."""


class MissedEnds:
    """Finds ended operations that a new watch does not yield.

    A new watch yields the active operations only. Call ``start`` before the first watch, ``add``
    for its changes, and ``find`` after the first changes of each one. Not thread-safe.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: OrderedDict[str, None] = OrderedDict()
        self._has_started = False

    def start(self) -> None:
        """Read the operations that ended before the first watch.

        Raises errors of the reader.
        """
        if not self._has_started:
            self.add(self._reader.history(HistoryQuery(limit=MAX_MISSED_ENDS)))
            self._has_started = True

    def add(self, changes: Iterable[OperationSnapshot]) -> None:
        """Remember the ended operations of a change."""
        for operation in changes:
            if operation.status.finished:
                self._known[operation.run] = None
                self._known.move_to_end(operation.run)
        while len(self._known) > _MAX_KNOWN_RUNS:
            self._known.popitem(last=False)

    def find(self) -> list[OperationSnapshot]:
        """Return the newest operations that ended unreported.

        Raises errors of the reader.
        """
        found = self._reader.history(HistoryQuery(limit=MAX_MISSED_ENDS))
        missed = [operation for operation in found if operation.run not in self._known]
        self.add(missed)
        return missed
