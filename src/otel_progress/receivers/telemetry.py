"""Immutable records of received OTLP requests, independent of their encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from otel_progress.errors import ProgressError
from otel_progress.model import MetadataValue

T = TypeVar("T")


Signal: TypeAlias = Literal["logs", "traces", "metrics"]
"""Signal of a request."""


Encoding: TypeAlias = Literal["protobuf", "json"]
"""Encoding of a request."""


class InvalidRequestError(ProgressError):
    """A request that is not OTLP in the declared encoding. Nothing of it was used."""


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One log record with an event name.

    Ids are lower-case hexadecimal, or None if absent. ``at`` is in Unix seconds. ``resource`` has
    the attributes of the sender.
    """

    name: str
    at: float
    trace_id: str | None
    span_id: str | None
    attributes: Mapping[str, MetadataValue]
    resource: Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class ReceivedLog:
    """One log record of an application, which is no event.

    It has a trace id or the attribute of an operation. ``severity`` is OpenTelemetry's number (1 to
    24), 0 if absent. ``logger`` is the name of the scope. ``details`` is a traceback.
    """

    at: float
    trace_id: str | None
    span_id: str | None
    severity: int
    severity_text: str
    logger: str
    body: str
    details: str | None
    attributes: Mapping[str, MetadataValue]
    resource: Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span, ended or not. Ids are lower-case hexadecimal, times are Unix seconds.

    ``ended_at`` is None while the span runs. ``error`` is the status message of a failed span, and
    None if the span did not fail. ``has_local_parent`` is True if the sender states that the parent
    is a span of the same process. Older exporters do not state it.
    """

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    started_at: float
    ended_at: float | None
    attributes: Mapping[str, MetadataValue]
    resource: Mapping[str, MetadataValue]
    error: str | None
    has_local_parent: bool = False


@dataclass(frozen=True, slots=True)
class Decoded(Generic[T]):
    """Records of one request that concern progress.

    ``rejected`` counts further records that are invalid, and ``reason`` describes the first of
    them. Records of other instrumentation are valid and not counted.
    """

    records: Sequence[T]
    rejected: int = 0
    reason: str = ""
