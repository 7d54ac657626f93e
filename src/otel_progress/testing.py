"""For tests of instrumented code: a clock moved by hand, ids that repeat, a recorder, and span forests to compare as a whole.

    with recording() as recorder:
        with progress.operation("survey", total=2) as op:
            recorder.clock.advance(1.5)
            op.increment()
        assert recorder.forest() == [...]

Everything is private to the test: its own tracer provider, memory instead of files, no terminal, no network, nothing of the
environment. Bad values raise. Nothing is collected behind the test's back; :meth:`Recorder.tick` does it. Works without pytest.
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
"""Unix seconds at which a :class:`FakeClock` starts."""


MONOTONIC: Final = 5_000.0
"""Its monotonic seconds at the same moment."""


_END_S: Final = 30.0
"""How long a recording may take to end: what a slow disk leaves open would be met by the next test."""


VOLATILE_ATTRIBUTES: Final = frozenset(
    {semconv.SEQUENCE, semconv.ETA_ERROR_FIRST, semconv.ETA_ERROR_MIDDLE, semconv.ETA_ERROR_LAST}
)
"""Attributes that :func:`forest` leaves out: how often something was looked at, and foretold, is no property of the work."""


Tree: TypeAlias = "dict[str, Any]"
"""One span as plain data: name, attributes, and, where there are any, status, events and children."""


class FakeClock:
    """Two clocks that move only when told: ``monotonic`` measures, ``wall`` shows, and they can be stepped apart. In seconds."""

    def __init__(self, *, wall: float = WALL, monotonic: float = MONOTONIC) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def monotonic(self) -> float:
        """Return the monotonic clock."""
        return self._monotonic

    def wall(self) -> float:
        """Return Unix seconds."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks. Raises ValueError for a negative time: a monotonic clock never goes back."""
        if not seconds >= 0.0:
            msg = f"a clock advances by 0 seconds or more, not {seconds!r}; use step_wall() to set the wall clock back"
            raise ValueError(msg)
        self._monotonic += seconds
        self._wall += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or a time server does."""
        self._wall += seconds


class CountingIds(IdGenerator):
    """Ids that are the same in every run: 1, 2, 3, …; of operations and of spans. May be used from any thread."""

    def __init__(self) -> None:
        self._runs = itertools.count(1).__next__
        self._traces = itertools.count(1).__next__
        self._spans = itertools.count(1).__next__

    def run_id(self) -> str:
        """Return an id whose first half is unique as well."""
        return f"{self._runs():08x}" * 2

    def generate_trace_id(self) -> int:
        """Return the next trace id."""
        return self._traces()

    def generate_span_id(self) -> int:
        """Return the next span id."""
        return self._spans()


@dataclass(frozen=True, slots=True)
class Recorder:
    """What a test looks at: the runtime, its clock, and what was exported."""

    runtime: Runtime
    clock: FakeClock
    provider: TracerProvider
    exporter: InMemorySpanExporter = field(repr=False)

    def tick(self) -> None:
        """Collect now, as the background thread does by itself outside of tests."""
        self.runtime._ticker.tick()

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Return the spans that have been exported, in the order of their ends."""
        return self.exporter.get_finished_spans()

    def span_trees(self, *, leave_out: Iterable[str] = VOLATILE_ATTRIBUTES) -> list[Tree]:
        """Return the exported spans as nested plain data; see :func:`forest`."""
        return span_trees(self.spans(), leave_out=leave_out)

    def operation(self, operation_id: str) -> OperationSnapshot:
        """Return an operation as it is now. Raises KeyError when there is none of this id."""
        found = self.runtime.get_operation(operation_id)
        if found is None:
            known = [
                one.operation_id
                for one in (*self.runtime.get_active_operations(), *self.runtime.get_history())
            ]
            msg = f"there is no operation {operation_id!r}; there are: {', '.join(known) or 'none'}"
            raise KeyError(msg)
        return found


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

    ``clock`` and ``ids`` can be shared by several recordings; ``strict`` raises for bad values; ``sampler`` decides what is
    exported; ``provider`` takes the place of the private one; ``ticking`` collects in the background every ``tick`` seconds as
    outside of tests; ``settings`` are those of ``configure``.
    Raises ConfigurationError when progress is being recorded already.
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

    Spans without a parent among ``spans`` come first, children inside of theirs, each in the order of their starts (span ids break
    ties). Ids and times are left out, and the attributes in ``leave_out``; events are (name, attributes) without stack traces.
    """
    ordered = sorted(spans, key=lambda span: (span.start_time or 0, _context(span).span_id))
    hidden, trees, roots = frozenset(leave_out), {}, []
    for span in ordered:
        trees[_context(span).span_id] = _plain(span, hidden)
    for span in ordered:
        tree = trees[_context(span).span_id]
        above = None if span.parent is None else trees.get(span.parent.span_id)
        if above is None:
            roots.append(tree)
        else:
            above.setdefault("children", []).append(tree)
    return roots


def _context(span: ReadableSpan) -> Any:
    return span.get_span_context()


def _plain(span: ReadableSpan, hidden: frozenset[str]) -> Tree:
    tree: Tree = {"name": span.name, "attributes": _attributes(span.attributes, hidden)}
    if not span.status.is_unset:
        tree["status"] = (span.status.status_code.name, span.status.description)
    if span.events:
        dropped = hidden | {"exception.stacktrace", "exception.escaped"}
        tree["events"] = [(event.name, _attributes(event.attributes, dropped)) for event in span.events]
    return tree


def _attributes(attributes: Mapping[str, Any] | None, hidden: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in sorted((attributes or {}).items()) if name not in hidden}


def wait_until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Return as soon as ``condition()`` is true, asked a thousand times a second. Raises TimeoutError after ``timeout`` seconds."""
    pause = threading.Event()
    for _ in range(max(1, int(timeout * 1000))):
        if condition():
            return
        pause.wait(0.001)
    msg = f"the condition did not come true within {timeout} s"
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
