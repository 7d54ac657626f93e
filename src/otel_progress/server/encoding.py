"""Operations as JSON text for the streams: the documents of :mod:`otel_progress.codec`, made quickly and made once.

What stays the same during a run is most of a document and is encoded once a run.
"""

from __future__ import annotations

from typing import Any, Final

from otel_progress import codec
from otel_progress.export import as_json
from otel_progress.model import Snapshot
from otel_progress.operations import OperationSnapshot

_LIKELY: Final = 4_096
"""Runs whose unchanging part is remembered."""


class Encoder:
    """Encodes operations without their levels; equal, as JSON, to ``codec.encode_operation(operation, levels=False)``."""

    def __init__(self) -> None:
        self._fixed: dict[str, tuple[object, object, str]] = {}

    def encode(self, operation: OperationSnapshot) -> str:
        """Return the document of an operation as JSON text."""
        info, worker = operation.root.info, operation.instance
        known = self._fixed.get(info.run)
        if known is None or known[0] is not info or known[1] != worker:
            known = (info, worker, _fixed(operation))
            if len(self._fixed) >= _LIKELY:
                self._fixed.clear()
            self._fixed[info.run] = known
        return f"{known[2]},{encode_text(_changing(operation))[1:]}"


def encode_text(document: object) -> str:
    """Return JSON text that every terminal and every encoder of UTF-8 takes, whatever names and messages hold."""
    try:
        text = codec.dumps(document)
    except ValueError:  # NaN, which another process may have written
        return as_json(document)
    return text if text.isascii() and "\x7f" not in text else as_json(document)


def _fixed(operation: OperationSnapshot) -> str:
    worker = operation.instance
    document: dict[str, Any] = {"schema": codec.SCHEMA, **codec.encode_info(operation.root.info)}
    names = ("id", "pid", "host", "service", "started_at", "start")
    document["worker"] = None if worker is None else {name: getattr(worker, name) for name in names}
    return encode_text(document)[:-1]


def _changing(operation: OperationSnapshot) -> dict[str, Any]:
    root, resources = operation.root, operation.resources
    document = _state(root)
    document["elapsed_seconds"] = root.elapsed(operation.clock)
    document["condition"] = operation.condition.value
    document["remaining_seconds"] = operation.remaining_seconds
    document["alive"] = operation.alive
    document["read_at"] = operation.read_at
    document["clock"] = operation.clock
    document["cancel_requested_at"] = operation.cancel_requested_at
    document["resources"] = None if resources is None else codec.encode_resources(resources)
    return document


def _state(root: Snapshot) -> dict[str, Any]:
    ratio, eta, metadata = root.ratio, root.eta, root.metadata
    return {
        "sequence": root.sequence,
        "current": root.current,
        "total": root.total,
        "ratio": ratio,
        "failed": root.failed,
        "skipped": root.skipped,
        "message": root.message,
        "stage": root.stage,
        "observed_at": root.observed_at,
        "observed_clock": root.observed_clock,
        "advanced_at": root.advanced_at,
        "advanced_clock": root.advanced_clock,
        "stall_after_s": root.stall_after_s,
        "ended_at": root.ended_at,
        "duration_s": root.duration_s,
        "estimated": root.estimated,
        "paused_clock": root.paused_clock,
        "paused_s": root.paused_s,
        "previews": root.previews,
        "overdue_after_s": root.overdue_after_s,
        "resumed_from": root.resumed_from,
        "status": root.status.value,
        "completed": root.completed,
        "percentage": None if ratio is None else 100.0 * ratio,
        "metadata": {key: list(value) if isinstance(value, tuple) else value for key, value in metadata.items()},
        "error": codec.encode_failure(root.error),
        "eta": None
        if eta is None
        else {
            "remaining_s": eta.remaining_s,
            "low_s": eta.low_s,
            "high_s": eta.high_s,
            "state": eta.state,
            "basis": eta.basis,
            "runs": eta.runs,
            "clock": eta.clock,
            "counts_down_s": eta.counts_down_s,
            "stalls_after_s": eta.stalls_after_s,
        },
    }
