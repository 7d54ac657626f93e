"""What a progress event says: from a snapshot or a kept event to a log event with text and bounded attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from otel_progress import semconv, text
from otel_progress.model import Failure, LevelInfo, LevelSnapshot, MetadataValue, Number, Outcome, Status
from otel_progress.operations import Event
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import ChangeSet
from otel_progress.records import Preview

MAX_METADATA: Final = 32
"""Entries of the caller's metadata an event carries; those beyond are left out."""


MAX_BODY: Final = 256
"""Longest text of an event, in characters."""


_MAX_PATH: Final = 4096


_INT64: Final = 1 << 63


_WORDS: Final = {
    semconv.EVENT_STARTED: "started",
    semconv.EVENT_STALLED: "has not advanced for longer than expected",
}


def level_event(name: str, snapshot: LevelSnapshot, at: float) -> LogEvent:
    """Return the event ``name`` about a level as the snapshot has it."""
    info = snapshot.info
    # Metadata comes first and identity after it: where a limit on attributes is set, the SDK lets the oldest go.
    attributes = _metadata(snapshot.metadata)
    attributes.update(_identity(info))
    _put_number(attributes, semconv.CURRENT, snapshot.current)
    _put_number(attributes, semconv.TOTAL, snapshot.total)
    _put_number(attributes, semconv.RATIO, snapshot.ratio)
    _put_number(attributes, semconv.FAILED, snapshot.failed)
    _put_number(attributes, semconv.SEQUENCE, snapshot.sequence)
    attributes[semconv.STATUS] = snapshot.status.value
    if snapshot.estimated:
        attributes[semconv.ESTIMATED] = True
    if info.unit:
        attributes[semconv.UNIT] = text.truncate(info.unit, text.MAX_NAME)
    if snapshot.message:
        attributes[semconv.MESSAGE] = text.truncate(snapshot.message)
    _put_failure(attributes, snapshot.error)
    error = name == semconv.EVENT_FINISHED and snapshot.status is Status.FAILED
    return LogEvent(name, _body(name, snapshot), at, info.trace_id, info.span_id, attributes, error)


def item_event(event: Event, info: LevelInfo | None) -> LogEvent:
    """Return a kept event (an item); ``info`` is of the level it happened in, when that is known."""
    attributes = _metadata(event.metadata)
    if info is not None:
        attributes.update(_identity(info))
    else:
        attributes[semconv.OPERATION_ID] = text.normalize_id(event.operation_id)
        attributes[semconv.OPERATION_TYPE] = text.normalize_id(event.operation_type)
        attributes[semconv.LEVEL_TYPE] = text.normalize_id(event.level_type)
        attributes[semconv.PATH] = text.truncate(event.path, _MAX_PATH)
    if event.name is not None:
        attributes[semconv.ITEM_NAME] = text.truncate(event.name, text.MAX_NAME)
    if event.outcome is not None:
        attributes[semconv.ITEM_OUTCOME] = event.outcome.value
    _put_failure(attributes, event.error)
    words = [event.name or event.kind, "" if event.outcome is None else event.outcome.value]
    if event.error is not None:
        words.append(f"({event.error.type}: {event.error.message})")
    body = _text(" ".join(word for word in words if word))
    trace_id, span_id = (None, None) if info is None else (info.trace_id, info.span_id)
    return LogEvent(
        event.kind, body, event.at, trace_id, span_id, attributes, event.outcome is Outcome.FAILED
    )


def preview_event(preview: Preview, info: LevelInfo | None, address: str) -> LogEvent:
    """Return the event of a stored preview; ``info`` is of its level, when that is known, ``address`` where it can be looked at."""
    attributes: dict[str, MetadataValue] = {}
    if info is not None:
        attributes.update(_identity(info))
    else:
        attributes[semconv.OPERATION_ID] = text.normalize_id(preview.operation_id)
        attributes[semconv.OPERATION_TYPE] = text.normalize_id(preview.operation_type)
        attributes[semconv.PATH] = text.truncate(preview.path, _MAX_PATH)
    attributes[semconv.PREVIEW_NAME] = text.truncate(preview.name, text.MAX_NAME)
    attributes[semconv.PREVIEW_NUMBER] = preview.number
    attributes[semconv.PREVIEW_MEDIA_TYPE] = preview.media_type
    if address:
        attributes[semconv.PREVIEW_URL] = address
    _put_number(attributes, semconv.RATIO, preview.ratio)
    body = _text(
        f"preview {preview.number} {preview.name}"
        + (f": {address}" if len(address) <= MAX_BODY // 2 and address else "")
    )
    trace_id, span_id = (None, None) if info is None else (info.trace_id, info.span_id)
    return LogEvent(semconv.EVENT_PREVIEW, body, preview.at, trace_id, span_id, attributes)


def heartbeat(batch: ChangeSet, running: int) -> LogEvent:
    """Return the sign of life of the instance of a batch, of which ``running`` operations run."""
    body = f"{_text(batch.instance.service, 64)} is alive, operations running: {running}"
    attributes: dict[str, MetadataValue] = {semconv.SERVICE_INSTANCE_ID: text.normalize_id(batch.instance.id)}
    return LogEvent(semconv.EVENT_HEARTBEAT, body, batch.at, None, None, attributes)


def _identity(info: LevelInfo) -> dict[str, MetadataValue]:
    attributes: dict[str, MetadataValue] = {
        semconv.OPERATION_ID: text.normalize_id(info.operation_id),
        semconv.OPERATION_TYPE: text.normalize_id(info.operation_type),
    }
    if info.path:
        attributes[semconv.LEVEL_ID] = text.normalize_id(info.id)
        attributes[semconv.LEVEL_TYPE] = text.normalize_id(info.type)
        attributes[semconv.LEVEL_NAME] = text.truncate(info.name, text.MAX_NAME)
    else:
        attributes[semconv.OPERATION_NAME] = text.truncate(info.name, text.MAX_NAME)
    attributes[semconv.PATH] = text.truncate(info.path, _MAX_PATH)
    attributes[semconv.DEPTH] = info.depth
    if info.attempt > 1:
        attributes[semconv.ATTEMPT] = info.attempt
    return attributes


def _metadata(metadata: Mapping[str, MetadataValue]) -> dict[str, MetadataValue]:
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


def _put_failure(attributes: dict[str, MetadataValue], failure: Failure | None) -> None:
    if failure is not None:
        attributes[semconv.ERROR_TYPE] = text.truncate(failure.type, text.MAX_NAME)
        attributes[semconv.EXCEPTION_MESSAGE] = text.truncate(failure.message)


def _put_number(attributes: dict[str, MetadataValue], name: str, value: Number | None) -> None:
    """Set a number that OTLP can carry: integers of 64 bits, finite floats; a larger integer becomes a float."""
    if value is None:
        return
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            try:
                value = float(value)
            except OverflowError:
                return
    elif not math.isfinite(value):
        return
    attributes[name] = value


def _body(name: str, snapshot: LevelSnapshot) -> str:
    info = snapshot.info
    what = _text(f"{info.type} {info.name}", 128)
    if name == semconv.EVENT_UPDATED:
        return _text(f"{what}: {_progress(snapshot)}" + (f", {snapshot.message}" if snapshot.message else ""))
    if name == semconv.EVENT_FINISHED:
        took = "" if snapshot.duration_s is None else f" after {snapshot.duration_s:.3f} s"
        why = snapshot.error.message if snapshot.error is not None else snapshot.message
        return _text(f"{what} {snapshot.status.value}{took}" + (f": {why}" if why else ""))
    return _text(f"{what} {_WORDS.get(name, name)}")


def _progress(snapshot: LevelSnapshot) -> str:
    done = f"{snapshot.current:g}" if isinstance(snapshot.current, float) else str(snapshot.current)
    of = "" if snapshot.total is None else f" of {snapshot.total}"
    unit = "" if not snapshot.info.unit else f" {snapshot.info.unit}"
    percent = (
        ""
        if snapshot.ratio is None
        else f" ({'~' if snapshot.estimated else ''}{100.0 * snapshot.ratio:.0f} %)"
    )
    return f"{done}{of}{unit}{percent}"


def _text(value: str, limit: int = MAX_BODY) -> str:
    return text.truncate(text.escape_controls(text.truncate(value, limit)), limit)
