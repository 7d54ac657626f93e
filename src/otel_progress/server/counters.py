"""Counters of a server for ``/metrics``: clients, messages, refusals, records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from otel_progress import semconv
from otel_progress.model import Number
from otel_progress.semconv import Metric, ReceivedSignal, RecordOutcome, RefusalReason, Transport


class ServerCounters:
    """Counters of one server. ``transport`` is ``sse`` or ``ws``. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[Metric, Counter[tuple[str, ...]]] = {
            semconv.SERVER_CLIENTS: Counter(),
            semconv.SERVER_MESSAGES: Counter(),
            semconv.SERVER_COALESCED: Counter(),
            semconv.SERVER_REFUSED: Counter(),
            semconv.RECEIVER_RECORDS: Counter(),
        }

    def count_clients(self, transport: Transport, change: int) -> None:
        """Count a client that connected (+1) or disconnected (-1)."""
        self._add(semconv.SERVER_CLIENTS, (transport,), change)

    def count_sent(self, transport: Transport, number: int) -> None:
        """Count sent messages."""
        self._add(semconv.SERVER_MESSAGES, (transport,), number)

    def count_coalesced(self, transport: Transport, number: int) -> None:
        """Count snapshots that a client did not receive because a newer one replaced them."""
        self._add(semconv.SERVER_COALESCED, (transport,), number)

    def count_refusal(self, reason: RefusalReason) -> None:
        """Count a refused request, connection or message.

        ``reason`` is a fixed word, never client text.
        """
        self._add(semconv.SERVER_REFUSED, (reason,), 1)

    def count_records(self, signal: ReceivedSignal, outcome: RecordOutcome, number: int) -> None:
        """Count records of received OTLP requests."""
        if number:
            self._add(semconv.RECEIVER_RECORDS, (signal, outcome), number)

    def read(self) -> Mapping[Metric, Mapping[tuple[str, ...], Number]]:
        """Return the counters by metric and label value."""
        with self._lock:
            return {metric: dict(series) for metric, series in self._counts.items()}

    def _add(self, metric: Metric, labels: tuple[str, ...], number: int) -> None:
        with self._lock:
            self._counts[metric][labels] += number
