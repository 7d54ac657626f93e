"""Totals of all processes that share an address of ``/metrics``.

Each process publishes its changed totals with every write of the journal. The process that serves
the address adds them. Totals outlive their process. Those of processes that ended long ago are
merged into one entry, so that the sums never decrease.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Final, TypeAlias

from otel_progress.diagnostics import report_internal_error
from otel_progress.metrics.counters import (
    BOUNDS,
    Distribution,
    Totals,
    TotalsReading,
    TraceExample,
)
from otel_progress.metrics.labels import OTHER
from otel_progress.model import Instance, Number
from otel_progress.processes import is_gone
from otel_progress.protocols import ChangeSet, TotalsStorage
from otel_progress.records import IDENTITY_SERIES, MERGED_PROCESS, TotalsTable, TotalsUpdate
from otel_progress.semconv import METRICS, Metric

MERGE_AFTER_S: Final = 3_600.0
"""Time after which the totals of an ended process are merged, in seconds. Until then its abandoned
operations have series.
"""


MAX_ENDED_PROCESSES: Final = 50
"""Ended processes with totals of their own. Beyond it, the ones that ended first are merged."""


MAX_MERGED_SERIES: Final = 5_000
"""Series of the merged entry. Beyond it, further ones have ``other`` as operation type."""


COMPLETE_INTERVAL_S: Final = 3_600.0
"""Time after which a process publishes all totals again, and a scrape extends the time until they
expire, in seconds.
"""


_Key: TypeAlias = "tuple[Metric, tuple[str, ...]]"


_Value: TypeAlias = "Number | Distribution"


_METRICS: Final = {metric.name: metric for metric in METRICS if metric.kind != "gauge"}


_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def can_share_totals() -> bool:
    """Return True if this system shows whether a process has ended."""
    return sys.platform != "win32"


class TotalsPublisher:
    """Adds the changed totals of this process to the change sets for the journal.

    Only the thread of the sink calls ``add_totals`` and ``confirm``.
    """

    def __init__(self, totals: Totals, group: str, instance: Instance) -> None:
        self.totals = totals
        self.group = group
        self.restart(instance)

    def restart(self, instance: Instance) -> None:
        """Continue as another process, as a forked child does."""
        self._identity = _encode(astuple(instance))
        # Why a suffix: a process that configures again starts its totals at 0.
        self.process = f"{instance.id}:{secrets.token_hex(4)}"
        self._written: dict[_Key, _Value] = {}
        self._pending: dict[_Key, _Value] = {}
        self._is_complete_due = False
        self._complete_clock = time.monotonic()

    def add_totals(self, change_set: ChangeSet) -> ChangeSet:
        """Return the change set with the totals that are not stored yet."""
        now = time.monotonic()
        if self._is_complete_due or now - self._complete_clock > COMPLETE_INTERVAL_S:
            self._written = {}
            self._is_complete_due = False
            self._complete_clock = now
        self._pending = dict(_list_values(self.totals.read()))
        written = self._written
        changed = {
            encode_series(*key): encode_value(value)
            for key, value in self._pending.items()
            if written.get(key) != value
        }
        if not written:
            changed[IDENTITY_SERIES] = self._identity
        return (
            replace(change_set, totals=TotalsUpdate(self.group, self.process, changed))
            if changed
            else change_set
        )

    def confirm(self) -> None:
        """Report that the journal has stored the totals of the last change set."""
        self._written = self._pending

    def resend(self) -> None:
        """Publish all totals with the next change set."""
        self._is_complete_due = True


class ProcessGroup:
    """Reads the totals of all processes of a group.

    ``is_stored`` returns False while the journal cannot store the totals of this process. Several
    threads may call the methods.
    """

    def __init__(
        self,
        publisher: TotalsPublisher,
        storage: TotalsStorage,
        is_stored: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher
        self._storage = storage
        self._is_stored = is_stored
        self._clock = clock
        self._known: TotalsTable = {}
        self._ended_clocks: dict[str, float] = {}
        self._extended_clock = clock()
        self._maintenance_lock = threading.Lock()

    def read(self) -> GroupReading:
        """Return the current state. If the journal cannot be read, the last known one."""
        try:
            table = self._storage.read_totals(self._publisher.group)
            self._known = table
        except Exception as error:
            report_internal_error("metrics", "The totals of other processes cannot be read", error=error)
            return GroupReading(self._publisher, self._known, is_stored=False)
        if self._maintenance_lock.acquire(blocking=False):
            try:
                self._maintain(table)
            except Exception as error:
                text = "The totals of processes that have ended cannot be merged"
                report_internal_error("metrics", text, error=error)
            finally:
                self._maintenance_lock.release()
        return GroupReading(self._publisher, table, is_stored=self._is_stored())

    def _maintain(self, table: TotalsTable) -> None:
        """Merge the totals of ended processes, and extend the time to expiry."""
        now = self._clock()
        due = self._find_due(table, now)
        if not due and now - self._extended_clock < COMPLETE_INTERVAL_S:
            return
        self._extended_clock = now
        version = table.get(MERGED_PROCESS, {}).get(IDENTITY_SERIES, "")
        merged = {}
        if due:
            values = _add_tables([table.get(MERGED_PROCESS, {}), *(table[process] for process in due)])
            merged = {encode_series(*key): encode_value(value) for key, value in _limit(values).items()}
        merged[IDENTITY_SERIES] = str(int(version or "0") + 1) if due else version or "0"
        self._storage.merge_totals(self._publisher.group, due, merged, version)

    def _find_due(self, table: TotalsTable, now: float) -> list[str]:
        ended: dict[str, float] = {}
        for process, series in table.items():
            instance = decode_identity(series.get(IDENTITY_SERIES))
            if process in (MERGED_PROCESS, self._publisher.process) or instance is None:
                continue
            # Why no age: the process is on this machine, so its id shows whether it runs.
            wall = time.time()
            if is_gone(instance, wall, wall):
                ended[process] = self._ended_clocks.get(process, now)
        self._ended_clocks = ended
        oldest = sorted(ended, key=lambda process: ended[process])
        surplus = max(0, len(oldest) - MAX_ENDED_PROCESSES)
        return [
            process
            for number, process in enumerate(oldest)
            if number < surplus or now - ended[process] >= MERGE_AFTER_S
        ]


@dataclass(frozen=True, slots=True)
class GroupReading:
    """State of a group at one time.

    ``is_stored`` is False if the stored totals of this process are old.
    """

    publisher: TotalsPublisher
    table: TotalsTable
    is_stored: bool

    @property
    def others(self) -> frozenset[str]:
        """Ids of the instances of other processes, also of those that ended recently."""
        own = self.publisher.process
        found = (
            decode_identity(series.get(IDENTITY_SERIES))
            for process, series in self.table.items()
            if process not in (own, MERGED_PROCESS)
        )
        return frozenset(instance.id for instance in found if instance is not None)

    def sum_totals(self) -> TotalsReading:
        """Return the sums over all processes.

        Those of this process are the stored ones. Why not the current ones: they would be lost if
        this process were killed, and the sums that another process then serves would be lower.
        """
        own = dict(_list_values(self.publisher.totals.read()))
        stored = self.table.get(self.publisher.process)
        if self.is_stored and stored is not None:
            own.update(_decode_table(stored))
        others = [series for process, series in self.table.items() if process != self.publisher.process]
        sums = _add_tables(others, own)
        counters: dict[Metric, dict[tuple[str, ...], Number]] = {}
        distributions: dict[Metric, dict[tuple[str, ...], Distribution]] = {}
        for (metric, labels), value in sums.items():
            if isinstance(value, Distribution):
                distributions.setdefault(metric, {})[labels] = value
            else:
                counters.setdefault(metric, {})[labels] = value
        return TotalsReading(counters, distributions)


def encode_series(metric: Metric, labels: Sequence[str]) -> str:
    """Return the name of a series in the journal."""
    return _encode([metric.name, *labels])


def decode_series(text: str) -> _Key | None:
    """Return metric and labels of a series, or None if they are unknown."""
    try:
        name, *labels = json.loads(text)
    except ValueError:
        return None
    metric = _METRICS.get(name)
    if (
        metric is None
        or len(labels) != len(metric.labels)
        or not all(isinstance(each, str) for each in labels)
    ):
        return None
    return metric, tuple(labels)


def encode_value(value: _Value) -> str:
    """Return the text of a counter or histogram."""
    if not isinstance(value, Distribution):
        return _encode(value)
    examples = [None if each is None else (each.trace_id, each.value, each.at) for each in value.examples]
    return _encode([value.counts, value.sum, examples if any(examples) else None])


def decode_value(metric: Metric, text: str) -> _Value | None:
    """Return a counter or histogram, or None for an invalid text."""
    try:
        value = json.loads(text)
        if metric.kind == "counter":
            return value if _is_amount(value) else None
        counts, total, examples = value
        bounds = BOUNDS[metric]
        size = len(bounds) + 1
        if len(counts) != size or not all(map(_is_amount, [*counts, total])):
            return None
        found = [None if each is None else TraceExample(*each) for each in examples or [None] * size]
        return Distribution(bounds, tuple(counts), total, tuple(found)) if len(found) == size else None
    except (ValueError, TypeError):
        return None


def decode_identity(text: str | None) -> Instance | None:
    """Return the instance of a process, or None for an invalid text."""
    try:
        return None if text is None else Instance(*json.loads(text))
    except (ValueError, TypeError):
        return None


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _list_values(reading: TotalsReading) -> Iterator[tuple[_Key, _Value]]:
    for metrics in (reading.counters, reading.distributions):
        for metric, series in metrics.items():
            for labels, value in series.items():
                yield (metric, labels), value


def _decode_table(series: Mapping[str, str]) -> Iterator[tuple[_Key, _Value]]:
    for name, text in series.items():
        key = None if name == IDENTITY_SERIES else decode_series(name)
        value = None if key is None else decode_value(key[0], text)
        if key is not None and value is not None:
            yield key, value


def _add_tables(
    tables: Sequence[Mapping[str, str]], own: Mapping[_Key, _Value] | None = None
) -> dict[_Key, _Value]:
    """Return the sums of stored tables and of the values of this process."""
    sums: dict[_Key, _Value] = dict(own or {})
    for table in tables:
        for key, value in _decode_table(table):
            known = sums.get(key)
            sums[key] = value if known is None else _add(known, value)
    return sums


def _add(first: _Value, second: _Value) -> _Value:
    if not isinstance(first, Distribution) or not isinstance(second, Distribution):
        return first + second  # type: ignore[operator]  # a metric has values of one type
    counts = tuple(a + b for a, b in zip(first.counts, second.counts, strict=True))
    examples = tuple(
        max((a, b), key=lambda each: float("-inf") if each is None else each.at or 0.0)
        for a, b in zip(first.examples, second.examples, strict=True)
    )
    return Distribution(first.bounds, counts, first.sum + second.sum, examples)


def _limit(values: Mapping[_Key, _Value]) -> Mapping[_Key, _Value]:
    """Combine the series beyond ``MAX_MERGED_SERIES`` as type ``other``."""
    if len(values) <= MAX_MERGED_SERIES:
        return values
    limited = dict(list(values.items())[:MAX_MERGED_SERIES])
    for (metric, labels), value in list(values.items())[MAX_MERGED_SERIES:]:
        fitted = tuple(
            OTHER if name.endswith("_type") else label
            for name, label in zip(metric.labels, labels, strict=True)
        )
        known = limited.get((metric, fitted))
        limited[metric, fitted] = value if known is None else _add(known, value)
    return limited
