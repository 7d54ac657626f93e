"""Conversion of snapshots, items and previews to log events of bounded size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from otel_progress import semconv, text
from otel_progress.model import Failure, LevelInfo, LevelSnapshot, MetadataValue, Number, Outcome, Status
from otel_progress.operations import Event
from otel_progress.otlp.sdk_compat import INT64_LIMIT, MAX_PATH, LogEvent
from otel_progress.propagation.parent_link import format_parent_link
from otel_progress.protocols import ChangeSet
from otel_progress.records import Preview

MAX_METADATA: Final = 32
"""Maximum number of metadata entries of the caller per event. Further entries are dropped."""


MAX_BODY: Final = 256
"""Maximum length of the text of an event, in characters."""


_VERBS: Final = {
    semconv.EVENT_STARTED: "started",
    semconv.EVENT_STALLED: "has not advanced for longer than expected",
}


def build_level_event(name: str, snapshot: LevelSnapshot, at: float) -> LogEvent:
    """Return the event ``name`` about a level, from a snapshot of it."""
    info = snapshot.info
    # Why metadata first: if the number of attributes is limited, the SDK drops the oldest.
    attributes = _build_metadata(snapshot.metadata)
    attributes.update(_build_identity(info))
    _put_number(attributes, semconv.CURRENT, snapshot.current)
    _put_number(attributes, semconv.TOTAL, snapshot.total)
    _put_number(attributes, semconv.RATIO, snapshot.ratio)
    _put_number(attributes, semconv.FAILED, snapshot.failed)
    _put_number(attributes, semconv.SEQUENCE, snapshot.sequence)
    _put_number(attributes, semconv.START_TIME, info.started_at)
    if not info.path:
        _put_number(attributes, semconv.DEADLINE, info.deadline_at)
        _put_number(attributes, semconv.STALL_AFTER, snapshot.stall_after_s)
    if snapshot.skipped:
        _put_number(attributes, semconv.SKIPPED, snapshot.skipped)
    attributes[semconv.STATUS] = snapshot.status.value
    if snapshot.failed_below:
        _put_number(attributes, semconv.FAILED_BELOW, snapshot.failed_below)
    if snapshot.resumed_from:
        _put_number(attributes, semconv.RESUMED_FROM, snapshot.resumed_from)
    if snapshot.stage is not None:
        attributes[semconv.CURRENT_STAGE] = text.normalize_id(snapshot.stage)
    _put_pauses(attributes, snapshot)
    if snapshot.estimated:
        attributes[semconv.ESTIMATED] = True
    if snapshot.ended_early:
        attributes[semconv.ENDED_EARLY] = True
    if info.unit:
        attributes[semconv.UNIT] = text.truncate(info.unit, text.MAX_NAME)
    if snapshot.message:
        attributes[semconv.MESSAGE] = text.truncate(snapshot.message)
    _put_failure(attributes, snapshot.error)
    error = name == semconv.EVENT_FINISHED and snapshot.status is Status.FAILED
    return LogEvent(name, _build_body(name, snapshot), at, info.trace_id, info.span_id, attributes, error)


def build_item_event(event: Event, info: LevelInfo | None) -> LogEvent:
    """Return the event of an item. ``info`` describes its level, if it is known."""
    attributes = _build_metadata(event.metadata)
    if info is not None:
        attributes.update(_build_identity(info))
    else:
        attributes[semconv.OPERATION_ID] = text.normalize_id(event.operation_id)
        attributes[semconv.OPERATION_TYPE] = text.normalize_id(event.operation_type)
        attributes[semconv.RUN] = event.run
        attributes[semconv.LEVEL_TYPE] = text.normalize_id(event.level_type)
        attributes[semconv.PATH] = text.truncate(event.path, MAX_PATH)
    if event.name is not None:
        attributes[semconv.ITEM_NAME] = text.truncate(event.name, text.MAX_NAME)
    if event.outcome is not None:
        attributes[semconv.ITEM_OUTCOME] = event.outcome.value
    _put_failure(attributes, event.error)
    words = [event.name or event.kind, "" if event.outcome is None else event.outcome.value]
    if event.error is not None:
        words.append(f"({event.error.type}: {event.error.message})")
    body = _to_text(" ".join(word for word in words if word))
    trace_id, span_id = (None, None) if info is None else (info.trace_id, info.span_id)
    return LogEvent(
        event.kind, body, event.at, trace_id, span_id, attributes, event.outcome is Outcome.FAILED
    )


def build_preview_event(preview: Preview, info: LevelInfo | None, address: str) -> LogEvent:
    """Return the event of a stored preview.

    ``info`` describes its level, if it is known. ``address`` is the URL of the preview, or empty.
    """
    attributes: dict[str, MetadataValue] = {}
    if info is not None:
        attributes.update(_build_identity(info))
    else:
        attributes[semconv.OPERATION_ID] = text.normalize_id(preview.operation_id)
        attributes[semconv.OPERATION_TYPE] = text.normalize_id(preview.operation_type)
        attributes[semconv.RUN] = preview.run
        attributes[semconv.PATH] = text.truncate(preview.path, MAX_PATH)
    attributes[semconv.PREVIEW_NAME] = text.truncate(preview.name, text.MAX_NAME)
    attributes[semconv.PREVIEW_NUMBER] = preview.number
    attributes[semconv.PREVIEW_MEDIA_TYPE] = preview.media_type
    if address:
        attributes[semconv.PREVIEW_URL] = address
    _put_number(attributes, semconv.RATIO, preview.ratio)
    body = _to_text(
        f"preview {preview.number} {preview.name}"
        + (f": {address}" if len(address) <= MAX_BODY // 2 and address else "")
    )
    trace_id, span_id = (None, None) if info is None else (info.trace_id, info.span_id)
    return LogEvent(semconv.EVENT_PREVIEW, body, preview.at, trace_id, span_id, attributes)


def build_heartbeat(change_set: ChangeSet, running: int) -> LogEvent:
    """Return the heartbeat of an instance with its number of running operations."""
    instance = change_set.instance
    body = f"{_to_text(instance.service, 64)} is alive, operations running: {running}"
    attributes: dict[str, MetadataValue] = {semconv.SERVICE_INSTANCE_ID: text.normalize_id(instance.id)}
    return LogEvent(semconv.EVENT_HEARTBEAT, body, change_set.at, None, None, attributes)


def _build_identity(info: LevelInfo) -> dict[str, MetadataValue]:
    attributes: dict[str, MetadataValue] = {
        semconv.OPERATION_ID: text.normalize_id(info.operation_id),
        semconv.OPERATION_TYPE: text.normalize_id(info.operation_type),
        semconv.RUN: info.run,
    }
    if info.path:
        attributes[semconv.LEVEL_ID] = text.normalize_id(info.id)
        attributes[semconv.LEVEL_TYPE] = text.normalize_id(info.type)
        attributes[semconv.LEVEL_NAME] = text.truncate(info.name, text.MAX_NAME)
        attributes[semconv.LEVEL_ORDER] = info.order
        if info.weight != 1:
            _put_number(attributes, semconv.LEVEL_WEIGHT, info.weight)
        if info.declared:
            attributes[semconv.LEVEL_DECLARED] = True
    else:
        attributes[semconv.OPERATION_NAME] = text.truncate(info.name, text.MAX_NAME)
        if info.batch is not None:
            attributes[semconv.BATCH_ID] = text.normalize_id(info.batch)
        if info.parent is not None:
            attributes[semconv.PARENT] = format_parent_link(info.parent)
    attributes[semconv.PATH] = text.truncate(info.path, MAX_PATH)
    attributes[semconv.DEPTH] = info.depth
    if info.attempt > 1:
        attributes[semconv.ATTEMPT] = info.attempt
    return attributes


def _build_metadata(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
    attributes: dict[str, MetadataValue] = {}
    for key, value in list(metadata.items())[:MAX_METADATA]:
        name = semconv.METADATA_PREFIX + text.truncate(key, text.MAX_NAME)
        if isinstance(value, str):
            attributes[name] = text.truncate(value)
        elif isinstance(value, (bool, tuple)):
            attributes[name] = value
        else:
            _put_number(attributes, name, value)
    return attributes


def _put_pauses(attributes: dict[str, MetadataValue], snapshot: LevelSnapshot) -> None:
    """Set the start of the current pause, and the seconds of ended pauses."""
    if snapshot.paused_clock is not None and not snapshot.status.finished:
        paused_s = max(0.0, snapshot.observed_clock - snapshot.paused_clock)
        _put_number(attributes, semconv.PAUSE_START_TIME, snapshot.observed_at - paused_s)
    if snapshot.paused_s > 0.0:
        _put_number(attributes, semconv.PAUSE_DURATION, snapshot.paused_s)


def _put_failure(attributes: dict[str, MetadataValue], failure: Failure | None) -> None:
    if failure is not None:
        attributes[semconv.ERROR_TYPE] = text.truncate(failure.type, text.MAX_NAME)
        attributes[semconv.EXCEPTION_MESSAGE] = text.truncate(failure.message)


def _put_number(attributes: dict[str, MetadataValue], name: str, value: Number | None) -> None:
    """Set a number that OTLP supports: a finite float or an integer of 64 bits.

    A larger integer is converted to a float.
    """
    if value is None:
        return
    if isinstance(value, int):
        if not -INT64_LIMIT <= value < INT64_LIMIT:
            try:
                value = float(value)
            except OverflowError:
                return
    elif not math.isfinite(value):
        return
    attributes[name] = value


def _build_body(name: str, snapshot: LevelSnapshot) -> str:
    info = snapshot.info
    subject = _to_text(text.join_title(info.type, info.name), 128)
    if name == semconv.EVENT_UPDATED:
        message = f", {snapshot.message}" if snapshot.message else ""
        return _to_text(f"{subject}: {_describe_progress(snapshot)}{message}")
    if name == semconv.EVENT_FINISHED:
        duration = "" if snapshot.duration_s is None else f" after {snapshot.duration_s:.3f} s"
        reason = snapshot.error.message if snapshot.error is not None else snapshot.message
        status = snapshot.status.value
        if snapshot.ended_early:
            status = f"ended early at {_describe_progress(snapshot)}"
        return _to_text(f"{subject} {status}{duration}" + (f": {reason}" if reason else ""))
    return _to_text(f"{subject} {_VERBS.get(name, name)}")


def _describe_progress(snapshot: LevelSnapshot) -> str:
    current = f"{snapshot.current:g}" if isinstance(snapshot.current, float) else str(snapshot.current)
    total = "" if snapshot.total is None else f" of {snapshot.total}"
    amount = snapshot.current if snapshot.total is None else snapshot.total
    form = snapshot.info.unit if amount == 1 else snapshot.info.unit_plural or snapshot.info.unit
    unit = "" if not form else f" {form}"
    percent = ""
    if snapshot.ratio is not None:
        percent = f" ({'~' if snapshot.estimated else ''}{100.0 * snapshot.ratio:.0f} %)"
    return f"{current}{total}{unit}{percent}"


def _to_text(value: str, limit: int = MAX_BODY) -> str:
    return text.truncate(text.escape_controls(text.truncate(value, limit)), limit)
