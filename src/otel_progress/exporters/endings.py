"""What ended operations add to the totals: that they ended, how long they took, and how good the predictions of their end were.

Memory is bounded by what runs: of a run a few predictions are remembered (see ``Predictions``), and nothing once it has ended. The first
of them, the one that stood at half of the duration and the last are judged.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from otel_progress import semconv
from otel_progress.live.predictions import Predictions
from otel_progress.model import Eta, Snapshot, Status
from otel_progress.protocols import Batch
from otel_progress.semconv import Metric

REMEMBERED_RUNS: Final = 1000
"""How many ended runs are remembered by id, so that a late copy of one is not counted again."""
COVERED: Final = "covered"
MISSED: Final = "missed"
"""Whether the interval of a prediction held the end: values of the label ``outcome``."""


class Ending(NamedTuple):
    """An amount to add to a counter or to observe in a histogram, and the end of the operation it comes from."""

    metric: Metric
    labels: tuple[str, ...]
    amount: float
    snapshot: Snapshot


class _Foretold:
    """The predictions of one run, and the estimate that was added last: most snapshots still carry that one."""

    __slots__ = ("latest", "predictions")

    def __init__(self) -> None:
        self.latest: Eta | None = None
        self.predictions = Predictions()


class Endings:
    """Finds the ends of operations in batches, each once. Not for two threads at a time."""

    def __init__(self) -> None:
        self._foretold: dict[str, _Foretold] = {}
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
            found.extend(_end(snapshot, self._foretold.pop(run, None)))
            self._ended[run] = None
        for run, path in batch.evicted:
            if not path:
                self._foretold.pop(run, None)
        while len(self._ended) > REMEMBERED_RUNS:
            self._ended.popitem(last=False)
        return found

    def _predict(self, snapshot: Snapshot) -> None:
        """Remember an estimate, by the seconds of work it was made after."""
        eta = snapshot.eta
        if eta is None:
            return
        foretold = self._foretold.get(snapshot.info.run)
        if foretold is None:
            foretold = self._foretold[snapshot.info.run] = _Foretold()
        if eta is not foretold.latest:
            foretold.latest = eta
            foretold.predictions.add(replace(eta, clock=snapshot.worked(eta.clock)))


def _end(snapshot: Snapshot, foretold: _Foretold | None) -> Iterator[Ending]:
    """Yield what one end adds. Only an operation that completed says how good the predictions of its end were."""
    info, duration = snapshot.info, snapshot.duration_s
    labels = (info.operation_type, snapshot.status.value)
    yield Ending(semconv.OPERATIONS_FINISHED, labels, 1, snapshot)
    if duration is None or not 0.0 <= duration < math.inf:
        return
    yield Ending(semconv.OPERATION_DURATION, labels, duration, snapshot)
    if foretold is None or snapshot.status is not Status.COMPLETED or info.started_clock is None:
        return
    for error, covered in foretold.predictions.judge(duration - snapshot.paused_s) or ():
        yield Ending(semconv.ETA_ERROR, (info.operation_type,), error, snapshot)
        if covered is not None:
            outcome = COVERED if covered else MISSED
            yield Ending(semconv.ETA_INTERVALS, (info.operation_type, outcome), 1, snapshot)
