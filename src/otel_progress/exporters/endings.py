"""What ended operations add to the totals: that they ended, how long they took, and how good the predictions of their end were.

Memory is bounded by what runs: of a run four predictions are remembered, and nothing once it has ended.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from otel_progress import semconv
from otel_progress.model import Snapshot, Status
from otel_progress.protocols import Batch
from otel_progress.semconv import Metric

REMEMBERED_RUNS: Final = 1000
"""How many ended runs are remembered by id, so that a late copy of one is not counted again."""
_QUARTERS: Final = 4


class Ending(NamedTuple):
    """An amount to add to a counter or to observe in a histogram, and the end of the operation it comes from."""

    metric: Metric
    labels: tuple[str, ...]
    amount: float
    snapshot: Snapshot


class Endings:
    """Finds the ends of operations in batches, each once. Not for two threads at a time."""

    def __init__(self) -> None:
        self._predicted_ends: dict[str, dict[int, float]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def take(self, batch: Batch) -> list[Ending]:
        """Return what the ends in ``batch`` add."""
        found: list[Ending] = []
        for snapshot in batch.snapshots:
            run = snapshot.info.run
            if snapshot.path or run in self._ended:
                continue
            if not snapshot.status.finished:
                self._predict(snapshot)
                continue
            found.extend(_end(snapshot, self._predicted_ends.pop(run, {})))
            self._ended[run] = None
        for run, path in batch.evicted:
            if not path:
                self._predicted_ends.pop(run, None)
        while len(self._ended) > REMEMBERED_RUNS:
            self._ended.popitem(last=False)
        return found

    def _predict(self, snapshot: Snapshot) -> None:
        """Remember the first prediction of the end (on the worker's clock) in each quarter of the way."""
        eta, ratio = snapshot.eta, snapshot.ratio
        if eta is not None and eta.remaining_s is not None and ratio is not None and 0.0 <= ratio <= 1.0:
            quarter = min(_QUARTERS - 1, int(ratio * _QUARTERS))
            self._predicted_ends.setdefault(snapshot.info.run, {}).setdefault(quarter, eta.clock + eta.remaining_s)


def _end(snapshot: Snapshot, predicted_ends: dict[int, float]) -> Iterator[Ending]:
    """Yield what one end adds. Only an operation that completed says how good the predictions of its end were."""
    info, duration = snapshot.info, snapshot.duration_s
    labels = (info.operation_type, snapshot.status.value)
    yield Ending(semconv.OPERATIONS_FINISHED, labels, 1, snapshot)
    if duration is None or not 0.0 <= duration < math.inf:
        return
    yield Ending(semconv.OPERATION_DURATION, labels, duration, snapshot)
    if snapshot.status is Status.COMPLETED and info.started_clock is not None and duration > 0.0:
        end = info.started_clock + duration
        for predicted in predicted_ends.values():
            yield Ending(semconv.ETA_ERROR, (info.operation_type,), abs(predicted - end) / duration, snapshot)
