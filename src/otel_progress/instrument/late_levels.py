"""Levels that start later than their work, and figures that integrations write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from opentelemetry import context as context_api

from otel_progress.instrument.arguments import LevelArguments, normalize_metadata
from otel_progress.instrument.backend import RecordingBackend, backend_slot
from otel_progress.instrument.callers import Caller, find_caller_outside
from otel_progress.instrument.context import get_current_level
from otel_progress.instrument.level import Level
from otel_progress.live.node import Node, TotalReference, add_orphan
from otel_progress.live.rollup import exceeds_total
from otel_progress.model import Number, Status
from otel_progress.text import truncate


class Origin(NamedTuple):
    """Place where some work started: its context, its current level, and its caller."""

    context: context_api.Context
    level: Level | None
    caller: Caller


def capture_origin(packages: tuple[str, ...]) -> Origin:
    """Return the origin of work that the caller starts.

    ``packages`` are those of the library. Their frames are not the caller.
    """
    context = context_api.get_current()
    level = cast("Level | None", get_current_level(context))
    return Origin(context, level, find_caller_outside(packages))


def get_active_backend() -> RecordingBackend | None:
    """Return the active backend. None if nothing is configured."""
    return backend_slot.current


def is_of_backend(level: Level, backend: RecordingBackend) -> bool:
    """Return whether a level was started with a backend, not with an earlier one."""
    return level._backend is backend


def start_late_level(
    arguments: LevelArguments,
    origin: Origin,
    parent: Level | None,
    *,
    age_s: float,
    resumed: Number = 0,
) -> Level | None:
    """Start the level of work that has run for ``age_s`` seconds.

    ``parent`` is its parent, by default the current level of the origin. ``resumed`` is the number
    of units that were done before. Return None if it was rejected.
    """
    level = Level(arguments._replace(eta_key=origin.caller), parent)
    token = context_api.attach(origin.context)
    try:
        level.start()
    finally:
        context_api.detach(token)
    backend = level._backend
    if backend is None or not level.recording:
        return None
    _set_start(level._node, age_s)
    if resumed:
        # Why not Level.resume_from: it waits for the journal.
        backend.store.resume_from(level._node, resumed)
    return level


def _set_start(node: Node, age_s: float) -> None:
    """Set the start of a level ``age_s`` seconds back, not before its parent.

    Why: its rate and duration would otherwise be wrong. Its span starts later.
    """
    clock, started_at, parent = node.started_clock, node.started_at, node.parent
    if clock is None or started_at is None:
        return
    first = None if parent is None else parent.started_clock
    start = clock - age_s if first is None else max(clock - age_s, min(first, clock))
    node.started_clock, node.started_at = start, started_at - (clock - start)
    node.info, node.dirty = None, True


def complete_at_total(level: Level) -> None:
    """Complete a level that is left open, if it has reached its total.

    A level is left open if its handle is collected, or if its parent ends. Libraries drop files and
    bars without closing them. Otherwise such a level is cancelled.
    """
    node = level._node
    reference = TotalReference(level, add_orphan)
    reference.node, node.handle = node, reference


def add_units(level: Level, n: int) -> None:
    """Count ``n`` more units of a running level. Do nothing if it has ended.

    Unlike ``Level.increment`` this is valid while another thread ends the level.
    """
    node = level._node
    if node.status is Status.RUNNING:
        node.ensure_counter().add(n)


def write_figures(level: Level, current: Number | None, total: Number | None) -> None:
    """Write the count and the total of a running level.

    ``current`` None leaves the count unchanged. A total below the count counts as unknown.
    """
    node = level._node
    if node.status is not Status.RUNNING:
        return
    counter = node.ensure_counter()
    if current is not None and current != counter.value():
        counter.set(current)
        node.dirty = True
    if total is not None and exceeds_total(counter.value(), total):
        total = None
    if total != node.total:
        node.total, node.dirty = total, True


def write_texts(level: Level, message: str | None, metadata: Mapping[str, object] | None) -> None:
    """Write the message and replace the metadata of a running level.

    None leaves them unchanged.
    """
    node = level._node
    if node.status is not Status.RUNNING:
        return
    if message is not None:
        node.message, node.dirty = truncate(message), True
    if metadata is not None:
        node.metadata, node.dirty = normalize_metadata(metadata), True
