"""A level from start to end, beside a bare SDK span that carries the same attributes through the same batch processor."""

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
"""So few that the exporting thread, which takes turns with the measured one, seldom comes in between: the best round is free of it."""
WARM_UP: Final = 500
"""Levels before those that are measured: more than are kept, so that each one that ends makes an older one go."""
ROUNDS: Final = 4
"""Times as many rounds as elsewhere, since they are short."""
TARGET: Final = 1.5


class _Discard(SpanExporter):
    """Takes spans and lets them go."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the SDK's signature
        return SpanExportResult.SUCCESS


@dataclass(slots=True)
class Attributes(SpanProcessor):
    """Remembers which attributes a span below another had at its start, and which came until its end."""

    first: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's signature
        """Take what is there at the start."""
        if span.parent is not None:
            self.first = dict(span.attributes or {})

    def on_end(self, span: ReadableSpan) -> None:
        """Take what was added."""
        if span.parent is not None:
            self.final = {
                name: value for name, value in (span.attributes or {}).items() if name not in self.first
            }


def attributes_of_a_level() -> Attributes:
    """Return what a level really writes on its span."""
    seen = Attributes()
    provider = TracerProvider()
    provider.add_span_processor(seen)
    with configured(provider), progress.operation("spans") as operation, operation.level("step"):
        pass
    return seen


def run(effort: Effort) -> Iterator[Row]:
    """Measure both in ``with`` (which also makes them current) and by explicit start and end."""
    count = effort.count(SPANS)
    batches = BatchSpanProcessor(
        _Discard(), max_queue_size=65_536
    )  # as large as no span is dropped, whatever the machine does
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
