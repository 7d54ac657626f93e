"""JSON codec of operations, levels, events and records.

An operation is one object: the fields of its root level, derived fields (``condition``,
``elapsed_seconds``, ``remaining_seconds``, ``percentage``), and ``levels``. That is a flat list,
parents before children, each with its ``path``. Unknown values are ``null``. ``*_at`` are Unix
seconds, ``*_seconds`` durations, ``*_clock`` seconds on the monotonic clock of the process.
Decoding ignores unknown keys, so that documents of newer versions can be read.

The TypedDicts declare the documents. The server generates its API schemas from them: a docstring or
a text in ``Annotated`` is a description there. Field lists come from the dataclasses of the
records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias, TypedDict

from otel_progress.model import (
    NO_LEVELS,
    NO_METADATA,
    Eta,
    EtaBasis,
    EtaState,
    Failure,
    Instance,
    LevelCounts,
    LevelInfo,
    LevelSnapshot,
    MetadataValue,
    Outcome,
    ParentLink,
    Status,
    adjust_ratio,
)
from otel_progress.operations import BatchSnapshot, Condition, Event, OperationSnapshot
from otel_progress.records import LogRecord, Preview, ResourceSample, ResourceUse
from otel_progress.text import pluralize

SCHEMA: Final = "otel-progress/1"
"""Name and version of the documents, in the field ``schema``. The version changes when a field
changes its meaning.
"""


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


Document: TypeAlias = "dict[str, Any]"
"""JSON object."""


Scalar: TypeAlias = str | bool | int | float


Metadata: TypeAlias = dict[str, Scalar | list[Scalar]]


UnixTime: TypeAlias = Annotated[float, "Unix seconds."]


Seconds: TypeAlias = Annotated[float, "Seconds."]


Clock: TypeAlias = Annotated[float, "Seconds on the monotonic clock of the process."]


Ratio: TypeAlias = Annotated[float, "0 to 1."]


SchemaName: TypeAlias = Annotated[Literal["otel-progress/1"], "Name and version of the documents."]


class FailureDocument(TypedDict):
    """Error of a level or an item."""

    type: Annotated[str, "Class name of the error."]
    message: str
    details: Annotated[str | None, "Traceback, if any."]


class EtaDocument(TypedDict):
    """Estimate of the remaining time, computed at `clock`.

    `remaining_seconds` of the operation is its value at the time of the read.
    """

    remaining_s: Annotated[Seconds | None, "Null while unknown and while stalled."]
    low_s: Annotated[
        Seconds | None, "Lower bound. Null with fewer than three past runs. While stalled, the only bound."
    ]
    high_s: Seconds | None
    state: EtaState
    basis: Annotated[EtaBasis, "Main input of the estimate."]
    runs: Annotated[int, "Number of past runs used."]
    clock: Clock
    counts_down_s: Annotated[
        Seconds | None, "Time for which the estimate counts down without an advance. Null: to 0."
    ]
    stalls_after_s: Annotated[
        Seconds | None, "Time after `clock` at which the estimate is stalled without an advance. Null: never."
    ]


NumbersByStatus: TypeAlias = dict[Literal["completed", "failed", "cancelled", "skipped", "ended_early"], int]


EvictedLevels: TypeAlias = Annotated[
    NumbersByStatus,
    "Ended levels directly below that are not stored any more, by status, without zeros. "
    "`ended_early` are those of `completed` that completed below their total.",
]


class LevelDocument(TypedDict):
    """One level of an operation. Unknown values are null."""

    operation_id: str
    operation_type: str
    run: Annotated[str, "Unique id of this execution. The same operation can run again."]
    path: Annotated[str, "`type:id` segments joined by `/`. Empty for the operation itself."]
    type: str
    id: str
    name: str
    unit: str | None
    unit_plural: Annotated[str | None, "Unit for counts other than 1. Null without a unit."]
    weight: float
    declared: Annotated[bool, "True for a stage that was declared in advance."]
    attempt: int
    order: int
    started_at: UnixTime | None
    started_clock: Clock | None
    deadline_at: UnixTime | None
    trace_id: str | None
    span_id: str | None
    instance: Annotated[str, "Id of the process."]
    sequence: Annotated[int, "Increases with each change."]
    status: Status
    current: Annotated[float, "Finished units of work, including failed and skipped ones."]
    total: float | None
    completed: Annotated[float, "Units that succeeded."]
    failed: Annotated[int, "Failures in the level and in all levels below it, each once."]
    failed_below: Annotated[int, "Part of `failed` that is not in `current`, because it is in levels below."]
    skipped: int
    ended_early: Annotated[bool, "True when the level completed below its total."]
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
    estimated: Annotated[bool, "True when the ratio depends on an estimate, because an opaque step runs."]
    paused_clock: Annotated[Clock | None, "Start of the current pause. Null without one."]
    paused_s: Annotated[Seconds, "Seconds of ended pauses."]
    previews: Annotated[int, "Number of the last preview. 0 without previews."]
    overdue_after_s: Annotated[
        Seconds | None, "Longest expected duration without pauses, from the first interval."
    ]
    resumed_from: Annotated[
        float, "Units of `current` that an earlier session finished. They do not count for the rate."
    ]
    superseded_by: Annotated[str | None, "Run that has continued this one. Null without one."]
    ended_levels: Annotated[
        NumbersByStatus, "All ended levels directly below, by status, without zeros. Includes evicted ones."
    ]
    elapsed_seconds: Seconds
    metadata: Metadata
    error: FailureDocument | None
    eta: EtaDocument | None


class TreeLevelDocument(LevelDocument):
    """One level of an operation that was read with its levels."""

    evicted_levels: EvictedLevels


class SampleDocument(TypedDict):
    """Resource usage of a process at one moment."""

    at: UnixTime
    clock: Clock
    cpu_ratio: Annotated[float, "1 means one busy core."]
    memory_bytes: int
    gpu_ratio: Ratio | None
    gpu_memory_bytes: int | None


class ResourceUseDocument(TypedDict):
    """Resource usage of a process while an operation ran."""

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
    """Instrumented process."""

    id: str
    pid: int
    host: str
    service: str
    started_at: UnixTime
    start: int | None


class ParentDocument(TypedDict):
    """Level of another process that an operation is part of."""

    operation_id: str
    run: str
    path: Annotated[str, "Path of the level, empty for its operation."]


class OperationDocument(LevelDocument):
    """Operation without the levels below it."""

    schema: SchemaName
    batch: Annotated[str | None, "Id of the batch."]
    parent: Annotated[ParentDocument | None, "Level of another process that started the operation."]
    condition: Condition
    remaining_seconds: Seconds | None
    alive: bool
    read_at: UnixTime
    clock: Clock
    cancel_requested_at: UnixTime | None
    not_reporting_since: Annotated[
        UnixTime | None,
        "Last report of a process without heartbeats that has not reported for longer than usual.",
    ]
    resources: ResourceUseDocument | None
    worker: WorkerDocument | None


class OperationTreeDocument(OperationDocument):
    """Operation with the stored levels below it, parents before children."""

    evicted_levels: EvictedLevels
    levels: list[TreeLevelDocument]


class EventDocument(TypedDict):
    """Event of a level."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    level_type: str
    kind: str
    number: Annotated[int, "Position of the event in its run."]
    at: UnixTime
    name: str | None
    outcome: Outcome | None
    error: FailureDocument | None
    metadata: Metadata


class LogDocument(TypedDict):
    """Log record of the process."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: Annotated[int, "Position of the record in its run."]
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
    """Preview of the unfinished work of an operation."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: Annotated[int, "Position of the preview in its run, from 1. Some numbers may be evicted."]
    at: UnixTime
    name: str
    media_type: str
    size_bytes: int
    digest: Annotated[str, "SHA-256 of the content, in hexadecimal."]
    width: Annotated[int | None, "Pixels. Null for texts."]
    height: int | None
    ratio: Annotated[Ratio | None, "Ratio of the operation at that time."]


class CountsDocument(TypedDict):
    """Number of operations per status."""

    pending: int
    running: int
    completed: int
    failed: int
    cancelled: int
    skipped: int


class BatchSummaryDocument(TypedDict):
    """Summary of the operations of a batch."""

    schema: SchemaName
    id: str
    name: str
    type: str
    total: int | None
    started_at: UnixTime
    ended_at: UnixTime | None
    read_at: UnixTime
    ratio: Ratio | None
    throughput: Annotated[float | None, "Recently ended operations per second."]
    status: Status
    counts: CountsDocument
    finished: int
    percentage: float | None
    elapsed_seconds: Seconds
    remaining_seconds: Seconds | None
    abandoned: Annotated[int, "Running operations whose process has exited."]


class BatchDocument(BatchSummaryDocument):
    """Batch with its active and failed operations, the newest first, at most 100 each."""

    active: list[OperationDocument]
    failed: list[OperationDocument]


def _field_names(record: Any, *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the field names of a dataclass in order, except some."""
    return tuple(field.name for field in fields(record) if field.name not in without)


def _optional_field_names(record: Any) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass that have a default."""
    return tuple(field.name for field in fields(record) if field.default is not MISSING)


# Only documents of operations have ``batch`` and ``parent``. No document has ``is_id_given``.
_INFO_FIELDS: Final = _field_names(LevelInfo, without=("batch", "parent", "is_id_given"))


# Documents of older versions do not have these.
_OPTIONAL_INFO_FIELDS: Final = _optional_field_names(LevelInfo)


# The excluded fields are converted, not copied.
_STATE_FIELDS: Final = _field_names(
    LevelSnapshot, without=("info", "status", "metadata", "error", "eta", "ended_levels", "counts_children")
)


# Documents of older versions do not have these.
_OPTIONAL_STATE_FIELDS: Final = _optional_field_names(LevelSnapshot)


_ETA_FIELDS: Final = _field_names(Eta)


_OPTIONAL_ETA_FIELDS: Final = _optional_field_names(Eta)


_LOG_FIELDS: Final = _field_names(LogRecord, without=("attributes",))


_PREVIEW_FIELDS: Final = _field_names(Preview, without=("location",))


_SAMPLE_FIELDS: Final = _field_names(ResourceSample)


_USE_FIELDS: Final = _field_names(ResourceUse, without=("last",))


_INSTANCE_FIELDS: Final = _field_names(Instance)


_BATCH_FIELDS: Final = _field_names(
    BatchSnapshot, without=("counts", "remaining_s", "active", "failed", "abandoned")
)


def _compile_picker(names: Sequence[str]) -> Callable[[object], Document]:
    """Return a function that copies attributes to a dict, as fast as a literal."""
    items = ", ".join(f"{name!r}: record.{name}" for name in names)
    scope: dict[str, Callable[[object], Document]] = {}
    exec(f"def pick(record): return {{{items}}}", scope)
    return scope["pick"]


_pick_state: Final = _compile_picker(_STATE_FIELDS)


_pick_eta: Final = _compile_picker(_ETA_FIELDS)


_MIN_STALL_AFTER_S: Final = 60.0


def dumps(document: object) -> str:
    """Return compact JSON.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    return _encode(document)


def encode_operation(operation: OperationSnapshot, *, levels: bool = True) -> Document:
    """Return the document of an operation, with its levels by default."""
    document: Document = {"schema": SCHEMA, **encode_level(operation.root, operation.clock)}
    document.update(encode_state(operation))
    document["worker"] = None if operation.instance is None else encode_instance(operation.instance)
    if levels:
        root, *below = encode_levels(operation, (operation.root, *operation.levels))
        document["evicted_levels"] = root["evicted_levels"]
        document["levels"] = below
    return document


def encode_state(operation: OperationSnapshot) -> Document:
    """Return the changing fields of an operation that its root does not have."""
    return {
        "condition": operation.condition.value,
        "remaining_seconds": operation.remaining_seconds,
        "alive": operation.alive,
        "read_at": operation.read_at,
        "clock": operation.clock,
        "cancel_requested_at": operation.cancel_requested_at,
        "not_reporting_since": operation.not_reporting_since,
        "resources": None if operation.resources is None else encode_resources(operation.resources),
    }


def decode_operation(document: Mapping[str, Any]) -> OperationSnapshot:
    """Return the operation of a document.

    Raises KeyError, TypeError or ValueError for other documents.
    """
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
        not_reporting_since=document.get("not_reporting_since"),
    )


def encode_level(snapshot: LevelSnapshot, clock: float) -> Document:
    """Return the object of one level at ``clock``."""
    return {
        **encode_info(snapshot.info),
        **encode_figures(snapshot),
        "elapsed_seconds": snapshot.elapsed(clock),
        **encode_details(snapshot),
    }


def encode_levels(operation: OperationSnapshot, levels: Iterable[LevelSnapshot]) -> list[Document]:
    """Return the objects of some levels of an operation.

    The operation was read with all its levels.
    """
    evicted = operation.count_evicted_levels()
    return [
        {
            **encode_level(level, operation.clock),
            "evicted_levels": encode_level_counts(evicted.get(level.path, NO_LEVELS)),
        }
        for level in levels
    ]


def encode_level_counts(counts: LevelCounts) -> Document:
    """Return the object of the numbers of levels by status, without zeros."""
    return {} if counts is NO_LEVELS else {key: value for key, value in counts._asdict().items() if value}


def decode_level_counts(document: Mapping[str, Any] | None) -> LevelCounts:
    """Return the numbers of levels of an object.

    Raises TypeError or ValueError unless they are integers of at least 0.
    """
    if not document:
        return NO_LEVELS
    counts = LevelCounts(**_pick_known(document, LevelCounts._fields, LevelCounts._fields))
    return check_level_counts(counts)


def check_level_counts(counts: LevelCounts) -> LevelCounts:
    """Return the counts.

    Raises TypeError or ValueError unless they are integers of at least 0.
    """
    if {type(count) for count in counts} != {int}:
        raise TypeError(counts)
    if min(counts) < 0:
        raise ValueError(counts)
    return counts


def encode_figures(snapshot: LevelSnapshot) -> Document:
    """Return the status, numbers and texts of a level that change."""
    document = _pick_state(snapshot)
    ratio = snapshot.ratio
    document["status"] = snapshot.status.value
    document["completed"] = snapshot.completed
    document["ended_early"] = snapshot.ended_early
    document["percentage"] = None if ratio is None else 100.0 * ratio
    document["ended_levels"] = encode_level_counts(snapshot.ended_levels)
    return document


def encode_details(snapshot: LevelSnapshot) -> Document:
    """Return the objects of a level that change: metadata, error and estimate."""
    eta = snapshot.eta
    return {
        "metadata": _encode_attributes(snapshot.metadata),
        "error": encode_failure(snapshot.error),
        "eta": None if eta is None else _pick_eta(eta),
    }


def decode_level(document: Mapping[str, Any]) -> LevelSnapshot:
    """Return the snapshot of a level's object, also of an older version."""
    eta = document.get("eta")
    if "stall_after_s" not in document and "longest_gap_s" in document:
        document = {**document, "stall_after_s": max(_MIN_STALL_AFTER_S, 3.0 * document["longest_gap_s"])}
    status = Status(document["status"])
    state = _pick_known(document, _STATE_FIELDS, _OPTIONAL_STATE_FIELDS)
    state["ratio"] = adjust_ratio(status, state["current"], state["total"], state["ratio"])
    return LevelSnapshot(
        info=decode_info(document),
        status=status,
        metadata=decode_metadata(document.get("metadata")),
        error=decode_failure(document.get("error")),
        eta=None if eta is None else Eta(**_pick_known(eta, _ETA_FIELDS, _OPTIONAL_ETA_FIELDS)),
        ended_levels=decode_level_counts(document.get("ended_levels")),
        **state,
    )


def encode_info(info: LevelInfo) -> Document:
    """Return the object of the unchanging part of a level."""
    document = _pick(info, _INFO_FIELDS)
    if not info.path:
        document["batch"] = info.batch
        document["parent"] = None if info.parent is None else info.parent._asdict()
    return document


def decode_info(document: Mapping[str, Any]) -> LevelInfo:
    """Return the unchanging part of a level from its object."""
    known = _pick_known(document, _INFO_FIELDS, _OPTIONAL_INFO_FIELDS)
    if "unit_plural" not in document and isinstance(known["unit"], str):
        known["unit_plural"] = pluralize(known["unit"])
    return LevelInfo(**known, batch=document.get("batch"), parent=decode_parent_link(document.get("parent")))


def decode_parent_link(document: Mapping[str, Any] | None) -> ParentLink | None:
    """Return the parent of an operation from its object.

    Raises KeyError or TypeError if a value is missing or is not a text.
    """
    if document is None:
        return None
    link = ParentLink(document["operation_id"], document["run"], document["path"])
    if {type(value) for value in link} != {str}:
        raise TypeError(link)
    return link


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
    """Return the object of one preview, without the location of its content."""
    return _pick(preview, _PREVIEW_FIELDS)


def decode_preview(document: Mapping[str, Any]) -> Preview:
    """Return the preview of an object.

    ``url``, if any, becomes the location of its content.
    """
    return Preview(**{name: document[name] for name in _PREVIEW_FIELDS}, location=document.get("url") or "")


def encode_sample(sample: ResourceSample) -> Document:
    """Return the object of a sample of resource usage."""
    return _pick(sample, _SAMPLE_FIELDS)


def decode_sample(document: Mapping[str, Any]) -> ResourceSample:
    """Return the sample of an object."""
    return ResourceSample(**{name: document[name] for name in _SAMPLE_FIELDS})


def encode_resources(use: ResourceUse) -> Document:
    """Return the object of the resource usage of an operation."""
    return {"last": encode_sample(use.last), **_pick(use, _USE_FIELDS)}


def decode_resources(document: Mapping[str, Any]) -> ResourceUse:
    """Return the resource usage of an operation from its object."""
    return ResourceUse(decode_sample(document["last"]), **{name: document[name] for name in _USE_FIELDS})


def encode_instance(instance: Instance) -> Document:
    """Return the object of an instrumented process."""
    return _pick(instance, _INSTANCE_FIELDS)


def encode_batch(batch: BatchSnapshot, *, operations: bool = True) -> Document:
    """Return the document of a batch, by default with active and failed operations."""
    document: Document = {
        "schema": SCHEMA,
        **_pick(batch, _BATCH_FIELDS),
        "status": batch.status.value,
        "counts": {status.value: batch.counts[status] for status in Status},
        "finished": batch.finished_count,
        "percentage": None if batch.ratio is None else 100.0 * batch.ratio,
        "elapsed_seconds": batch.elapsed_seconds,
        "remaining_seconds": batch.remaining_s,
        "abandoned": batch.abandoned,
    }
    if operations:
        document["active"] = [encode_operation(operation, levels=False) for operation in batch.active]
        document["failed"] = [encode_operation(operation, levels=False) for operation in batch.failed]
    return document


def encode_failure(failure: Failure | None) -> Document | None:
    """Return the object of an error."""
    if failure is None:
        return None
    return {"type": failure.type, "message": failure.message, "details": failure.details}


def decode_failure(document: Mapping[str, Any] | None) -> Failure | None:
    """Return the error of an object."""
    return (
        None if document is None else Failure(document["type"], document["message"], document.get("details"))
    )


def encode_metadata(metadata: Mapping[str, MetadataValue]) -> str | None:
    """Return metadata as JSON text for a journal column. None for empty metadata."""
    return dumps(dict(metadata)) if metadata else None


def decode_metadata(document: Mapping[str, Any] | None) -> Mapping[str, MetadataValue]:
    """Return metadata from an object. Lists become tuples."""
    if not document:
        return NO_METADATA
    return MappingProxyType(
        {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
    )


def finite(value: float | None) -> float | None:
    """Return ``value``, or None for NaN and infinities.

    JSON and gauges do not allow them.
    """
    return value if value is None or math.isfinite(value) else None


def _encode_attributes(attributes: Mapping[str, MetadataValue]) -> Document:
    if not attributes:
        return {}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items()}


def _pick_known(document: Mapping[str, Any], names: tuple[str, ...], optional: tuple[str, ...]) -> Document:
    """Return the known fields of a document.

    Raises KeyError when a required field is missing.
    """
    return {name: document[name] for name in names if name in document or name not in optional}


def _pick(record: object, names: tuple[str, ...]) -> Document:
    return {name: getattr(record, name) for name in names}
