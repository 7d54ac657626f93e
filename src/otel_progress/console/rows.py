"""Which lines the terminal display has: operations, their running levels, stages in one line, failures, the rest folded.

Pure. Every line has a rank, so that the display keeps the most relevant ones when the terminal is too small for all.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from otel_progress import semconv
from otel_progress.console.format import format_count, format_duration, format_percentage, format_rate
from otel_progress.console.glyphs import CONDITION_STYLES, STATUS_STYLES, Glyphs
from otel_progress.model import Eta, LevelSnapshot, Status
from otel_progress.operations import Condition, OperationSnapshot
from otel_progress.text import escape_controls

MAX_DEPTH: Final = 24
"""Deepest level that is drawn; what lies below shows in its parents' bars."""


MAX_FAILED: Final = 5
"""Failed levels named below one parent; the others are counted."""


MAX_PART_CHARS: Final = 400
"""Longest text handed on to the layout, in characters; no terminal line is longer."""


_OPERATION, _ABANDONED, _LEVEL, _STAGES, _MESSAGE, _FAILED, _FOLDED = 0, 5, 10, 50, 60, 70, 80
"""Ranks: what is kept first. A running level's is higher the deeper it lies, at most ``_LEVEL + MAX_DEPTH``."""


Part = tuple[str, str]
"""A piece of text (printable, one line) and its rich style."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line. ``parts`` begin it; with ``level`` set it is a bar with that level's figures, then ``notes`` and ``message``.

    ``elapsed`` is in seconds since the level's start, ``worked`` without pauses.
    ``urgent`` says that all is not well, so that the notes are worth a line of their own where there is no room for them.
    """

    rank: tuple[int, int]
    indent: int
    parts: tuple[Part, ...]
    level: LevelSnapshot | None = None
    elapsed: float = 0.0
    worked: float = 0.0
    eta: Eta | None = None
    frozen: bool = False
    notes: tuple[Part, ...] = ()
    urgent: bool = False
    message: str = ""


def build_rows(operations: Sequence[OperationSnapshot], glyphs: Glyphs, height: int) -> list[Row]:
    """Return the lines of the operations (given newest first), the oldest on top, so that a new one moves nothing.

    No more operations and levels are looked at than ``height`` lines can need; the newest are kept.
    """
    collected: list[Row] = []
    for number, operation in reversed(list(enumerate(operations[: max(1, height)]))):
        collected.append(_build_operation_row(operation, glyphs, number))
        collected.extend(_LevelTree(operation, glyphs, height).below(operation.root))
    return collected


def clean_text(text: str | None) -> str:
    """Return text that is safe on a terminal line: printable, one line, cut before it costs anything."""
    return escape_controls(text[:MAX_PART_CHARS]) if text else ""


def format_title(level: LevelSnapshot) -> str:
    """Return what a level is called: its type and its name, once when they are the same."""
    info = level.info
    kind, name = clean_text(info.type), clean_text(info.name)
    return kind if not name or name == kind else f"{kind} {name}"


def format_failure(level: LevelSnapshot) -> str:
    """Return a level's error in one line: ``ValueError: bad rate``, or its message when there is no error."""
    if level.error is None:
        return clean_text(level.message)
    kind, message = clean_text(level.error.type), clean_text(level.error.message.strip().partition("\n")[0])
    return f"{kind}: {message}" if message and kind else message or kind


def format_condition(operation: OperationSnapshot, condition: Condition) -> Part | None:
    """Return a condition in words: ``stalled for 2m 10s``, ``paused for 5m 00s``; None when all is well."""
    if condition is Condition.OK:
        return None
    root, since = operation.root, None
    if condition is Condition.STALLED:
        since = root.advanced_clock if root.advanced_clock is not None else root.info.started_clock
    elif condition is Condition.PAUSED:  # why is its message
        since = root.paused_clock
    text = (
        condition.value
        if since is None
        else f"{condition.value} for {format_duration(operation.clock - since)}"
    )
    return text, CONDITION_STYLES[condition]


def format_cancelling(operation: OperationSnapshot) -> Part | None:
    """Return that somebody asked an operation to stop, while it has not."""
    if operation.cancel_requested_at is None or operation.status.finished:
        return None
    return "cancelling", STATUS_STYLES[Status.CANCELLED]


def format_figures(level: LevelSnapshot, worked: float) -> tuple[str, str, str]:
    """Return percentage, count and rate of a level that has worked so many seconds; each empty when there is nothing to say."""
    unit = level.info.unit
    amount = (
        format_count(level.current, level.total, unit) if level.current > 0 or level.total is not None else ""
    )
    speed = (
        "" if unit == semconv.STAGE else format_rate(level.done_this_session, worked, unit)
    )  # stages are no pace of anything
    return format_percentage(level.ratio, estimated=level.estimated), amount, speed


def format_state_notes(level: LevelSnapshot) -> tuple[Part, ...]:
    """Return what a level's counts and attempts have to say: failed units, a retry."""
    notes = []
    if level.failed:
        notes.append((f"{level.failed} failed", "red"))
    if level.info.attempt > 1:
        notes.append((f"attempt {level.info.attempt}", "yellow"))
    return tuple(notes)


def _build_operation_row(operation: OperationSnapshot, glyphs: Glyphs, number: int) -> Row:
    root, condition = operation.root, operation.condition
    note = format_condition(operation, condition)
    style = CONDITION_STYLES[condition] or STATUS_STYLES[root.status]
    kind, name = clean_text(root.info.type), clean_text(root.info.name)
    parts: tuple[Part, ...] = ((glyphs.status(root.status), style), (name or kind, "bold"))
    if name and name != kind:
        parts += ((kind, "dim"),)  # after the name: it is the part that may be cut
    return Row(
        rank=(_OPERATION if operation.alive else _ABANDONED, number),
        indent=0,
        parts=parts,
        level=root,
        elapsed=operation.elapsed_seconds,
        worked=operation.active_seconds_of(root),
        eta=operation.eta,
        frozen=condition is Condition.ABANDONED,
        notes=tuple(one for one in (note, format_cancelling(operation)) if one is not None)
        + format_state_notes(root),
        urgent=note is not None,
        message=clean_text(operation.message),
    )


class _LevelTree:
    """The levels of one operation, grouped by parent once, walked from the top."""

    def __init__(self, operation: OperationSnapshot, glyphs: Glyphs, height: int) -> None:
        self._clock = operation.clock
        self._frozen = not operation.alive
        self._eta_of, self._worked_of = operation.eta_of, operation.active_seconds_of
        self._glyphs = glyphs
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

    def below(self, parent: LevelSnapshot) -> Iterator[Row]:
        """Yield the lines under a level that is drawn."""
        children = self._children.get(parent.info.path)
        if not children:
            return
        indent = parent.info.depth + 1
        stages = [child for child in children if child.info.declared]
        if stages:
            yield self._stages(stages, indent)
        for child in sorted(children, key=lambda level: level.info.order):
            if child.status is not Status.RUNNING or child.info.path not in self._running:
                continue
            if not child.info.declared or self._worth_a_line(child):
                yield self._bar(child)
                yield from self.below(child)
        yield from self._ended(
            [child for child in children if child.status.finished and not child.info.declared], indent
        )

    def _worth_a_line(self, stage: LevelSnapshot) -> bool:
        return (
            stage.total is not None
            or stage.current > 0
            or bool(stage.message)
            or stage.info.path in self._children
        )

    def _bar(self, level: LevelSnapshot) -> Row:
        info = level.info
        kind, name = clean_text(info.type), clean_text(info.name)
        parts: tuple[Part, ...] = ((self._glyphs.running, STATUS_STYLES[Status.RUNNING]),)
        parts += ((kind, "dim"), (name, "")) if name and name != kind else ((kind, ""),)
        return Row(
            rank=(_LEVEL + info.depth, -info.order),
            indent=info.depth,
            parts=parts,
            level=level,
            elapsed=level.elapsed(self._clock),
            worked=self._worked_of(level),
            eta=self._eta_of(level),
            frozen=self._frozen,
            notes=format_state_notes(level),
            message=clean_text(level.message),
        )

    def _stages(self, stages: Sequence[LevelSnapshot], indent: int) -> Row:
        parts: list[Part] = []
        for stage in sorted(stages, key=lambda level: level.info.order):
            name = clean_text(stage.info.name or stage.info.id)
            shown = (
                format_percentage(stage.ratio, estimated=stage.estimated)
                if stage.status is Status.RUNNING
                else ""
            )
            style = STATUS_STYLES[stage.status]
            parts.append((f"{self._glyphs.status(stage.status)} {name}{' ' if shown else ''}{shown} ", style))
        return Row((_STAGES, 0), indent, tuple(parts))

    def _ended(self, ended: Sequence[LevelSnapshot], indent: int) -> Iterator[Row]:
        failed = [level for level in ended if level.status is Status.FAILED]
        if len(ended) > len(failed):
            text = f"{self._glyphs.more} {len(ended)} finished" + (
                f", {len(failed)} failed" if failed else ""
            )
            yield Row((_FOLDED, 0), indent, ((text, "dim"),))
        elif len(failed) > MAX_FAILED:
            yield Row((_FOLDED, 0), indent, ((f"{self._glyphs.more} {len(failed)} failed", "dim"),))
        latest = heapq.nlargest(
            MAX_FAILED, failed, key=lambda level: (level.ended_at or 0.0, level.info.order)
        )
        for number, level in enumerate(latest):
            yield Row((_FAILED + number, 0), indent, format_failed_level(level, self._glyphs))


def format_failed_level(level: LevelSnapshot, glyphs: Glyphs) -> tuple[Part, ...]:
    """Return a failed level in one line: its title and its error."""
    return ((glyphs.failed, "red"), (format_title(level), ""), (format_failure(level), "red"))
