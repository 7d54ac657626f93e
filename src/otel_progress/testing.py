"""Test kit for instrumented code: clock, repeatable ids, recorder and span trees.

    with recording() as recorder:
        with progress.operation("survey", total=2) as op:
            recorder.clock.advance(1.5)
            op.increment()
        assert recorder.span_trees() == [...]

A recording is private to the test. It has its own tracer provider and uses memory instead of
files, no terminal, no network and no environment variables. Invalid values raise. Progress is
collected only by :meth:`Recorder.tick`. Works without pytest.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler

from otel_progress import semconv
from otel_progress.config import start
from otel_progress.errors import ConfigurationError
from otel_progress.operations import OperationSnapshot
from otel_progress.runtime.components import ClockAndIds
from otel_progress.runtime.runtime import Runtime

WALL: Final = 1_700_000_000.0
"""Wall clock of a new :class:`FakeClock`, in Unix seconds."""


MONOTONIC: Final = 5_000.0
"""Monotonic clock of a new :class:`FakeClock`, in seconds."""


_END_S: Final = 30.0
"""Timeout of the shutdown of a recording, in seconds. Open files would disturb the next test."""


VOLATILE_ATTRIBUTES: Final = frozenset(
    {semconv.SEQUENCE, semconv.ETA_ERROR_FIRST, semconv.ETA_ERROR_MIDDLE, semconv.ETA_ERROR_LAST}
)
"""Attributes that :func:`span_trees` leaves out. They depend on the number of snapshots and
predictions, not on the work.
"""


Tree: TypeAlias = "dict[str, Any]"
"""A span as plain data: name, attributes, and optionally status, events and children."""


class FakeClock:
    """Manual monotonic clock and wall clock, in seconds.

    The wall clock can be stepped alone.
    """

    def __init__(self, *, wall: float = WALL, monotonic: float = MONOTONIC) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return self._monotonic

    def wall(self) -> float:
        """Return Unix seconds."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Advance both clocks.

        Raises ValueError for negative ``seconds``, because a monotonic clock never runs backwards.
        """
        if not seconds >= 0.0:
            msg = f"Invalid seconds {seconds!r}: expected 0 or more."
            raise ValueError(f"{msg} Use step_wall() to set the wall clock back.")
        self._monotonic += seconds
        self._wall += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as a time server does."""
        self._wall += seconds


class CountingIds(IdGenerator):
    """Generator of repeatable ids of runs, traces and spans: 1, 2, 3, … Thread-safe."""

    def __init__(self) -> None:
        self._runs = itertools.count(1).__next__
        self._traces = itertools.count(1).__next__
        self._spans = itertools.count(1).__next__

    def run_id(self) -> str:
        """Return the next run id. Its first half is also unique."""
        return f"{self._runs():08x}" * 2

    def generate_trace_id(self) -> int:
        """Return the next trace id."""
        return self._traces()

    def generate_span_id(self) -> int:
        """Return the next span id."""
        return self._spans()


@dataclass(frozen=True, slots=True)
class Recorder:
    """Access of a test to the runtime, its clock, and the exported spans."""

    runtime: Runtime
    clock: FakeClock
    provider: TracerProvider
    exporter: InMemorySpanExporter = field(repr=False)

    def tick(self) -> None:
        """Run one tick, as the background thread does outside of tests."""
        self.runtime._ticker.tick()

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Return the exported spans in the order of their ends."""
        return self.exporter.get_finished_spans()

    def span_trees(self, *, leave_out: Iterable[str] = VOLATILE_ATTRIBUTES) -> list[Tree]:
        """Return the exported spans as nested plain data. See :func:`span_trees`."""
        return span_trees(self.spans(), leave_out=leave_out)

    def operation(self, operation_id: str) -> OperationSnapshot:
        """Return the current state of an operation. Raises KeyError for an unknown id."""
        snapshot = self.runtime.get_operation(operation_id)
        if snapshot is None:
            operations = (*self.runtime.get_active_operations(), *self.runtime.get_history())
            known = ", ".join(operation.operation_id for operation in operations)
            msg = f"Invalid operation id {operation_id!r}: expected one of: {known or '(no operations)'}."
            raise KeyError(msg)
        return snapshot


@contextmanager
def recording(
    *,
    clock: FakeClock | None = None,
    ids: CountingIds | None = None,
    strict: bool = True,
    sampler: Sampler | None = None,
    provider: TracerProvider | None = None,
    ticking: bool = False,
    **settings: Any,
) -> Iterator[Recorder]:
    """Record progress within the block and shut down after it.

    Several recordings can share ``clock`` and ``ids``. With ``strict`` invalid values raise.
    ``sampler`` decides which spans are exported. ``provider`` replaces the private provider. With
    ``ticking`` a background thread collects progress every ``tick`` seconds. ``settings`` are those
    of ``configure``. Raises ConfigurationError if progress is already configured.
    """
    clock, ids, exporter = clock or FakeClock(), ids or CountingIds(), InMemorySpanExporter()
    if provider is None:
        provider = TracerProvider(sampler=sampler, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    arguments = {
        "store": "memory:",
        "console": False,
        "otlp": False,
        "resources": False,
        "strict": strict,
        **settings,
    }
    sources = ClockAndIds(clock.monotonic, clock.wall, ids.run_id)
    runtime = start(arguments, provider, environ={}, sources=sources, is_exclusive=True)
    if not ticking:
        runtime._ticker.set_background(False)
    try:
        yield Recorder(runtime, clock, provider, exporter)
    finally:
        runtime.shutdown(_END_S)


def span_trees(
    spans: Iterable[ReadableSpan], *, leave_out: Iterable[str] = VOLATILE_ATTRIBUTES
) -> list[Tree]:
    """Return finished spans as nested plain data, to compare or print whole trees.

    The list has the spans without a parent among ``spans``. Children are nested in their parent.
    All are in the order of their starts, and of their span ids if these are equal. Ids, times and
    the attributes in ``leave_out`` are left out. Events are pairs of name and attributes, without
    stack traces.
    """
    ordered = sorted(spans, key=lambda span: (span.start_time or 0, _get_context(span).span_id))
    hidden, trees, roots = frozenset(leave_out), {}, []
    for span in ordered:
        trees[_get_context(span).span_id] = _build_tree(span, hidden)
    for span in ordered:
        tree = trees[_get_context(span).span_id]
        parent = None if span.parent is None else trees.get(span.parent.span_id)
        if parent is None:
            roots.append(tree)
        else:
            parent.setdefault("children", []).append(tree)
    return roots


def _get_context(span: ReadableSpan) -> Any:
    return span.get_span_context()


def _build_tree(span: ReadableSpan, hidden: frozenset[str]) -> Tree:
    tree: Tree = {"name": span.name, "attributes": _filter_attributes(span.attributes, hidden)}
    if not span.status.is_unset:
        tree["status"] = (span.status.status_code.name, span.status.description)
    if span.events:
        dropped = hidden | {"exception.stacktrace", "exception.escaped"}
        tree["events"] = [
            (event.name, _filter_attributes(event.attributes, dropped)) for event in span.events
        ]
    return tree


def _filter_attributes(attributes: Mapping[str, Any] | None, hidden: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in sorted((attributes or {}).items()) if name not in hidden}


def wait_until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Wait until ``condition()`` is true, polling it every millisecond.

    Raises TimeoutError after ``timeout`` seconds.
    """
    pause = threading.Event()
    for _ in range(max(1, int(timeout * 1000))):
        if condition():
            return
        pause.wait(0.001)
    msg = f"The condition was not true within {timeout} s."
    raise TimeoutError(msg)


__all__ = [
    "ConfigurationError",
    "CountingIds",
    "FakeClock",
    "Recorder",
    "Tree",
    "recording",
    "span_trees",
    "wait_until",
]
