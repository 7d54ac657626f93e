"""The one JSON form of operations, levels and events: for the command line, exports, the journal and whoever reads them.

An operation is one object: the fields of its root level, what readers derive (``condition``, ``elapsed_seconds``,
``remaining_seconds``, ``percentage``), and ``levels``, a flat list, parents before children, each with its ``path``. Unknown is
``null``. ``*_at`` are Unix seconds, ``*_seconds`` durations, ``*_clock`` seconds on the worker's monotonic clock.
Decoding ignores keys it does not know, so newer writers can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from otel_progress.model import (
    NO_METADATA,
    Eta,
    Failure,
    Instance,
    LevelInfo,
    LevelSnapshot,
    MetadataValue,
    Outcome,
    Status,
)
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.records import LogRecord, Preview, ResourceSample, ResourceUse

SCHEMA: Final = "otel-progress/1"
"""Name and version of the document, in its ``schema`` field; the version changes when a field changes its meaning."""


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


Document: TypeAlias = "dict[str, Any]"
"""A JSON object."""


_INFO_FIELDS: Final = (
    "operation_id",
    "operation_type",
    "run",
    "path",
    "type",
    "id",
    "name",
    "unit",
    "weight",
    "declared",
    "attempt",
    "order",
    "started_at",
    "started_clock",
    "deadline_at",
    "trace_id",
    "span_id",
    "instance",
)


_STATE_FIELDS: Final = (
    "sequence",
    "current",
    "total",
    "ratio",
    "failed",
    "skipped",
    "message",
    "stage",
    "observed_at",
    "observed_clock",
    "advanced_at",
    "advanced_clock",
    "stall_after_s",
    "ended_at",
    "duration_s",
)


_LATER_FIELDS: Final = (
    "estimated",
    "paused_clock",
    "paused_s",
    "previews",
    "overdue_after_s",
    "resumed_from",
)
"""Fields of a level that documents of older writers do not have."""


_ALL_STATE_FIELDS: Final = (*_STATE_FIELDS, *_LATER_FIELDS)


_ETA_FIELDS: Final = ("remaining_s", "low_s", "high_s", "state", "basis", "runs", "clock")


_LATER_ETA_FIELDS: Final = ("counts_down_s", "stalls_after_s")


_ALL_ETA_FIELDS: Final = (*_ETA_FIELDS, *_LATER_ETA_FIELDS)


_LOG_FIELDS: Final = (
    "operation_id",
    "operation_type",
    "run",
    "path",
    "number",
    "at",
    "severity",
    "severity_text",
    "logger",
    "message",
    "details",
    "trace_id",
    "span_id",
)


_PREVIEW_FIELDS: Final = (
    "operation_id",
    "operation_type",
    "run",
    "path",
    "number",
    "at",
    "name",
    "media_type",
    "size_bytes",
    "digest",
    "width",
    "height",
    "ratio",
)


_SAMPLE_FIELDS: Final = ("at", "clock", "cpu_ratio", "memory_bytes", "gpu_ratio", "gpu_memory_bytes")


_USE_FIELDS: Final = (
    "samples",
    "cpu_mean",
    "cpu_peak",
    "memory_mean",
    "memory_peak",
    "gpu_mean",
    "gpu_peak",
    "gpu_memory_peak",
)


_BATCH_FIELDS: Final = (
    "id",
    "name",
    "type",
    "total",
    "started_at",
    "ended_at",
    "read_at",
    "ratio",
    "throughput",
)


_INSTANCE_FIELDS: Final = ("id", "pid", "host", "service", "started_at", "start")


def dumps(document: object) -> str:
    """Return compact JSON; never ``NaN`` or ``Infinity``, which JSON does not have."""
    return _encode(document)


def encode_operation(operation: OperationSnapshot, *, levels: bool = True) -> Document:
    """Return the document of an operation, with its levels unless told otherwise."""
    document: Document = {"schema": SCHEMA, **encode_level(operation.root, operation.clock)}
    document.update(
        condition=operation.condition.value,
        remaining_seconds=operation.remaining_seconds,
        alive=operation.alive,
        read_at=operation.read_at,
        clock=operation.clock,
        cancel_requested_at=operation.cancel_requested_at,
        resources=None if operation.resources is None else encode_resources(operation.resources),
        worker=None if operation.instance is None else _pick(operation.instance, _INSTANCE_FIELDS),
    )
    if levels:
        document["levels"] = [encode_level(level, operation.clock) for level in operation.levels]
    return document


def decode_operation(document: Mapping[str, Any]) -> OperationSnapshot:
    """Return the operation of a document. Raises KeyError, TypeError or ValueError when it is not one."""
    worker, resources = document.get("worker"), document.get("resources")
    return OperationSnapshot(
        root=decode_level(document),
        levels=tuple(decode_level(level) for level in document.get("levels", ())),
        read_at=document["read_at"],
        clock=document["clock"],
        instance=None
        if worker is None
        else Instance(**{name: worker.get(name) for name in _INSTANCE_FIELDS}),
        alive=document["alive"],
        resources=None if resources is None else decode_resources(resources),
        cancel_requested_at=document.get("cancel_requested_at"),
    )


def encode_level(snapshot: LevelSnapshot, clock: float) -> Document:
    """Return the object of one level as seen at ``clock``."""
    document = encode_info(snapshot.info)
    document.update(_pick(snapshot, _ALL_STATE_FIELDS))
    ratio = snapshot.ratio
    document.update(
        status=snapshot.status.value,
        completed=snapshot.completed,
        percentage=None if ratio is None else 100.0 * ratio,
        elapsed_seconds=snapshot.elapsed(clock),
        metadata={
            key: list(value) if isinstance(value, tuple) else value
            for key, value in snapshot.metadata.items()
        },
        error=encode_failure(snapshot.error),
        eta=None if snapshot.eta is None else _pick(snapshot.eta, _ALL_ETA_FIELDS),
    )
    return document


def decode_level(document: Mapping[str, Any]) -> LevelSnapshot:
    """Return the snapshot of a level's object, also of one that an older writer made."""
    eta = document.get("eta")
    if "stall_after_s" not in document and "longest_gap_s" in document:
        document = {**document, "stall_after_s": max(60.0, 3.0 * document["longest_gap_s"])}
    return LevelSnapshot(
        info=decode_info(document),
        status=Status(document["status"]),
        metadata=decode_metadata(document.get("metadata")),
        error=decode_failure(document.get("error")),
        eta=None if eta is None else Eta(**_take(eta, _ETA_FIELDS, _LATER_ETA_FIELDS)),
        **_take(document, _STATE_FIELDS, _LATER_FIELDS),
    )


def encode_info(info: LevelInfo) -> Document:
    """Return the unchanging part of a level as an object."""
    document = _pick(info, _INFO_FIELDS)
    if not info.path:
        document["batch"] = info.batch
    return document


def decode_info(document: Mapping[str, Any]) -> LevelInfo:
    """Return the unchanging part of a level's object."""
    return LevelInfo(**{name: document[name] for name in _INFO_FIELDS}, batch=document.get("batch"))


def encode_event(event: Event) -> Document:
    """Return the object of one event."""
    return {
        "operation_id": event.operation_id,
        "operation_type": event.operation_type,
        "run": event.run,
        "path": event.path,
        "level_type": event.level_type,
        "kind": event.kind,
        "number": event.number,
        "at": event.at,
        "name": event.name,
        "outcome": None if event.outcome is None else event.outcome.value,
        "error": encode_failure(event.error),
        "metadata": {
            key: list(value) if isinstance(value, tuple) else value for key, value in event.metadata.items()
        },
    }


def decode_event(document: Mapping[str, Any]) -> Event:
    """Return the event of an object."""
    outcome = document.get("outcome")
    return Event(
        operation_id=document["operation_id"],
        operation_type=document["operation_type"],
        run=document["run"],
        path=document["path"],
        level_type=document["level_type"],
        kind=document["kind"],
        number=document["number"],
        at=document["at"],
        name=document.get("name"),
        outcome=None if outcome is None else Outcome(outcome),
        error=decode_failure(document.get("error")),
        metadata=decode_metadata(document.get("metadata")),
    )


def encode_log(record: LogRecord) -> Document:
    """Return the object of one log record."""
    document = _pick(record, _LOG_FIELDS)
    document["attributes"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in record.attributes.items()
    }
    return document


def decode_log(document: Mapping[str, Any]) -> LogRecord:
    """Return the log record of an object."""
    fields = {name: document[name] for name in _LOG_FIELDS}
    return LogRecord(**fields, attributes=decode_metadata(document.get("attributes")))


def encode_preview(preview: Preview) -> Document:
    """Return the object of one preview, without the place of its content."""
    return _pick(preview, _PREVIEW_FIELDS)


def decode_preview(document: Mapping[str, Any]) -> Preview:
    """Return the preview of an object; where its content is, is the ``url`` it can be fetched from, empty when there is none."""
    return Preview(**{name: document[name] for name in _PREVIEW_FIELDS}, location=document.get("url") or "")


def encode_sample(sample: ResourceSample) -> Document:
    """Return the object of one look at what a process uses."""
    return _pick(sample, _SAMPLE_FIELDS)


def decode_sample(document: Mapping[str, Any]) -> ResourceSample:
    """Return the sample of an object."""
    return ResourceSample(**{name: document[name] for name in _SAMPLE_FIELDS})


def encode_resources(use: ResourceUse) -> Document:
    """Return the object of what an operation's process used."""
    return {"last": encode_sample(use.last), **_pick(use, _USE_FIELDS)}


def decode_resources(document: Mapping[str, Any]) -> ResourceUse:
    """Return what an operation's process used from an object."""
    return ResourceUse(decode_sample(document["last"]), **{name: document[name] for name in _USE_FIELDS})


def encode_batch(batch: BatchSnapshot, *, operations: bool = True) -> Document:
    """Return the document of a batch, with its active and failed operations unless told otherwise."""
    document: Document = {
        "schema": SCHEMA,
        **_pick(batch, _BATCH_FIELDS),
        "status": batch.status.value,
        "counts": {status.value: batch.counts[status] for status in Status},
        "finished": batch.finished_count,
        "percentage": None if batch.ratio is None else 100.0 * batch.ratio,
        "elapsed_seconds": batch.elapsed_seconds,
        "remaining_seconds": batch.remaining_s,
    }
    if operations:
        document["active"] = [encode_operation(operation, levels=False) for operation in batch.active]
        document["failed"] = [encode_operation(operation, levels=False) for operation in batch.failed]
    return document


def encode_failure(failure: Failure | None) -> Document | None:
    """Return an error as an object."""
    if failure is None:
        return None
    return {"type": failure.type, "message": failure.message, "details": failure.details}


def decode_failure(document: Mapping[str, Any] | None) -> Failure | None:
    """Return the error of an object."""
    return (
        None if document is None else Failure(document["type"], document["message"], document.get("details"))
    )


def encode_metadata(metadata: Mapping[str, MetadataValue]) -> str | None:
    """Return metadata as JSON text, None when there is none: what a journal keeps beside a level's columns."""
    return dumps(dict(metadata)) if metadata else None


def decode_metadata(document: Mapping[str, Any] | None) -> Mapping[str, MetadataValue]:
    """Return metadata from an object; lists become tuples."""
    if not document:
        return NO_METADATA
    return MappingProxyType(
        {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
    )


def finite(value: float | None) -> float | None:
    """Return ``value`` unless it is NaN or infinite, which no JSON document and no gauge may carry."""
    return value if value is None or math.isfinite(value) else None


def _take(document: Mapping[str, Any], names: tuple[str, ...], later: tuple[str, ...]) -> Document:
    """Return the fields of a document: ``names``, which have to be there, and ``later`` ones as far as they are."""
    return {
        **{name: document[name] for name in names},
        **{name: document[name] for name in later if name in document},
    }


def _pick(record: object, names: tuple[str, ...]) -> Document:
    return {name: getattr(record, name) for name in names}
