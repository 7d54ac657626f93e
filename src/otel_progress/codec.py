"""The one JSON form of operations, levels and events: for the command line, exports, the journal and whoever reads them.

An operation is one object: the fields of its root level, what readers derive (``condition``, ``elapsed_seconds``,
``remaining_seconds``, ``percentage``), and ``levels``, a flat list, parents before children, each with its ``path``. Unknown is
``null``. ``*_at`` are Unix seconds, ``*_seconds`` durations, ``*_clock`` seconds on the worker's monotonic clock.
Decoding ignores keys it does not know, so newer writers can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from operator import attrgetter
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias, TypedDict

from otel_progress.model import (
    NO_METADATA,
    Eta,
    EtaBasis,
    EtaState,
    Failure,
    Instance,
    LevelInfo,
    LevelSnapshot,
    MetadataValue,
    Outcome,
    Status,
)
from otel_progress.operations import BatchSnapshot, Condition, Event, OperationSnapshot
from otel_progress.records import LogRecord, Preview, ResourceSample, ResourceUse

SCHEMA: Final = "otel-progress/1"
"""Name and version of the document, in its ``schema`` field; the version changes when a field changes its meaning."""


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


Document: TypeAlias = "dict[str, Any]"
"""A JSON object."""


Scalar: TypeAlias = str | bool | int | float


Metadata: TypeAlias = dict[str, Scalar | list[Scalar]]


UnixTime: TypeAlias = Annotated[float, "Unix seconds."]


Seconds: TypeAlias = Annotated[float, "Seconds."]


Clock: TypeAlias = Annotated[float, "Seconds on the worker's monotonic clock."]


Ratio: TypeAlias = Annotated[float, "0 to 1."]


SchemaName: TypeAlias = Annotated[Literal["otel-progress/1"], "Name and version of the documents."]


class FailureDocument(TypedDict):
    """Why something failed."""

    type: Annotated[str, "Class of the error."]
    message: str
    details: Annotated[str | None, "A traceback, where there is one."]


class EtaDocument(TypedDict):
    """An estimate of the remaining time, made at `clock`; `remaining_seconds` of the operation is what is left of it when it is read."""

    remaining_s: Annotated[Seconds | None, "Null while unknown, and while stalled."]
    low_s: Annotated[
        Seconds | None, "Lower end of the interval; null below three past runs. While stalled: at least this."
    ]
    high_s: Seconds | None
    state: EtaState
    basis: Annotated[EtaBasis, "What it mostly rests on."]
    runs: Annotated[int, "Past runs it rests on."]
    clock: Clock
    counts_down_s: Annotated[
        Seconds | None, "It counts down for so long without an advance, then holds; null: to 0."
    ]
    stalls_after_s: Annotated[
        Seconds | None, "Without an advance it is stalled so long after `clock`; null: never."
    ]


class LevelDocument(TypedDict):
    """One level of an operation. What is unknown is null."""

    operation_id: str
    operation_type: str
    run: Annotated[str, "Unique id of this execution; the same operation can run again."]
    path: Annotated[str, "`type:id` of each step down, joined by `/`; empty for the operation itself."]
    type: str
    id: str
    name: str
    unit: str | None
    weight: float
    declared: Annotated[bool, "Whether it is a stage that was announced up front."]
    attempt: int
    order: int
    started_at: UnixTime | None
    started_clock: Clock | None
    deadline_at: UnixTime | None
    trace_id: str | None
    span_id: str | None
    instance: Annotated[str, "Id of the process that works."]
    sequence: Annotated[int, "Grows with each change."]
    status: Status
    current: Annotated[float, "Units of work done, failed and skipped ones included."]
    total: float | None
    completed: Annotated[float, "Units that succeeded."]
    failed: int
    skipped: int
    ratio: Ratio | None
    percentage: float | None
    message: str | None
    stage: Annotated[str | None, "Id of the running stage."]
    observed_at: UnixTime
    observed_clock: Clock
    advanced_at: UnixTime | None
    advanced_clock: Clock | None
    stall_after_s: Seconds
    ended_at: UnixTime | None
    duration_s: Seconds | None
    estimated: Annotated[bool, "True where the ratio rests on an estimate, because an opaque step runs."]
    paused_clock: Annotated[Clock | None, "Since when the operation is paused; null when it is not."]
    paused_s: Annotated[Seconds, "Seconds of earlier pauses."]
    previews: Annotated[int, "Number of the last preview; 0 without any."]
    overdue_after_s: Annotated[
        Seconds | None, "Seconds of work that the first interval allowed for the whole run."
    ]
    resumed_from: Annotated[
        float, "Units of `current` that an earlier session had done: no part of the pace."
    ]
    elapsed_seconds: Seconds
    metadata: Metadata
    error: FailureDocument | None
    eta: EtaDocument | None


class SampleDocument(TypedDict):
    """What a process used at one moment."""

    at: UnixTime
    clock: Clock
    cpu_ratio: Annotated[float, "1 for one core that is busy."]
    memory_bytes: int
    gpu_ratio: Ratio | None
    gpu_memory_bytes: int | None


class ResourceUseDocument(TypedDict):
    """What a process used while an operation ran."""

    last: SampleDocument
    samples: int
    cpu_mean: float
    cpu_peak: float
    memory_mean: float
    memory_peak: int
    gpu_mean: Ratio | None
    gpu_peak: Ratio | None
    gpu_memory_peak: int | None


class WorkerDocument(TypedDict):
    """A process that works."""

    id: str
    pid: int
    host: str
    service: str
    started_at: UnixTime
    start: int | None


class OperationDocument(LevelDocument):
    """An operation without the levels below it."""

    schema: SchemaName
    batch: Annotated[str | None, "Id of its batch."]
    condition: Condition
    remaining_seconds: Seconds | None
    alive: bool
    read_at: UnixTime
    clock: Clock
    cancel_requested_at: UnixTime | None
    resources: ResourceUseDocument | None
    worker: WorkerDocument | None


class OperationTreeDocument(OperationDocument):
    """An operation with the levels kept below it, parents before children."""

    levels: list[LevelDocument]


class EventDocument(TypedDict):
    """Something that happened to a level."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    level_type: str
    kind: str
    number: Annotated[int, "Orders the events of a run."]
    at: UnixTime
    name: str | None
    outcome: Outcome | None
    error: FailureDocument | None
    metadata: Metadata


class LogDocument(TypedDict):
    """One record of the worker's logging."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: Annotated[int, "Orders the records of a run."]
    at: UnixTime
    severity: Annotated[int, "10 debug, 20 info, 30 warning, 40 error, 50 critical."]
    severity_text: str
    logger: str
    message: str
    details: str | None
    trace_id: str | None
    span_id: str | None
    attributes: Metadata


class PreviewDocument(TypedDict):
    """What work looked like half done."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: Annotated[
        int, "Orders the previews of a run, from 1; some in between may have made room for others."
    ]
    at: UnixTime
    name: str
    media_type: str
    size_bytes: int
    digest: Annotated[str, "SHA-256 of the content, in hexadecimal."]
    width: Annotated[int | None, "Pixels; null for texts."]
    height: int | None
    ratio: Annotated[Ratio | None, "How far the operation was."]


class CountsDocument(TypedDict):
    """Operations by status."""

    pending: int
    running: int
    completed: int
    failed: int
    cancelled: int
    skipped: int


class BatchSummaryDocument(TypedDict):
    """Many operations as one."""

    schema: SchemaName
    id: str
    name: str
    type: str
    total: int | None
    started_at: UnixTime
    ended_at: UnixTime | None
    read_at: UnixTime
    ratio: Ratio | None
    throughput: Annotated[float | None, "Operations ended a second, of late."]
    status: Status
    counts: CountsDocument
    finished: int
    percentage: float | None
    elapsed_seconds: Seconds
    remaining_seconds: Seconds | None


class BatchDocument(BatchSummaryDocument):
    """A batch with its active and failed operations, the newest first, at most 100 each."""

    active: list[OperationDocument]
    failed: list[OperationDocument]


def _field_names(record: Any, *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of a dataclass's fields in order, without some of them."""
    return tuple(field.name for field in fields(record) if field.name not in without)


def _optional_field_names(record: Any) -> tuple[str, ...]:
    """Return the names of a dataclass's fields that have a default."""
    return tuple(field.name for field in fields(record) if field.default is not MISSING)


# ``batch`` is in documents of operations only.
_INFO_FIELDS: Final = _field_names(LevelInfo, without=("batch",))


# The fields that are not here are converted, not copied.
_STATE_FIELDS: Final = _field_names(LevelSnapshot, without=("info", "status", "metadata", "error", "eta"))


# Documents of older writers do not have these.
_OPTIONAL_STATE_FIELDS: Final = _optional_field_names(LevelSnapshot)


_ETA_FIELDS: Final = _field_names(Eta)


_OPTIONAL_ETA_FIELDS: Final = _optional_field_names(Eta)


_LOG_FIELDS: Final = _field_names(LogRecord, without=("attributes",))


_PREVIEW_FIELDS: Final = _field_names(Preview, without=("location",))


_SAMPLE_FIELDS: Final = _field_names(ResourceSample)


_USE_FIELDS: Final = _field_names(ResourceUse, without=("last",))


_INSTANCE_FIELDS: Final = _field_names(Instance)


_BATCH_FIELDS: Final = _field_names(BatchSnapshot, without=("counts", "remaining_s", "active", "failed"))


_get_state_values: Final[Callable[[LevelSnapshot], tuple[Any, ...]]] = attrgetter(*_STATE_FIELDS)


_get_eta_values: Final[Callable[[Eta], tuple[Any, ...]]] = attrgetter(*_ETA_FIELDS)


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
        worker=None if operation.instance is None else encode_instance(operation.instance),
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
    return {
        **encode_info(snapshot.info),
        **encode_figures(snapshot),
        "elapsed_seconds": snapshot.elapsed(clock),
        **encode_details(snapshot),
    }


def encode_figures(snapshot: LevelSnapshot) -> Document:
    """Return the numbers and texts of a level's object that change, with its status."""
    document: Document = dict(zip(_STATE_FIELDS, _get_state_values(snapshot), strict=True))
    ratio = snapshot.ratio
    document["status"] = snapshot.status.value
    document["completed"] = snapshot.completed
    document["percentage"] = None if ratio is None else 100.0 * ratio
    return document


def encode_details(snapshot: LevelSnapshot) -> Document:
    """Return the parts of a level's object that change and are objects: metadata, error and estimate."""
    eta = snapshot.eta
    return {
        "metadata": _encode_attributes(snapshot.metadata),
        "error": encode_failure(snapshot.error),
        "eta": None if eta is None else dict(zip(_ETA_FIELDS, _get_eta_values(eta), strict=True)),
    }


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
        eta=None if eta is None else Eta(**_pick_known(eta, _ETA_FIELDS, _OPTIONAL_ETA_FIELDS)),
        **_pick_known(document, _STATE_FIELDS, _OPTIONAL_STATE_FIELDS),
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
        "metadata": _encode_attributes(event.metadata),
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
    document["attributes"] = _encode_attributes(record.attributes)
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


def encode_instance(instance: Instance) -> Document:
    """Return the object of a process that works."""
    return _pick(instance, _INSTANCE_FIELDS)


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


def _encode_attributes(attributes: Mapping[str, MetadataValue]) -> Document:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items()}


def _pick_known(document: Mapping[str, Any], names: tuple[str, ...], optional: tuple[str, ...]) -> Document:
    """Return the fields of a document. Raises KeyError where one is missing that is not optional."""
    return {name: document[name] for name in names if name in document or name not in optional}


def _pick(record: object, names: tuple[str, ...]) -> Document:
    return {name: getattr(record, name) for name in names}
