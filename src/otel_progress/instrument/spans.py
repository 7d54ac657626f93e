"""The span of a level: its name, its attributes at the start, and all final values written before it ends.

Needs opentelemetry-api only. Nothing here lets an exception of a tracer, sampler or processor reach the caller.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from otel_progress import redaction, semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.backend import span_start_guard
from otel_progress.live.node import Node
from otel_progress.model import Failure, MetadataValue
from otel_progress.model import Status as LevelStatus
from otel_progress.text import truncate

if TYPE_CHECKING:
    from otel_progress.records import Preview


MAX_METADATA_ATTRIBUTES: Final = 64
"""Metadata keys written on a span; an SDK keeps 128 attributes by default and drops the oldest beyond."""


SAFE_ATTRIBUTES: Final = 30
"""Attributes a span can have before the oldest may have gone; limits below 32 are in use nowhere."""


MAX_EVENTS: Final = 8
"""Events on a span, the exception included; some back ends keep no more."""


MAX_TRACE: Final = 65_536
"""Longest text of an exception on a span, in characters, where texts are redacted."""


_ERRORS: Final = (semconv.ETA_ERROR_FIRST, semconv.ETA_ERROR_MIDDLE, semconv.ETA_ERROR_LAST)


_RECORDED_AT: Final = "__otel_progress_recorded_at__"


def start_span(tracer: Callable[[str], Tracer], scope: str, node: Node, context: context_api.Context) -> Span:
    """Start the span of a level; INVALID_SPAN when the tracer fails."""
    span_start_guard.starting = True
    try:
        return tracer(scope).start_span(node.spec.type, context, attributes=identity_attributes(node))
    except Exception:
        report_internal_error(
            "span", "a tracer or span processor failed at the start of a span; the work goes on"
        )
        return INVALID_SPAN
    finally:
        span_start_guard.starting = False


def identity_attributes(node: Node) -> dict[str, AttributeValue]:
    """Return the attributes that say which level this is."""
    operation = node.operation
    attributes: dict[str, AttributeValue] = {
        semconv.OPERATION_ID: operation.id,
        semconv.OPERATION_TYPE: operation.type,
        semconv.PATH: node.path,
        semconv.DEPTH: node.depth,
    }
    if node.parent is None:
        attributes[semconv.OPERATION_NAME] = node.name
    else:
        attributes[semconv.LEVEL_ID] = node.id
        attributes[semconv.LEVEL_TYPE] = node.spec.type
        attributes[semconv.LEVEL_NAME] = node.name
    if node.attempt > 1:
        attributes[semconv.ATTEMPT] = node.attempt
    if node.spec.unit is not None:
        attributes[semconv.UNIT] = node.spec.unit
    return attributes


def final_attributes(node: Node) -> dict[str, AttributeValue]:
    """Return the attributes that say how far a level came, from its last figures; what is unknown is absent."""
    attributes: dict[str, AttributeValue] = {
        semconv.CURRENT: node.current,
        semconv.STATUS: node.status.value,
        semconv.SEQUENCE: node.sequence,
    }
    if node.total is not None:
        attributes[semconv.TOTAL] = node.total
    if node.ratio is not None:
        attributes[semconv.RATIO] = node.ratio
    if node.failed:
        attributes[semconv.FAILED] = node.failed
    if node.message is not None:
        attributes[semconv.MESSAGE] = redaction.redact_message(node.message)
    if node.error is not None:
        attributes[semconv.ERROR_TYPE] = node.error.type
    if node.estimated:
        attributes[semconv.ESTIMATED] = True
    return attributes


def eta_error_attributes(node: Node) -> dict[str, AttributeValue]:
    """Return how good the predictions of an operation's end were; nothing unless it completed and there were any."""
    if node.estimation is None or node.status is not LevelStatus.COMPLETED:
        return {}
    start = node.started_clock or 0.0
    verdicts = node.estimation.predictions.score(
        node.operation.active_seconds(start, start + (node.duration or 0.0))
    )
    return (
        {}
        if verdicts is None
        else {name: verdict.error for name, verdict in zip(_ERRORS, verdicts, strict=True)}
    )


def finish_span(node: Node) -> None:
    """Write the final values of an ended level on its span, end it, and let go of it: the level may be kept for long."""
    span = node.span
    if span is INVALID_SPAN:
        return
    node.span = INVALID_SPAN
    try:
        if not span.is_recording():  # not sampled, or ended by somebody else
            return
        _write(span, node)
    except Exception:
        report_internal_error("span", "the final values of a span could not be written")
    try:
        span.end()
    except Exception:
        report_internal_error("span", "a span processor failed at the end of a span; the work goes on")


def _write(span: Span, node: Node) -> None:
    attributes = final_attributes(node)
    if node.parent is None:
        attributes.update(eta_error_attributes(node))
    if node.metadata:
        attributes = {**_metadata(node.metadata), **attributes}
    present = getattr(span, "attributes", None)
    if present is None or len(present) + len(attributes) > SAFE_ATTRIBUTES:
        # Past its limit an SDK drops the oldest attributes, and those are the identity: written again, they are the newest.
        attributes.update(identity_attributes(node))
    span.set_attributes(attributes)
    if node.status is LevelStatus.FAILED:
        span.set_status(Status(StatusCode.ERROR, None if node.error is None else node.error.message))


def _metadata(metadata: Mapping[str, MetadataValue]) -> dict[str, AttributeValue]:
    names = list(metadata)[:MAX_METADATA_ATTRIBUTES]
    return {semconv.METADATA_PREFIX + name: metadata[name] for name in names}


def record_exception(node: Node, error: BaseException) -> None:
    """Put an exception on the span of the innermost level it passed through, once."""
    try:
        # Kept on the exception itself: its id() may be that of an earlier one, and a reference to it would keep frames alive.
        run, path = error.__dict__.get(_RECORDED_AT, ("", ""))
        if (
            run != node.operation.run
            or not path.startswith(f"{node.path}/" if node.path else "")
            or path == node.path
        ):
            error.__dict__[_RECORDED_AT] = (node.operation.run, node.path)
            node.span.record_exception(error, _redacted(error))
    except Exception:
        report_internal_error("span", "an exception could not be recorded on its span")


def _redacted(error: BaseException) -> dict[str, AttributeValue] | None:
    """Return the attributes of an exception's event that take the place of those a tracer would write; None when it may write them."""
    if redaction.redactor_slot.current is None:
        return None
    whole = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    texts = {semconv.EXCEPTION_MESSAGE: str(error), semconv.EXCEPTION_STACKTRACE: whole}
    clean: dict[str, AttributeValue] = {
        name: redaction.redact_value("error", truncate(text, MAX_TRACE), MAX_TRACE)
        for name, text in texts.items()
    }
    return None if clean == texts else clean


def add_item_event(node: Node, name: str, outcome: str, error: Failure | None) -> None:
    """Put the event of an item on the level's span, within the bound of events."""
    attributes: dict[str, AttributeValue] = {semconv.ITEM_NAME: name, semconv.ITEM_OUTCOME: outcome}
    if error is not None:
        attributes[semconv.ERROR_TYPE] = error.type
        attributes[semconv.EXCEPTION_MESSAGE] = error.message
    add_event(node, semconv.EVENT_ITEM, attributes, limit=MAX_EVENTS - 4)


def add_preview_event(node: Node, preview: Preview, address: str) -> None:
    """Put the event of a stored preview on the level's span, within the bound of events. ``address`` is empty while it is not known."""
    attributes: dict[str, AttributeValue] = {
        semconv.PREVIEW_NAME: preview.name,
        semconv.PREVIEW_NUMBER: preview.number,
        semconv.PREVIEW_MEDIA_TYPE: preview.media_type,
    }
    if address:
        attributes[semconv.PREVIEW_URL] = address
    add_event(node, semconv.EVENT_PREVIEW, attributes, limit=MAX_EVENTS - 2)


def add_quarter_event(node: Node) -> None:
    """Put an event on the span when another quarter of the work is passed."""
    if node.ratio is None or node.status.finished:
        return
    quarter = int(node.ratio * 4)
    if quarter > node.quarter:
        node.quarter = quarter
        add_event(node, semconv.EVENT_UPDATED, final_attributes(node))


def add_event(
    node: Node, name: str, attributes: Mapping[str, AttributeValue], *, limit: int = MAX_EVENTS - 1
) -> None:
    """Add an event to the level's span unless ``limit`` events are there; one place is kept for an exception."""
    if node.span_events >= limit or node.span is INVALID_SPAN:
        return
    node.span_events += 1
    try:
        node.span.add_event(name, attributes)
    except Exception:
        report_internal_error("span", "an event could not be put on a span")


def context_with_span(span: Span) -> context_api.Context:
    """Return the current context with ``span`` as its span, unchanged when the span is of no trace."""
    return trace.set_span_in_context(span) if span.get_span_context().is_valid else context_api.get_current()
