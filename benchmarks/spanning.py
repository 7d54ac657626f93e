"""Cost of a level, compared with a span of the SDK with the same attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import otel_progress as progress
from benchmarks.rounds import Effort, Job, Variant, best_seconds
from benchmarks.setting import configured
from benchmarks.table import Row, judged
from otel_progress import Level

SPANS: Final = 2_000
"""Number of spans.

It is small, so that the exporting thread does not interrupt the best round.
"""
WARM_UP: Final = 500
"""Warm-up levels: more than the retention limit, so that each end evicts an older level."""
ROUNDS: Final = 4
"""Factor for the number of rounds, because rounds are short."""
TARGET: Final = 1.5


class _Discard(SpanExporter):
    """Exporter that discards spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the SDK's signature
        return SpanExportResult.SUCCESS


@dataclass(slots=True)
class Attributes(SpanProcessor):
    """Recorder of the attributes of a child span at its start and until its end."""

    first: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's signature
        """Store the attributes at the start."""
        if span.parent is not None:
            self.first = dict(span.attributes or {})

    def on_end(self, span: ReadableSpan) -> None:
        """Store the attributes that were added."""
        if span.parent is not None:
            self.final = {
                name: value for name, value in (span.attributes or {}).items() if name not in self.first
            }


def attributes_of_a_level() -> Attributes:
    """Return the attributes that a level writes on its span."""
    seen = Attributes()
    provider = TracerProvider()
    provider.add_span_processor(seen)
    with configured(provider), progress.operation("spans") as operation, operation.level("step"):
        pass
    return seen


def run(effort: Effort) -> Iterator[Row]:
    """Measure both as context manager (which sets the current span) and by hand."""
    count = effort.count(SPANS)
    batches = BatchSpanProcessor(
        _Discard(), max_queue_size=65_536
    )  # The queue is large enough that no span is dropped.
    same = attributes_of_a_level()
    for title, bare, ours in (
        ("with", _bare_with, _level_with),
        ("start … end", _bare_explicit, _level_explicit),
    ):
        seconds = best_seconds(
            [
                Variant("span", lambda bare=bare: _spans(batches, same, bare, count)),  # type: ignore[misc]
                Variant("level", lambda ours=ours: _levels(batches, ours, count)),  # type: ignore[misc]
            ],
            ROUNDS * effort.rounds,
        )
        span, level = seconds["span"] / count * 1e6, seconds["level"] / count * 1e6
        yield Row(f"SDK span, {title}, {len(same.first)} + {len(same.final)} attributes", f"{span:.1f} µs")
        ratio = level / span
        yield judged(
            f"level, {title}",
            f"{level:.1f} µs",
            f"{ratio:.2f} × span",
            f"≤ {TARGET} × span",
            met=ratio <= TARGET,
        )
    batches.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def _spans(
    batches: BatchSpanProcessor, same: Attributes, work: Callable[[Any, Attributes, int], None], count: int
) -> Iterator[Job]:
    provider = TracerProvider()
    provider.add_span_processor(batches)
    tracer = provider.get_tracer("benchmarks")
    with tracer.start_as_current_span("spans"):
        work(tracer, same, WARM_UP)
        yield lambda: work(tracer, same, count)


@contextmanager
def _levels(batches: BatchSpanProcessor, work: Callable[[Level, int], None], count: int) -> Iterator[Job]:
    provider = TracerProvider()
    provider.add_span_processor(batches)
    with configured(provider), progress.operation("spans") as operation:
        work(operation, WARM_UP)
        yield lambda: work(operation, count)


def _bare_with(tracer: Any, same: Attributes, count: int) -> None:
    first, final = same.first, same.final
    for _ in range(count):
        with tracer.start_as_current_span("step", attributes=first) as span:
            span.set_attributes(final)


def _level_with(operation: Level, count: int) -> None:
    for _ in range(count):
        with operation.level("step"):
            pass


def _bare_explicit(tracer: Any, same: Attributes, count: int) -> None:
    first, final = same.first, same.final
    for _ in range(count):
        span = tracer.start_span("step", attributes=first)
        span.set_attributes(final)
        span.end()


def _level_explicit(operation: Level, count: int) -> None:
    for _ in range(count):
        operation.level("step").start().complete()
