"""Spans of levels: name, attributes at the start, events, and final values.

Needs only opentelemetry-api. Exceptions of tracers, samplers and processors never reach the caller.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from time import time_ns
from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from otel_progress import redaction, semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.backend import SpanStartContext
from otel_progress.instrument.failures import RECORDED_AT, is_compound, to_failure
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import Node
from otel_progress.model import Failure, LevelInfo, MetadataValue
from otel_progress.model import Status as LevelStatus
from otel_progress.text import truncate

if TYPE_CHECKING:
    from otel_progress.records import Preview


MAX_METADATA_ATTRIBUTES: Final = 64
"""Metadata keys per span. Further keys are left out. By default an SDK keeps 128 attributes per
span and drops the oldest ones.
"""


SAFE_ATTRIBUTES: Final = 30
"""Attributes that every SDK keeps. Beyond it the identity attributes are written again at the end.
Limits below 32 are not in use.
"""


MAX_EVENTS: Final = 8
"""Events per span, including the exception. Further events are left out. Some back ends keep at
most 8.
"""


MIN_LEAD_S: Final = 0.1
"""Seconds by which the wall clock must be behind the times of a run to change those of its spans.
Less may be the time between two readings of the clocks.
"""


MAX_EXCEPTION_CHARACTERS: Final = 65_536
"""Characters of an exception's text on a span if redaction is on. Longer texts are truncated."""


_ETA_ERRORS: Final = (semconv.ETA_ERROR_FIRST, semconv.ETA_ERROR_MIDDLE, semconv.ETA_ERROR_LAST)


def start_span(
    tracer: Callable[[str], Tracer],
    scope: str,
    node: Node,
    context: context_api.Context,
    earlier: LevelInfo | None = None,
) -> Span:
    """Start the span of a level and store it in its node.

    ``earlier`` is the operation in the earlier session that is continued. The span links to it.
    Returns INVALID_SPAN if the tracer fails.
    """
    try:
        # Why in one statement: an exception that interrupts the start then finds the span.
        node.span = tracer(scope).start_span(
            node.spec.type,
            SpanStartContext(context),
            attributes=build_identity_attributes(node),
            links=None if earlier is None else _build_links(earlier),
            start_time=None if node.operation.wall_lead < MIN_LEAD_S else compute_time_ns(node),
        )
        return node.span
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("span", "A tracer or span processor failed at the start of a span.")
        return INVALID_SPAN


def _build_links(earlier: LevelInfo) -> list[Link]:
    """Return the link to the span of an earlier session, if its ids are valid."""
    try:
        trace_id, span_id = int(earlier.trace_id or "", 16), int(earlier.span_id or "", 16)
    except ValueError:
        return []
    context = SpanContext(trace_id, span_id, is_remote=True)
    return [Link(context, {semconv.ATTEMPT: earlier.attempt})] if context.is_valid else []


def compute_time_ns(node: Node, span: Span | None = None) -> int | None:
    """Return a time for a span in Unix nanoseconds, or None for that of the tracer.

    After the wall clock was set back, it is ahead of the wall clock, like all times of the run. The
    end of ``span`` is at least its start.
    """
    lead_s = node.operation.wall_lead
    started = getattr(span, "start_time", None)
    if lead_s < MIN_LEAD_S and started is None:
        return None
    now = time_ns() + (int(lead_s * 1e9) if lead_s >= MIN_LEAD_S else 0)
    if isinstance(started, int) and now < started:
        return started
    return now if lead_s >= MIN_LEAD_S else None


def build_identity_attributes(node: Node) -> dict[str, AttributeValue]:
    """Return the attributes that identify the level."""
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
    segments = None if node.extras is None else node.extras.segments
    if segments is not None and segments.number > 1:
        attributes[semconv.SEGMENT] = segments.number
        attributes[semconv.RUN] = operation.run
    return attributes


def build_final_attributes(node: Node) -> dict[str, AttributeValue]:
    """Return the progress attributes of a level as of its last tick.

    Unknown values are absent.
    """
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
    if node.ended_early:
        attributes[semconv.ENDED_EARLY] = True
    return attributes


def build_eta_error_attributes(node: Node) -> dict[str, AttributeValue]:
    """Return the errors of an operation's predicted ends.

    The result is empty unless the operation completed all its units and had predictions.
    """
    if node.estimation is None or node.status is not LevelStatus.COMPLETED:
        return {}
    if node.ended_early:
        return {}
    start = node.started_clock or 0.0
    duration_s = node.operation.active_seconds(start, start + (node.duration or 0.0))
    verdicts = node.estimation.predictions.score(duration_s)
    if verdicts is None:
        return {}
    return {name: verdict.error for name, verdict in zip(_ETA_ERRORS, verdicts, strict=True)}


def finish_span(node: Node) -> None:
    """Write the final values of an ended level to its span and end the span.

    The node drops its reference to the span, because ended levels can stay in memory for long.
    """
    span = node.span
    if span is INVALID_SPAN:
        return
    try:
        if not span.is_recording():  # not sampled, or ended by other code
            node.span = INVALID_SPAN
            return
        write_final_attributes(span, node)
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("span", "Writing the final values of a span failed.")
    try:
        span.end(compute_time_ns(node, span) if node.operation.wall_lead else None)
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("span", "A span processor failed at the end of a span.")
    # Why last: an end that an exception interrupts is repeated.
    node.span = INVALID_SPAN


def write_final_attributes(span: Span, node: Node) -> None:
    """Write the values of a level as of its last tick to a span that ends."""
    attributes = build_final_attributes(node)
    if node.parent is None:
        attributes.update(build_eta_error_attributes(node))
    if node.metadata:
        attributes = {**_build_metadata_attributes(node.metadata), **attributes}
    present = getattr(span, "attributes", None)
    if present is None or len(present) + len(attributes) > SAFE_ATTRIBUTES:
        # Beyond its limit an SDK drops the oldest attributes, which are the identity attributes.
        # Writing them again makes them the newest.
        attributes.update(build_identity_attributes(node))
    elif node.operation.is_renamed:
        attributes[semconv.OPERATION_ID] = node.operation.id
    span.set_attributes(attributes)
    if node.status is LevelStatus.FAILED:
        span.set_status(Status(StatusCode.ERROR, None if node.error is None else node.error.message))


def _build_metadata_attributes(metadata: Mapping[str, MetadataValue]) -> dict[str, AttributeValue]:
    names = list(metadata)[:MAX_METADATA_ATTRIBUTES]
    return {semconv.METADATA_PREFIX + name: metadata[name] for name in names}


def record_exception(node: Node, error: BaseException) -> None:
    """Record an exception once, on the span of the innermost level it left."""
    try:
        # Why on the exception: a later exception may have the same id(), and a reference to the
        # exception would keep its frames alive.
        run, path = error.__dict__.get(RECORDED_AT, ("", ""))
        is_below = path.startswith(f"{node.path}/" if node.path else "") and path != node.path
        if run == node.operation.run and is_below:
            return
        error.__dict__[RECORDED_AT] = (node.operation.run, node.path)
        if is_compound(error):
            # Why: the SDK formats all exceptions of a chain or group, which may be thousands.
            attributes = _build_exception_attributes(to_failure(error))
            node.span.add_event("exception", attributes, compute_time_ns(node))
        else:
            node.span.record_exception(error, _redact_exception(error), compute_time_ns(node))
    except Exception as failure:
        if is_interrupt(failure):
            raise
        report_internal_error("span", "Recording an exception on a span failed.")


def _build_exception_attributes(failure: Failure) -> dict[str, AttributeValue]:
    return {
        semconv.EXCEPTION_TYPE: failure.type,
        semconv.EXCEPTION_MESSAGE: failure.message,
        semconv.EXCEPTION_STACKTRACE: failure.details or "",
    }


def _redact_exception(error: BaseException) -> dict[str, AttributeValue] | None:
    """Return redacted event attributes that replace those of the tracer.

    Returns None if nothing is redacted, so the tracer writes its own.
    """
    if redaction.redactor_slot.current is None:
        return None
    stacktrace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    texts = {semconv.EXCEPTION_MESSAGE: str(error), semconv.EXCEPTION_STACKTRACE: stacktrace}
    clean: dict[str, AttributeValue] = {
        name: redaction.redact_value(
            "error", truncate(text, MAX_EXCEPTION_CHARACTERS), MAX_EXCEPTION_CHARACTERS
        )
        for name, text in texts.items()
    }
    return None if clean == texts else clean


def add_item_event(node: Node, name: str, outcome: str, error: Failure | None) -> None:
    """Add the event of an item to the level's span unless it has too many events."""
    attributes: dict[str, AttributeValue] = {semconv.ITEM_NAME: name, semconv.ITEM_OUTCOME: outcome}
    if error is not None:
        attributes[semconv.ERROR_TYPE] = error.type
        attributes[semconv.EXCEPTION_MESSAGE] = error.message
    add_event(node, semconv.EVENT_ITEM, attributes, limit=MAX_EVENTS - 4)


def add_preview_event(node: Node, preview: Preview, url: str) -> None:
    """Add the event of a stored preview unless the span has too many events.

    ``url`` is empty if it is not known.
    """
    attributes: dict[str, AttributeValue] = {
        semconv.PREVIEW_NAME: preview.name,
        semconv.PREVIEW_NUMBER: preview.number,
        semconv.PREVIEW_MEDIA_TYPE: preview.media_type,
    }
    if url:
        attributes[semconv.PREVIEW_URL] = url
    add_event(node, semconv.EVENT_PREVIEW, attributes, limit=MAX_EVENTS - 2)


def add_quarter_event(node: Node) -> None:
    """Add an event to the span after each quarter of the work."""
    if node.ratio is None or node.status.finished:
        return
    quarter = int(node.ratio * 4)
    if quarter > node.quarter:
        node.quarter = quarter
        add_event(node, semconv.EVENT_UPDATED, build_final_attributes(node))


def add_event(
    node: Node, name: str, attributes: Mapping[str, AttributeValue], *, limit: int = MAX_EVENTS - 1
) -> None:
    """Add an event to the level's span unless it has ``limit`` events.

    The default leaves room for the event of an exception.
    """
    if node.span_events >= limit or node.span is INVALID_SPAN:
        return
    node.span_events += 1
    try:
        node.span.add_event(name, attributes, compute_time_ns(node))
    except Exception as failure:
        if is_interrupt(failure):
            raise
        report_internal_error("span", "Adding an event to a span failed.")


def build_span_context(span: Span) -> context_api.Context:
    """Return a copy of the current context with ``span``.

    An invalid span leaves it unchanged.
    """
    return trace.set_span_in_context(span) if span.get_span_context().is_valid else context_api.get_current()
