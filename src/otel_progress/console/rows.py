"""Rows of the terminal display: operations, running levels, stages and failures.

Other levels are counted in a folded row. Each row has a rank: a small terminal shows the rows with
the lowest ranks.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from otel_progress import semconv
from otel_progress.console.glyphs import CONDITION_STYLES, STATUS_STYLES, Glyphs
from otel_progress.formats import (
    ENDED_EARLY,
    format_condition_name,
    format_count,
    format_duration,
    format_moment,
    format_more_levels,
    format_percentage,
    format_rate,
)
from otel_progress.model import NO_LEVELS, Eta, LevelCounts, LevelSnapshot, Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.text import escape_controls, join_title, split_title

MAX_DEPTH: Final = 24
"""Depth of the deepest level with a row of its own."""


MAX_FAILED: Final = 5
"""Failed levels listed below a parent, the newest. The others are counted."""


MAX_PART_CHARS: Final = 400
"""Longest text given to the layout. Longer texts are cut."""


class Rank(IntEnum):
    """Rank of a row. A small terminal shows the rows with the lowest ranks.

    A running level has the rank ``LEVEL`` plus its depth, at most ``MAX_DEPTH``. The failed levels
    of a parent have ``FAILED`` and the following ranks.
    """

    OPERATION = 0
    ABANDONED = 5
    NOTES = 6
    LEVEL = 10
    STAGES = 50
    MESSAGE = 60
    FAILED = 70
    FOLDED = 80


Part = tuple[str, str]
"""A printable text without line breaks and its rich style."""


@dataclass(frozen=True, slots=True)
class Row:
    """Row of the display: ``parts``, and the bar and texts of a ``level``.

    A row with a ``level`` has a bar, figures, ``notes`` and a ``message``. ``elapsed`` is in
    seconds since the start of the level, ``active_s`` excludes pauses. The notes of an ``urgent``
    row get a line of their own on a small terminal.
    """

    rank: tuple[int, int]
    indent: int
    parts: tuple[Part, ...]
    level: LevelSnapshot | None = None
    elapsed: float = 0.0
    active_s: float = 0.0
    eta: Eta | None = None
    frozen: bool = False
    notes: tuple[Part, ...] = ()
    urgent: bool = False
    message: str = ""


def build_rows(operations: Sequence[OperationSnapshot], glyphs: Glyphs, height: int) -> list[Row]:
    """Return the rows of operations, oldest first.

    The operations are given newest first.
    Includes at most ``height`` operations, the newest, and at most ``height`` levels of each.
    """
    # Why oldest first: a new operation then moves no row.
    rows: list[Row] = []
    for number, operation in reversed(list(enumerate(operations[: max(1, height)]))):
        rows.append(_build_operation_row(operation, glyphs, number))
        rows.extend(_LevelTree(operation, glyphs, height).iterate_rows(operation.root))
    return rows


def clean_text(text: str | None) -> str:
    """Return text as one printable line, cut to ``MAX_PART_CHARS``."""
    return escape_controls(text[:MAX_PART_CHARS]) if text else ""


def format_title(level: LevelSnapshot) -> str:
    """Return the type and name of a level. The type is not repeated."""
    return join_title(clean_text(level.info.type), clean_text(level.info.name))


def format_failure(level: LevelSnapshot) -> str:
    """Return the error of a level as one line, or its message if it has no error."""
    if level.error is None:
        return clean_text(level.message)
    kind, message = clean_text(level.error.type), clean_text(level.error.message.strip().partition("\n")[0])
    return f"{kind}: {message}" if message and kind else message or kind


def format_condition(operation: OperationSnapshot, condition: Condition) -> Part | None:
    """Return a condition as text, such as ``stalled for 2m 10s``.

    None if the condition is ok.
    """
    if condition is Condition.OK:
        return None
    root, since = operation.root, None
    if condition is Condition.STALLED:
        since = root.advanced_clock if root.advanced_clock is not None else root.info.started_clock
    elif condition is Condition.PAUSED:
        since = root.paused_clock
    text = format_condition_name(condition)
    if condition is Condition.NOT_REPORTING:
        text += f" since {format_moment(operation.not_reporting_since)}"
    elif since is not None:
        text += f" for {format_duration(operation.clock - since)}"
    return text, CONDITION_STYLES[condition]


def format_cancelling(operation: OperationSnapshot) -> Part | None:
    """Return ``cancelling`` for an active operation with a cancellation request."""
    if operation.cancel_requested_at is None or operation.status.finished:
        return None
    return "cancelling", STATUS_STYLES[Status.CANCELLED]


def format_figures(level: LevelSnapshot, active_s: float) -> tuple[str, str, str]:
    """Return percentage, count and rate of a level.

    Each is empty while unknown. ``active_s`` is its active time in seconds.
    """
    unit = level.info.unit
    has_count = level.current > 0 or level.total is not None
    count = format_count(level.current, level.total, unit, level.info.unit_plural) if has_count else ""
    # Why: stages differ in length, so their rate has no meaning.
    rate = "" if unit == semconv.STAGE else format_rate(level.done_this_session, active_s, unit)
    return format_percentage(level.ratio, estimated=level.estimated), count, rate


def format_state_notes(level: LevelSnapshot) -> tuple[Part, ...]:
    """Return the failed count, an early end and the attempt of a level as notes."""
    notes: list[Part] = []
    if level.failed:
        notes.append((f"{level.failed} failed", "red"))
    if level.ended_early:
        notes.append((ENDED_EARLY, "yellow"))
    if level.info.attempt > 1:
        notes.append((f"attempt {level.info.attempt}", "yellow"))
    return tuple(notes)


def _build_operation_row(operation: OperationSnapshot, glyphs: Glyphs, number: int) -> Row:
    root, condition = operation.root, operation.condition
    note = format_condition(operation, condition)
    style = CONDITION_STYLES[condition] or STATUS_STYLES[root.status]
    kind, name = split_title(clean_text(root.info.type), clean_text(root.info.name))
    parts: tuple[Part, ...] = ((glyphs.status(root.status), style), (name, "bold"))
    if kind:
        parts += ((kind, "dim"),)  # after the name, because the last part is cut first
    return Row(
        rank=(Rank.OPERATION if operation.alive else Rank.ABANDONED, number),
        indent=0,
        parts=parts,
        level=root,
        elapsed=operation.elapsed_seconds,
        active_s=operation.rate_seconds_of(root),
        eta=operation.eta,
        frozen=condition is Condition.ABANDONED,
        # Why the failed count first: the last parts are cut first.
        notes=format_state_notes(root)
        + tuple(part for part in (note, format_cancelling(operation)) if part is not None),
        urgent=note is not None,
        message=clean_text(operation.message),
    )


class _LevelTree:
    """Levels of one operation, grouped by parent."""

    def __init__(self, operation: OperationSnapshot, glyphs: Glyphs, height: int) -> None:
        self._clock = operation.clock
        self._frozen = not operation.alive
        self._eta_of, self._rate_seconds_of = operation.eta_of, operation.rate_seconds_of
        self._glyphs = glyphs
        self._evicted = operation.count_evicted_levels()
        self._children: dict[str, list[LevelSnapshot]] = {}
        running = []
        for level in operation.levels:
            if level.info.depth > MAX_DEPTH:
                continue
            self._children.setdefault(level.info.parent_path or "", []).append(level)
            if level.status is Status.RUNNING:
                running.append(level)
        if len(running) > height:
            running = heapq.nsmallest(
                height, running, key=lambda level: (level.info.depth, -level.info.order)
            )
        self._running = {level.info.path for level in running}

    def iterate_rows(self, parent: LevelSnapshot) -> Iterator[Row]:
        """Yield the rows below a level."""
        children = self._children.get(parent.info.path, ())
        evicted = self._evicted.get(parent.info.path, NO_LEVELS)
        if not children and not evicted.total:
            return
        indent = parent.info.depth + 1
        stages = [child for child in children if child.info.declared]
        if stages:
            yield self._build_stages_row(stages, indent)
        for child in sorted(children, key=lambda level: level.info.order):
            if child.status is not Status.RUNNING or child.info.path not in self._running:
                continue
            if not child.info.declared or self._needs_row(child):
                yield self._build_level_row(child)
                yield from self.iterate_rows(child)
        yield from self._build_finished_rows(
            [child for child in children if child.status.finished and not child.info.declared],
            evicted,
            indent,
        )

    def _needs_row(self, stage: LevelSnapshot) -> bool:
        return (
            stage.total is not None
            or stage.current > 0
            or bool(stage.message)
            or stage.info.path in self._children
        )

    def _build_level_row(self, level: LevelSnapshot) -> Row:
        info = level.info
        kind, name = split_title(clean_text(info.type), clean_text(info.name))
        parts: tuple[Part, ...] = ((self._glyphs.running, STATUS_STYLES[Status.RUNNING]),)
        parts += ((kind, "dim"), (name, "")) if kind else ((name, ""),)
        return Row(
            rank=(Rank.LEVEL + info.depth, -info.order),
            indent=info.depth,
            parts=parts,
            level=level,
            elapsed=level.elapsed(self._clock),
            active_s=self._rate_seconds_of(level),
            eta=self._eta_of(level),
            frozen=self._frozen,
            notes=format_state_notes(level),
            message=clean_text(level.message),
        )

    def _build_stages_row(self, stages: Sequence[LevelSnapshot], indent: int) -> Row:
        parts: list[Part] = []
        for stage in sorted(stages, key=lambda level: level.info.order):
            name = clean_text(stage.info.name or stage.info.id)
            text = f"{self._glyphs.status(stage.status)} {name} "
            if stage.status is Status.RUNNING:
                percentage = format_percentage(stage.ratio, estimated=stage.estimated)
                text += f"{percentage} " if percentage else ""
            parts.append((text, STATUS_STYLES[stage.status]))
        return Row((Rank.STAGES, 0), indent, tuple(parts))

    def _build_finished_rows(
        self, finished: Sequence[LevelSnapshot], evicted: LevelCounts, indent: int
    ) -> Iterator[Row]:
        """Yield rows of the last failed levels, and a row that counts the others."""
        failed = [level for level in finished if level.status is Status.FAILED]
        latest = heapq.nlargest(
            MAX_FAILED, failed, key=lambda level: (level.ended_at or 0.0, level.info.order)
        )
        for number, level in enumerate(latest):
            yield Row((Rank.FAILED + number, 0), indent, format_failed_level(level, self._glyphs))
        statuses = Counter(level.status.value for level in finished)
        statuses[Status.FAILED.value] -= len(latest)
        statuses["ended_early"] = sum(level.ended_early for level in finished)
        more = LevelCounts(*(count + statuses[name] for name, count in evicted._asdict().items()))
        if more.total:
            text = f"{self._glyphs.more} {format_more_levels(more)}"
            yield Row((Rank.FOLDED, 0), indent, ((text, "dim"),))


def format_failed_level(level: LevelSnapshot, glyphs: Glyphs) -> tuple[Part, ...]:
    """Return the parts of a failed level: glyph, title and error."""
    return ((glyphs.failed, "red"), (format_title(level), ""), (format_failure(level), "red"))
