"""Names of attributes, events and metrics, and values of labels.

No other module has such literals.

Names follow the OpenTelemetry naming rules (dots between namespaces, singular, lower case). The
Prometheus name of a metric is its OpenTelemetry name with underscores instead of dots. Unit ``s``
adds ``_seconds``, and counters add ``_total``. Ratios end in ``ratio`` in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

# --- span and event attributes --------------------------------------------------------------------

OPERATION_ID: Final = "progress.operation.id"
"""Identifier of the operation, from the caller or generated. string"""


OPERATION_TYPE: Final = "progress.operation.type"
"""Kind of work, with low cardinality. string"""


OPERATION_NAME: Final = "progress.operation.name"
"""Display name of the operation. string"""


LEVEL_ID: Final = "progress.level.id"
"""Identifier of a level among its siblings of the same type. string"""


LEVEL_TYPE: Final = "progress.level.type"
"""Kind of level (song, file, epoch, stage), with low cardinality. Also the span's name. string"""


LEVEL_NAME: Final = "progress.level.name"
"""Display name of the level. string"""


PATH: Final = "progress.path"
"""Place in the tree: ``type:id`` segments joined by ``/``, empty for the operation. string"""


DEPTH: Final = "progress.depth"
"""Number of segments of the path, 0 for the operation. int"""


ATTEMPT: Final = "progress.attempt"
"""Number of times this level was started, written from the second time on. int"""


CURRENT: Final = "progress.current"
"""Units of work done, including failed and skipped ones. int or double"""


TOTAL: Final = "progress.total"
"""Units of work in all, absent while unknown. int or double"""


UNIT: Final = "progress.unit"
"""Name of one unit (file, byte, step). string"""


RATIO: Final = "progress.ratio"
"""Fraction done from 0 to 1, including children and stages, absent while unknown. double"""


FAILED: Final = "progress.failed"
"""Failures in the level and in all levels below it. int"""


STATUS: Final = "progress.status"
"""pending, running, completed, failed, cancelled or skipped. string"""


MESSAGE: Final = "progress.message"
"""Current activity, or the reason of the end. string"""


SEQUENCE: Final = "progress.sequence"
"""Number of the snapshot with these values. It increases within a run. int"""


RUN: Final = "progress.run"
"""Unique id of this execution of the operation, on events, log records and segment spans. string"""


SEGMENT: Final = "progress.segment"
"""Number of a span of a level that continues in several spans, from 1. Absent with one span. On
links, the number of the linked span. int
"""


BATCH_ID: Final = "progress.batch.id"
"""Batch of the operation, on its events. string"""


PARENT: Final = "progress.parent"
"""Level of another process that the operation is part of, on its events. string"""


START_TIME: Final = "progress.start_time"
"""Start of the level in Unix seconds, on events. double"""


DEADLINE: Final = "progress.deadline"
"""Deadline of the operation in Unix seconds, on its events. Absent without one. double"""


STALL_AFTER: Final = "progress.stall_after"
"""Seconds without an advance after which the operation is stalled, on its events. double"""


SKIPPED: Final = "progress.skipped"
"""Skipped units of the level, on events. Absent without any. int"""


FAILED_BELOW: Final = "progress.failed_below"
"""Part of progress.failed that is in units of levels below, on events. Absent without any. int"""


RESUMED_FROM: Final = "progress.resumed_from"
"""Units that an earlier session finished, on events. Absent without any. int or double"""


LEVEL_WEIGHT: Final = "progress.level.weight"
"""Weight of the level in the ratio of its parent, on events. Absent if it is 1. double"""


LEVEL_ORDER: Final = "progress.level.order"
"""Position of the level among its siblings, on events. int"""


LEVEL_DECLARED: Final = "progress.level.declared"
"""True for a stage that was declared in advance, on events. Else absent. boolean"""


CURRENT_STAGE: Final = "progress.stage"
"""Id of the running stage of the level, on events. Absent without one. string"""


PAUSE_START_TIME: Final = "progress.pause.start_time"
"""Start of the current pause in Unix seconds, on events of the operation. Absent without one.
double
"""


PAUSE_DURATION: Final = "progress.pause.duration"
"""Seconds of the ended pauses since the start, on events. Absent without any. double"""


ERROR_TYPE: Final = "error.type"
"""Class of the error (standard attribute). string"""


METADATA_PREFIX: Final = "progress.metadata."
"""Prefix of metadata of the caller."""


ESTIMATED: Final = "progress.estimated"
"""True while an opaque step runs, because the ratio is then an estimate. Else absent. boolean"""


ENDED_EARLY: Final = "progress.ended_early"
"""True when a level completed below its total. Else absent. boolean"""


ETA_ERROR_FIRST: Final = "progress.eta.error.first"
"""Error of the first predicted end, as a fraction of the duration, on ended spans. double"""


ETA_ERROR_MIDDLE: Final = "progress.eta.error.middle"
"""Error of the end predicted at half of the duration. double"""


ETA_ERROR_LAST: Final = "progress.eta.error.last"
"""Error of the last predicted end. double"""


PREVIEW_NAME: Final = "progress.preview.name"
"""Name of a preview, on preview events. string"""


PREVIEW_NUMBER: Final = "progress.preview.number"
"""Number of a preview in its run, from 1, on preview events. int"""


PREVIEW_MEDIA_TYPE: Final = "progress.preview.media_type"
"""Media type of a preview, on preview events. string"""


PREVIEW_URL: Final = "progress.preview.url"
"""URL of a preview, if the address of a server is known, on preview events. string"""


ITEM_NAME: Final = "progress.item.name"
"""Name of one unit of work, on item events. string"""


ITEM_OUTCOME: Final = "progress.item.outcome"
"""completed, failed or skipped, on item events. string"""


STAGE: Final = "stage"
"""Value of progress.level.type for stages, and of progress.unit if the units are stages."""


# --- standard attributes --------------------------------------------------------------------------

SERVICE_NAME: Final = "service.name"
"""Resource attribute: name of the instrumented service. string"""


SERVICE_INSTANCE_ID: Final = "service.instance.id"
"""Resource attribute: the instrumented process. string"""


EXCEPTION_TYPE: Final = "exception.type"
"""Class name of an error, on exception events of spans. string"""


EXCEPTION_MESSAGE: Final = "exception.message"
"""Message of an error, on item events. string"""


EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
"""Traceback of an error, on spans and log records. string"""


LEGACY_EVENT_NAME: Final = "event.name"
"""Name of an event, from senders that predate the field for it. string"""


# --- events ---------------------------------------------------------------------------------------

EVENT_STARTED: Final = "progress.started"
"""A level started."""


EVENT_UPDATED: Final = "progress.updated"
"""A level advanced. Spans have this event after each quarter of the work."""


EVENT_ITEM: Final = "progress.item"
"""A unit of work ended, with its outcome."""


EVENT_FINISHED: Final = "progress.finished"
"""A level ended, with any status."""


EVENT_HEARTBEAT: Final = "progress.heartbeat"
"""The instrumented process is alive."""


EVENT_STALLED: Final = "progress.stalled"
"""A running operation has not advanced for longer than expected."""


EVENT_PREVIEW: Final = "progress.preview"
"""A preview was stored."""


EVENTS: Final = (
    EVENT_STARTED,
    EVENT_UPDATED,
    EVENT_ITEM,
    EVENT_FINISHED,
    EVENT_HEARTBEAT,
    EVENT_STALLED,
    EVENT_PREVIEW,
)


ATTRIBUTES: Final = (
    OPERATION_ID,
    OPERATION_TYPE,
    OPERATION_NAME,
    LEVEL_ID,
    LEVEL_TYPE,
    LEVEL_NAME,
    PATH,
    DEPTH,
    ATTEMPT,
    CURRENT,
    TOTAL,
    UNIT,
    RATIO,
    FAILED,
    STATUS,
    MESSAGE,
    SEQUENCE,
    RUN,
    SEGMENT,
    BATCH_ID,
    PARENT,
    START_TIME,
    DEADLINE,
    STALL_AFTER,
    SKIPPED,
    FAILED_BELOW,
    RESUMED_FROM,
    LEVEL_WEIGHT,
    LEVEL_ORDER,
    LEVEL_DECLARED,
    CURRENT_STAGE,
    PAUSE_START_TIME,
    PAUSE_DURATION,
    ERROR_TYPE,
    ESTIMATED,
    ENDED_EARLY,
    ETA_ERROR_FIRST,
    ETA_ERROR_MIDDLE,
    ETA_ERROR_LAST,
    PREVIEW_NAME,
    PREVIEW_NUMBER,
    PREVIEW_MEDIA_TYPE,
    PREVIEW_URL,
    ITEM_NAME,
    ITEM_OUTCOME,
)


# --- values of labels -----------------------------------------------------------------------------

SinkName: TypeAlias = Literal[
    "console",
    "events",
    "journal",
    "logs",
    "otlp",
    "otlp.logs",
    "otlp.metrics",
    "otlp.traces",
    "platforms",
    "platforms.argo",
    "platforms.github",
    "platforms.health_check",
    "platforms.kubeflow",
    "platforms.systemd",
    "platforms.taskbar",
    "prometheus",
]
"""Name of a sink: label ``sink`` of ``progress.sink.errors``."""


InternalErrorPlace: TypeAlias = Literal[
    "callback",
    "console",
    "eta",
    "fork",
    "gpu",
    "history",
    "integration",
    "journal",
    "logs",
    "metrics",
    "otlp.logs",
    "otlp.metrics",
    "otlp.traces",
    "platforms",
    "previews",
    "processor",
    "receiver",
    "redaction",
    "resources",
    "server",
    "shutdown",
    "signals",
    "span",
    "start",
    "tick",
    "ticker",
]
"""Component in which an internal error occurred: label ``sink`` of ``progress.sink.errors``.
Internal errors of a sink have the place that :func:`get_sink_place` returns.
"""


def get_sink_place(name: SinkName) -> InternalErrorPlace:
    """Return the place of internal errors of a sink."""
    return cast("InternalErrorPlace", f"sink {name}")


RejectionReason: TypeAlias = Literal[
    "batch",
    "beyond_total",
    "checkpoint",
    "duplicate_id",
    "ended",
    "eta_key",
    "expected",
    "id",
    "metadata",
    "negative",
    "not_finite",
    "other_process",
    "outcome",
    "resume",
    "stage",
    "stages",
    "type",
    "waiting",
]
"""Why a value was rejected: label ``reason`` of ``progress.updates.rejected``."""


DropReason: TypeAlias = Literal["callback", "completed_key", "event"]
"""What was dropped outside of sinks: label ``reason`` of ``progress.events.dropped``. Drops of a
sink have its name.
"""


PreviewOutcome: TypeAlias = Literal["stored", "unchanged", "dropped", "refused", "failed"]
"""Outcome of a preview: label ``outcome`` of ``progress.previews``."""


IntervalOutcome: TypeAlias = Literal["covered", "missed"]
"""Whether a prediction interval contained the end: label of ``progress.eta.intervals``."""


SeriesGroup: TypeAlias = Literal["operation", "level", "batch"]
"""Kind of series: label ``metric_group`` of the ``progress.series`` metrics."""


Transport: TypeAlias = Literal["sse", "ws"]
"""Transport of a stream client: label ``transport`` of the ``progress.server`` metrics."""


ReceivedSignal: TypeAlias = Literal["logs", "traces"]
"""Signal of received records: label ``signal`` of ``progress.receiver.records``."""


RecordOutcome: TypeAlias = Literal["accepted", "rejected", "dropped"]
"""Whether a received record was used: label ``outcome`` of ``progress.receiver.records``. A dropped
log record waited for its operation until a limit was reached.
"""


RefusalReason: TypeAlias = Literal[
    "attempts",
    "body",
    "busy",
    "clients",
    "closing",
    "connections",
    "forgery",
    "framing",
    "head",
    "host",
    "levels",
    "message",
    "origin",
    "slow",
    "timeout",
    "token",
    "url",
]
"""Why the server refused a request or client: label ``reason`` of ``progress.server.refused``."""


# --- metrics --------------------------------------------------------------------------------------


# Why eq=False: each metric exists once, and a scrape hashes metrics thousands of times.
@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A metric: OpenTelemetry and Prometheus name, kind, unit (UCUM), labels, help."""

    name: str
    prometheus: str
    kind: Literal["gauge", "counter", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str


_OPERATION: Final = ("operation_id", "operation_type")


_BATCH: Final = ("batch_id", "batch_type")


_SUFFIXES: Final = {"1": "", "s": "_seconds", "By": "_bytes"}


_LEVEL: Final = ("operation_id", "operation_type", "level")


def _define_gauge(name: str, labels: tuple[str, ...], text: str, unit: str = "1") -> Metric:
    return Metric(name, name.replace(".", "_") + _SUFFIXES[unit], "gauge", unit, labels, text)


def _define_counter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, name.replace(".", "_") + "_total", "counter", "1", labels, text)


def _define_histogram(name: str, labels: tuple[str, ...], text: str, unit: str = "1") -> Metric:
    suffix = "_seconds" if unit == "s" else ""
    return Metric(name, name.replace(".", "_") + suffix, "histogram", unit, labels, text)


OPERATION_INFO: Final = _define_gauge(
    "progress.operation.info",
    ("operation_id", "operation_type", "name", "trace_id", "preview_url"),
    "Constant 1, with labels that describe an operation.",
)


OPERATION_STATUS: Final = _define_gauge(
    "progress.operation.status",
    ("operation_id", "operation_type", "status"),
    "1 for the current status of an operation, 0 for the others.",
)


OPERATION_CONDITION: Final = _define_gauge(
    "progress.operation.condition",
    ("operation_id", "operation_type", "condition"),
    "1 for the current condition of a running operation, 0 for the others.",
)


OPERATION_ESTIMATED: Final = _define_gauge(
    "progress.operation.estimated",
    _OPERATION,
    "1 while an opaque step runs, because the ratio is then an estimate. Else 0.",
)


OPERATION_ENDED_EARLY: Final = _define_gauge(
    "progress.operation.ended_early",
    _OPERATION,
    "1 if the operation completed below its total. Else 0.",
)


OPERATION_RATIO: Final = _define_gauge(
    "progress.operation.ratio", _OPERATION, "Fraction of the operation done, 0 to 1. Absent while unknown."
)


OPERATION_CURRENT: Final = _define_gauge(
    "progress.operation.current", _OPERATION, "Units of work done by the operation."
)


OPERATION_TARGET: Final = _define_gauge(
    "progress.operation.target", _OPERATION, "Units of work of the operation in all. Absent while unknown."
)


OPERATION_FAILED: Final = _define_gauge(
    "progress.operation.failed", _OPERATION, "Failures in the operation and all its levels."
)


OPERATION_START: Final = _define_gauge(
    "progress.operation.start_timestamp", _OPERATION, "Start of the operation, Unix time.", "s"
)


OPERATION_LAST_ADVANCE: Final = _define_gauge(
    "progress.operation.last_advance_timestamp",
    _OPERATION,
    "Last advance of the operation, Unix time.",
    "s",
)


OPERATION_NOT_REPORTING: Final = _define_gauge(
    "progress.operation.not_reporting_since_timestamp",
    _OPERATION,
    "Last report of an operation without heartbeats that has not reported for long, Unix time. Else absent.",
    "s",
)


OPERATION_EXPECTED_END: Final = _define_gauge(
    "progress.operation.expected_end_timestamp",
    _OPERATION,
    "Expected end of the operation, Unix time. Absent while unknown.",
    "s",
)


OPERATION_EXPECTED_END_LOWER: Final = _define_gauge(
    "progress.operation.expected_end_lower_timestamp",
    _OPERATION,
    "Lower bound of the expected end, Unix time. Absent while unknown.",
    "s",
)


OPERATION_EXPECTED_END_UPPER: Final = _define_gauge(
    "progress.operation.expected_end_upper_timestamp",
    _OPERATION,
    "Upper bound of the expected end, Unix time. Absent while unknown.",
    "s",
)


OPERATION_DEADLINE: Final = _define_gauge(
    "progress.operation.deadline_timestamp", _OPERATION, "Deadline of the operation, Unix time.", "s"
)


OPERATION_REMAINING: Final = _define_gauge(
    "progress.operation.remaining",
    _OPERATION,
    "Estimated remaining time of the operation. Absent while unknown.",
    "s",
)


LEVEL_RATIO: Final = _define_gauge(
    "progress.level.ratio", _LEVEL, "Fraction of the level done, 0 to 1. Absent while unknown."
)


LEVEL_CURRENT: Final = _define_gauge("progress.level.current", _LEVEL, "Units of work done by the level.")


LEVEL_TARGET: Final = _define_gauge(
    "progress.level.target", _LEVEL, "Units of work of the level in all. Absent while unknown."
)


LEVEL_ESTIMATED: Final = _define_gauge(
    "progress.level.estimated",
    _LEVEL,
    "1 while the ratio of a running level is an estimate. Else absent.",
)


LEVEL_STATUS: Final = _define_gauge(
    "progress.level.status",
    (*_LEVEL, "status"),
    "1 for the current status of a level. Other statuses are absent.",
)


OPERATIONS: Final = _define_gauge(
    "progress.operations",
    ("operation_type", "status", "condition"),
    "Current number of operations by status and condition.",
)


OPERATIONS_FINISHED: Final = _define_counter(
    "progress.operations.finished", ("operation_type", "status"), "Operations that ended, by status."
)


OPERATION_DURATION: Final = _define_histogram(
    "progress.operation.duration", ("operation_type", "status"), "Duration of ended operations.", "s"
)


ITEMS: Final = _define_counter(
    "progress.items",
    ("operation_type", "level_type", "outcome"),
    "Units of work done in levels of a type, by outcome.",
)


OPERATION_CPU: Final = _define_gauge(
    "progress.operation.cpu_ratio",
    _OPERATION,
    "Processor use of the operation's process. 1 is one busy core.",
)


OPERATION_MEMORY: Final = _define_gauge(
    "progress.operation.memory", _OPERATION, "Resident memory of the operation's process.", "By"
)


OPERATION_GPU: Final = _define_gauge(
    "progress.operation.gpu_ratio",
    _OPERATION,
    "GPU use of the operation's process, 0 to 1. Absent without NVIDIA's library.",
)


OPERATION_GPU_MEMORY: Final = _define_gauge(
    "progress.operation.gpu_memory",
    _OPERATION,
    "GPU memory of the operation's process. Absent without NVIDIA's library.",
    "By",
)


BATCH_INFO: Final = _define_gauge(
    "progress.batch.info",
    ("batch_id", "batch_type", "name"),
    "Constant 1, with labels that describe a batch.",
)


BATCH_RATIO: Final = _define_gauge(
    "progress.batch.ratio", _BATCH, "Fraction of the batch done, 0 to 1. Absent while unknown."
)


BATCH_TARGET: Final = _define_gauge(
    "progress.batch.target", _BATCH, "Operations of the batch in all. Absent while unknown."
)


BATCH_OPERATIONS: Final = _define_gauge(
    "progress.batch.operations", (*_BATCH, "status"), "Operations of the batch by status."
)


BATCH_REMAINING: Final = _define_gauge(
    "progress.batch.remaining",
    _BATCH,
    "Remaining time of the batch at its recent rate. Absent while unknown.",
    "s",
)


ETA_ERROR: Final = _define_histogram(
    "progress.eta.error_ratio",
    ("operation_type",),
    "Difference between predicted and actual remaining time, as a fraction of the duration.",
)


ETA_INTERVALS: Final = _define_counter(
    "progress.eta.intervals",
    ("operation_type", "outcome"),
    "Prediction intervals of completed operations, by whether they contained the end: covered or missed.",
)


PREVIEWS: Final = _define_counter(
    "progress.previews",
    ("outcome",),
    "Previews by outcome: stored, unchanged, dropped (busy), refused or failed.",
)


SERIES_SHOWN: Final = _define_gauge(
    "progress.series.shown",
    ("metric_group",),
    "Operations, levels and batches in the last scrape or export.",
)


SERIES_LIMIT: Final = _define_gauge(
    "progress.series.limit",
    ("metric_group",),
    "Maximum number of operations, levels and batches in a scrape or export.",
)


JOURNAL_SIZE: Final = _define_gauge(
    "progress.journal.size",
    (),
    "Size of the journal's files, including its write-ahead log. Absent without a file.",
    "By",
)


SERIES_DROPPED: Final = _define_counter(
    "progress.series.dropped",
    ("metric_group",),
    "Operations, levels and batches left out of scrapes and exports because a limit was reached.",
)


UPDATES_REJECTED: Final = _define_counter(
    "progress.updates.rejected", ("reason",), "Invalid values that were ignored."
)


SINK_ERRORS: Final = _define_counter(
    "progress.sink.errors",
    ("sink",),
    "Internal errors of telemetry by sink or component. They never reach instrumented code.",
)


EVENTS_DROPPED: Final = _define_counter(
    "progress.events.dropped",
    ("reason",),
    "Events, snapshots or callbacks dropped because a limit was reached.",
)


TICK_DURATION: Final = _define_histogram(
    "progress.tick.duration", (), "Duration of a tick of the collector thread.", "s"
)


SERVER_CLIENTS: Final = _define_gauge(
    "progress.server.clients", ("transport",), "Clients connected to the streams."
)


SERVER_MESSAGES: Final = _define_counter(
    "progress.server.messages", ("transport",), "Messages sent to clients of the streams."
)


SERVER_COALESCED: Final = _define_counter(
    "progress.server.coalesced",
    ("transport",),
    "Snapshots that were not sent because a newer one of the operation existed.",
)


SERVER_REFUSED: Final = _define_counter(
    "progress.server.refused",
    ("reason",),
    "Requests, connections and messages that the server refused, and clients that it disconnected.",
)


RECEIVER_RECORDS: Final = _define_counter(
    "progress.receiver.records",
    ("signal", "outcome"),
    "Events and log records of operations (logs) and spans (traces) received over OTLP, by outcome: "
    "accepted, rejected or dropped.",
)


METRICS: Final[tuple[Metric, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""All metrics in the order of their definition."""
