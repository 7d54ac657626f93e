"""What a server did, in plain numbers for ``/metrics``: clients, messages, what was coalesced, what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from otel_progress import semconv
from otel_progress.model import Number
from otel_progress.semconv import Metric, RefusalReason, Transport


class ServerCounters:
    """Counts of one server, for the life of its process. ``transport`` is ``sse`` or ``ws``. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[Metric, Counter[tuple[str, ...]]] = {
            semconv.SERVER_CLIENTS: Counter(),
            semconv.SERVER_MESSAGES: Counter(),
            semconv.SERVER_COALESCED: Counter(),
            semconv.SERVER_REFUSED: Counter(),
        }

    def count_clients(self, transport: Transport, change: int) -> None:
        """Count a client that came (+1) or went (-1)."""
        self._add(semconv.SERVER_CLIENTS, transport, change)

    def count_sent(self, transport: Transport, number: int) -> None:
        """Count messages sent."""
        self._add(semconv.SERVER_MESSAGES, transport, number)

    def count_coalesced(self, transport: Transport, number: int) -> None:
        """Count snapshots a client was not sent because a newer one of the operation was there."""
        self._add(semconv.SERVER_COALESCED, transport, number)

    def count_refusal(self, reason: RefusalReason) -> None:
        """Count a request, connection or message that was refused; ``reason`` is one of a few words of ours, never a client's."""
        self._add(semconv.SERVER_REFUSED, reason, 1)

    def read(self) -> Mapping[Metric, Mapping[tuple[str, ...], Number]]:
        """Return what was counted so far, by metric and the values of its label."""
        with self._lock:
            return {metric: dict(series) for metric, series in self._counts.items()}

    def _add(self, metric: Metric, label: str, number: int) -> None:
        with self._lock:
            self._counts[metric][label,] += number
