"""Merge of reports into the state of runs, in any order.

Each report has the whole state of its level. So the report with the highest key describes the
level, independent of the order of arrival, and a report that arrives again changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from otel_progress import semconv
from otel_progress.model import (
    NO_METADATA,
    Failure,
    LevelInfo,
    LevelSnapshot,
    Number,
    ParentLink,
    Status,
)
from otel_progress.receivers.reports import LevelReport, Rank, RunOrigin, split_last_segment
from otel_progress.receivers.spans import SpanKey, read_end_status, states_end
from otel_progress.receivers.telemetry import ReceivedSpan
from otel_progress.text import MAX_NAME, pluralize, truncate

MAX_LEVELS_PER_RUN: Final = 10_000
"""Maximum number of levels of a run. Reports of further levels are rejected."""


MAX_RUNS_PER_SENDER: Final = 1_000
"""Maximum number of runs of a sender that have not ended. Reports of further runs are rejected."""


MAX_ENDED_RUNS_PER_SENDER: Final = 1_000
"""Ended runs of a sender that late reports can still change. The oldest are dropped first."""


MAX_GENERATIONS: Final = 10_000
"""Operations of a sender whose repeated runs are distinguished although the sender does not state
runs. The operation that ran again first is dropped first.
"""


MAX_EARLY_ENDS: Final = 200
"""Ended spans of a sender whose levels were not reported yet. The oldest are dropped first."""


_ATTRIBUTES_OF_ENDS: Final = (
    semconv.CURRENT,
    semconv.TOTAL,
    semconv.RATIO,
    semconv.FAILED,
    semconv.STATUS,
    semconv.ERROR_TYPE,
)
"""Attributes of an ended span that its level uses."""


_CHANGES_PER_REPORT: Final = 256
"""Numbers of snapshots between two reports. Late reports can change a level without replacing its
report, for example its start. The numbers do not depend on the order of arrival otherwise, so after
a restart of the receiver later reports still replace stored ones.
"""


_SAME_START_S: Final = 0.001
"""Maximum difference of two stated times of one start, in seconds. Senders round it."""


_MAX_SEQUENCE: Final = 2**62


_OrderKey: TypeAlias = tuple[int, int, int, float, float]
"""Attempt, sequence number (0 without), rank, time in Unix seconds, and count."""


class TooManyError(ValueError):
    """A report of a new run or level beyond a limit."""


@dataclass(slots=True)
class _Level:
    """A level: the report that describes it, and its number of changes.

    ``report`` is None for a placeholder, of which only levels below it were reported.
    ``started_at`` is the earliest known start of its latest start, and ``advanced_at`` the earliest
    report of its count, its ratio and its ended pauses.
    """

    report: LevelReport | None
    key: _OrderKey
    started_at: float
    advanced_at: float
    sequence: int = 0
    identity: LevelInfo | None = None
    is_ended_by_span: bool = False
    is_start_stated: bool = False

    @property
    def is_unstarted(self) -> bool:
        """True for a level that is declared or was skipped without a start."""
        report = self.report
        if report is None or not report.path or self.is_start_stated:
            return False
        return report.status is Status.PENDING or (report.declared and report.status is Status.SKIPPED)

    def update_start(self, report: LevelReport) -> bool:
        """Set the start to the earliest stated one.

        Without one it is the time of the earliest report. Return True if it changed.
        """
        is_stated = report.started_at is not None
        start = report.at if report.started_at is None else report.started_at
        if is_stated < self.is_start_stated:
            return False
        if is_stated == self.is_start_stated and start >= self.started_at:
            return False
        self.is_start_stated = is_stated
        self.started_at, self.identity = start, None
        return True


class MergedRun:
    """State of one run of an operation."""

    def __init__(self, run: str, instance: str, origin: RunOrigin, max_levels: int) -> None:
        self.run = run
        self.operation_id = origin.operation_id
        self.operation_type = origin.operation_type
        self._trace_id = origin.trace_id
        self._instance = instance
        self._max_levels = max_levels
        self._batch: str | None = None
        self._parent: ParentLink | None = None
        self._levels: dict[str, _Level] = {}
        self.spans: dict[str, SpanKey] = {}
        """Latest span of each level by its path."""

    @property
    def ended_at(self) -> float | None:
        """End of the operation in Unix seconds on the clock of the sender, or None."""
        root = self._levels.get("")
        report = None if root is None else root.report
        return report.at if report is not None and report.status.finished else None

    def get_root(self) -> tuple[LevelReport, float] | None:
        """Return the report of the operation and its start, if it was reported.

        The start is in Unix seconds.
        """
        root = self._levels.get("")
        return None if root is None or root.report is None else (root.report, root.started_at)

    def is_started_again(self, report: LevelReport) -> bool:
        """Return True if a report starts the operation after its end.

        Without sequence numbers the times decide. A repeated start is not later than the end.
        """
        root = self._levels.get("")
        known = None if root is None else root.report
        if known is None or not known.status.finished or report.path or report.rank is not Rank.STARTED:
            return False
        is_counted = report.sequence is not None and known.sequence is not None
        return report.at > known.at or (is_counted and (report.sequence or 0) > (known.sequence or 0))

    def is_before_start(self, report: LevelReport) -> bool:
        """Return True if a report is older than the operation, so of an earlier run."""
        root = self._levels.get("")
        return root is not None and root.is_start_stated and report.at < root.started_at

    def get_span_id(self, path: str) -> str | None:
        """Return the id of the span of a level, as the report that describes it states."""
        level = self._levels.get(path)
        return None if level is None or level.report is None else level.report.span_id

    def __len__(self) -> int:
        return len(self._levels)

    def __contains__(self, path: str) -> bool:
        return path in self._levels

    def apply(self, report: LevelReport) -> Iterator[str]:
        """Apply a report. Yield the paths of changed levels, parents before children.

        Raises TooManyError.
        """
        level = self._levels.get(report.path)
        key = _build_key(report)
        is_linked = self._add_links(report)
        if level is None:
            yield from self._add_parents(report)
            self._check_limit()
            start = report.at if report.started_at is None else report.started_at
            level = _Level(report, key, start, report.at, _to_sequence(report))
            level.is_start_stated = report.started_at is not None
            self._levels[report.path] = level
        elif level.report is None or key > level.key:
            if level.is_ended_by_span and _is_before_end(report, level.report):
                return
            self._replace(level, report, key)
        elif not self._complete(level, report, is_changed=is_linked):
            return
        yield report.path
        if not report.path and level.report is report and report.origin.operation_id != self.operation_id:
            yield from self._rename(report.origin.operation_id)

    def _rename(self, operation_id: str) -> Iterator[str]:
        """Adopt the new id of the operation. Yield the paths of the levels below it.

        A process renames its operation if another one uses the id.
        """
        self.operation_id = operation_id
        for path, level in self._levels.items():
            level.identity = None
            if path:
                # Why: readers and journals use a snapshot only if its number is higher.
                level.sequence += (level.sequence + 1) % _CHANGES_PER_REPORT > 0
                yield path

    def _add_links(self, report: LevelReport) -> bool:
        """Add the batch and the parent of the operation. Return True if one was unknown."""
        before = self._batch, self._parent
        self._batch, self._parent = self._batch or report.batch, self._parent or report.parent
        return (self._batch, self._parent) != before

    def end_by_span(self, path: str, span: ReceivedSpan) -> bool:
        """End a running level whose span has ended, because its event may be lost.

        Return False if the level has ended already, or if the span is of another attempt.
        """
        level = self._levels.get(path)
        report = None if level is None else level.report
        if level is None or report is None or span.ended_at is None:
            return False
        if report.status.finished or report.span_id != span.span_id:
            return False
        self._end_level(level, report, span)
        return True

    def end_by_segment(self, path: str, span: ReceivedSpan) -> bool:
        """End a running level whose last segment span has ended, like :meth:`end_by_span`."""
        level = self._levels.get(path)
        report = None if level is None else level.report
        if level is None or report is None or span.ended_at is None or report.status.finished:
            return False
        if span.attributes.get(semconv.ATTEMPT, 1) != report.attempt:
            return False
        self._end_level(level, report, span)
        return True

    def _end_level(self, level: _Level, report: LevelReport, span: ReceivedSpan) -> None:
        ended_at = report.at if span.ended_at is None else span.ended_at
        status = read_end_status(span)
        current = _get_number(span, semconv.CURRENT, report.current)
        total = report.total if semconv.TOTAL not in span.attributes else _get_number(span, semconv.TOTAL, 0)
        ratio = _get_number(span, semconv.RATIO, min(1.0, current / total) if total else report.ratio or 0)
        end = replace(
            report,
            rank=Rank.FINISHED,
            at=max(ended_at, level.started_at),
            status=status,
            current=current,
            total=total,
            ratio=None if total is None and report.ratio is None else min(1.0, float(ratio)),
            failed=int(_get_number(span, semconv.FAILED, report.failed)),
            error=_read_failure(span) if status is Status.FAILED else None,
            paused_since=None,
            paused_s=report.paused_s + _count_paused_seconds(report, ended_at),
        )
        self._replace(level, end, _build_key(end))
        level.is_ended_by_span = True

    def add_root(self, at: float) -> list[str]:
        """Add a placeholder for the operation that ran at ``at``.

        Return the changed paths.
        """
        if "" in self._levels:
            return []
        self._levels[""] = _Level(None, (0, 0, 0, 0.0, 0.0), at, at)
        return [""]

    def build_snapshot(self, path: str, stall_after_s: float) -> LevelSnapshot:
        """Return the snapshot of a level.

        ``stall_after_s`` is the value for operations whose sender states none. The monotonic clock
        of the sender is not known. Clock times are therefore its wall times.
        """
        level = self._levels[path]
        report = level.report
        info = self._build_info(path, level)
        at = level.started_at if report is None else report.at
        status = Status.RUNNING if report is None else report.status
        advanced_at = None if status is Status.PENDING else level.advanced_at
        has_ended = status.finished and info.started_at is not None
        return LevelSnapshot(
            info=info,
            sequence=level.sequence,
            status=status,
            current=0 if report is None else report.current,
            total=None if report is None else report.total,
            ratio=None if report is None else report.ratio,
            failed=0 if report is None else report.failed,
            skipped=0 if report is None else report.skipped,
            message=None if report is None else report.message,
            metadata=NO_METADATA if report is None else report.metadata,
            error=None if report is None else report.error,
            stage=None if report is None else report.stage,
            eta=None,
            observed_at=at,
            observed_clock=at,
            advanced_at=advanced_at,
            advanced_clock=advanced_at,
            stall_after_s=(report and report.stall_after_s) or stall_after_s,
            ended_at=at if has_ended else None,
            duration_s=max(0.0, at - level.started_at) if has_ended else None,
            estimated=report is not None and report.estimated,
            paused_clock=None if report is None else report.paused_since,
            paused_s=0.0 if report is None else report.paused_s,
            failed_below=0 if report is None else report.failed_below,
            resumed_from=0 if report is None else report.resumed_from,
        )

    def _add_parents(self, report: LevelReport) -> Iterator[str]:
        """Add placeholders for the levels above a level that is not known yet."""
        path = report.path
        parents = []
        while path:
            path = path.rpartition("/")[0]
            parents.append(path)
        for parent in reversed(parents):
            if parent not in self._levels:
                self._check_limit()
                start = report.at if report.started_at is None else report.started_at
                self._levels[parent] = _Level(None, (0, 0, 0, 0.0, 0.0), start, start)
                yield parent

    def _check_limit(self) -> None:
        if len(self._levels) >= self._max_levels:
            msg = f"a run has at most {self._max_levels:,} levels"
            raise TooManyError(msg)

    def _replace(self, level: _Level, report: LevelReport, key: _OrderKey) -> None:
        known = level.report
        is_new_start = known is not None and not _have_same_start(known, report)
        if is_new_start:
            level.started_at, level.is_start_stated = math.inf, False
        level.update_start(report)
        if known is None or is_new_start or _has_advanced(known, report):
            level.advanced_at = report.at
        level.report, level.key = report, key
        level.is_ended_by_span = False
        # Why at least one more: readers and journals use a snapshot only if its number is higher.
        level.sequence = max(level.sequence + 1, _to_sequence(report))
        level.identity = None

    def _complete(self, level: _Level, report: LevelReport, *, is_changed: bool) -> bool:
        """Update the start and the last advance from a late report of the same start.

        Return False if it changes nothing. ``is_changed`` is True if the report changed the run.
        """
        known = level.report
        if known is None or not _have_same_start(known, report):
            return False
        changed = level.update_start(report) or is_changed
        if changed:
            level.identity = None
        if report.at < level.advanced_at and not _has_advanced(report, known):
            level.advanced_at, changed = report.at, True
        if (level.sequence + 1) % _CHANGES_PER_REPORT:
            level.sequence += changed
        return changed

    def _build_info(self, path: str, level: _Level) -> LevelInfo:
        if level.identity is None:
            level.identity = self._describe(path, level)
        return level.identity

    def _describe(self, path: str, level: _Level) -> LevelInfo:
        report = level.report
        root = self._levels[""]
        started_at = None if level.is_unstarted else level.started_at
        if report is None:
            type_, id_ = split_last_segment(path) if path else (self.operation_type, self.operation_id)
            name, unit, attempt, trace_id, span_id = id_, None, 1, self._trace_id, None
        else:
            type_, id_, name, unit = report.type, report.id, report.name, report.unit
            attempt, span_id = report.attempt, report.span_id
            trace_id = report.origin.trace_id
        if report is not None and report.order is not None:
            order = report.order
        else:
            # Why the time: siblings are numbered by their start, in any order of arrival.
            order = max(0, round(1000.0 * (level.started_at - root.started_at)))
        return LevelInfo(
            operation_id=self.operation_id,
            operation_type=self.operation_type,
            run=self.run,
            path=path,
            type=type_,
            id=id_,
            name=truncate(name, MAX_NAME),
            unit=unit,
            weight=1 if report is None else report.weight,
            declared=report is not None and report.declared,
            attempt=attempt,
            order=order,
            started_at=started_at,
            started_clock=started_at,
            deadline_at=None if report is None else report.deadline_at,
            trace_id=trace_id,
            span_id=span_id,
            instance=self._instance,
            batch=None if path else self._batch,
            unit_plural=None if unit is None else pluralize(unit),
            parent=None if path else self._parent,
        )


class Sender:
    """Runs of one process that sends reports.

    The process is identified by its ``service.instance.id``.
    """

    def __init__(
        self,
        instance: str,
        *,
        max_runs: int = MAX_RUNS_PER_SENDER,
        max_ended_runs: int = MAX_ENDED_RUNS_PER_SENDER,
        max_levels: int = MAX_LEVELS_PER_RUN,
    ) -> None:
        self._instance = instance
        self._max_runs = max_runs
        self._max_ended_runs = max_ended_runs
        self._max_levels = max_levels
        self._active: dict[str, MergedRun] = {}
        self._ended: dict[str, MergedRun] = {}
        self._generations: dict[str, int] = {}
        self._levels_of_spans: dict[SpanKey, tuple[str, str]] = {}
        self._early_ends: OrderedDict[SpanKey, ReceivedSpan] = OrderedDict()
        self.level_count = 0
        self.states_runs = False

    @property
    def active(self) -> int:
        """Number of runs that have not ended."""
        return len(self._active)

    def apply(self, report: LevelReport) -> tuple[MergedRun, list[str]]:
        """Apply a report. Return its run and the changed paths. Raises TooManyError."""
        run = self._get_run(report)
        count = len(run)
        try:
            changed = list(run.apply(report))
            changed += self._link_span(run, report)
        finally:
            self.level_count += len(run) - count
            self._sort_run(run)
        return run, changed

    def knows(self, report: LevelReport) -> bool:
        """Return True if the level of a report is stored already."""
        run = self.find_run(report.origin)
        return run is not None and report.path in run

    def knows_span(self, span: ReceivedSpan) -> bool:
        """Return True if events describe the level of a span."""
        return (span.trace_id, span.span_id) in self._levels_of_spans

    def end_by_span(self, span: ReceivedSpan) -> tuple[MergedRun, list[str]] | None:
        """End the level of an ended span. Return its run and the changed paths.

        Return None if nothing changes. The span waits if no event of its level has arrived.
        """
        if semconv.SEGMENT in span.attributes:
            return self._end_by_segment(span)
        key = (span.trace_id, span.span_id)
        known = self._levels_of_spans.get(key)
        if known is None:
            used = {name: span.attributes[name] for name in _ATTRIBUTES_OF_ENDS if name in span.attributes}
            self._early_ends[key] = replace(span, attributes=used, resource=NO_METADATA)
            if len(self._early_ends) > MAX_EARLY_ENDS:
                self._early_ends.popitem(last=False)
            return None
        name, path = known
        run = self._active.get(name)
        if run is None or not run.end_by_span(path, span):
            return None
        self._sort_run(run)
        return run, [path]

    def _end_by_segment(self, span: ReceivedSpan) -> tuple[MergedRun, list[str]] | None:
        """End the level of the last segment span. Earlier ones do not end their level.

        Events have the id of the first segment, so the run and the path identify the level.
        """
        run = self._active.get(str(span.attributes.get(semconv.RUN)))
        path = str(span.attributes.get(semconv.PATH, ""))
        if not states_end(span) or run is None or not run.end_by_segment(path, span):
            return None
        self._sort_run(run)
        return run, [path]

    def drop_ended(self) -> None:
        """Drop the ended runs. Late reports of them start new state."""
        while self._ended:
            self._drop_oldest_ended()

    def _drop_oldest_ended(self) -> None:
        run = self._ended.pop(next(iter(self._ended)))
        self.level_count -= len(run)
        for key in run.spans.values():
            self._levels_of_spans.pop(key, None)

    def _link_span(self, run: MergedRun, report: LevelReport) -> list[str]:
        """Store the span of a level.

        Return the path of the level if a span that arrived before ends it.
        """
        self.states_runs = self.states_runs or (report.origin.run is not None and report.sequence is not None)
        if report.span_id is None or report.origin.trace_id is None or report.sequence is None:
            return []
        key = (report.origin.trace_id, report.span_id)
        if run.get_span_id(report.path) == report.span_id and run.spans.get(report.path) != key:
            # Only the latest attempt of a level can end.
            self._levels_of_spans.pop(run.spans.get(report.path, key), None)
            self._levels_of_spans[key] = (run.run, report.path)
            run.spans[report.path] = key
        span = self._early_ends.get(key)
        if span is None:
            return []
        # Why kept until the level has ended: reports of earlier attempts may arrive first.
        if not run.end_by_span(report.path, span):
            return []
        del self._early_ends[key]
        return [report.path]

    def find_run(self, origin: RunOrigin) -> MergedRun | None:
        """Return the run of an event, or None if no report of it arrived."""
        name = origin.run or self._name_run(origin)
        return self._active.get(name) or self._ended.get(name)

    def add_run(self, origin: RunOrigin, at: float) -> tuple[MergedRun, list[str]]:
        """Add a run of which only an item arrived. Return it and the changed paths.

        Raises TooManyError.
        """
        run = self._create_run(origin)
        changed = run.add_root(at)
        self.level_count += len(changed)
        return run, changed

    def _get_run(self, report: LevelReport) -> MergedRun:
        origin = report.origin
        run = self.find_run(origin)
        if origin.run is None and run is not None:
            # A sender that does not state runs starts an operation again after its end.
            if run.is_started_again(report):
                self._count_generation(_describe_origin(self._instance, origin))
                run = None
            elif run.is_before_start(report):
                run = self._find_previous_run(origin) or run
        return self._create_run(origin) if run is None else run

    def _find_previous_run(self, origin: RunOrigin) -> MergedRun | None:
        """Return the run before the current one.

        The sender of the operation states no runs.
        """
        text = _describe_origin(self._instance, origin)
        generation = self._generations.get(text, 0)
        name = _hash_run(text, generation - 1)
        return (self._active.get(name) or self._ended.get(name)) if generation else None

    def _create_run(self, origin: RunOrigin) -> MergedRun:
        if len(self._active) >= self._max_runs:
            msg = f"a sender has at most {self._max_runs:,} operations that have not ended"
            raise TooManyError(msg)
        name = origin.run or self._name_run(origin)
        run = self._active[name] = MergedRun(name, self._instance, origin, self._max_levels)
        return run

    def _name_run(self, origin: RunOrigin) -> str:
        """Return the name of a run whose sender does not state it.

        It is the same after a restart of the receiver, unless the operation ran several times.
        """
        text = _describe_origin(self._instance, origin)
        return _hash_run(text, self._generations.get(text, 0))

    def _count_generation(self, text: str) -> None:
        self._generations[text] = self._generations.pop(text, 0) + 1
        if len(self._generations) > MAX_GENERATIONS:
            self._generations.pop(next(iter(self._generations)))

    def _sort_run(self, run: MergedRun) -> None:
        if run.ended_at is not None and self._active.pop(run.run, None) is not None:
            self._ended[run.run] = run
            while len(self._ended) > self._max_ended_runs:
                self._drop_oldest_ended()


def _has_advanced(earlier: LevelReport, later: LevelReport) -> bool:
    """Return True if the count differs, or the ratio because of levels below.

    The end of a pause counts as an advance, and a ratio that is an estimate does not.
    """
    if later.current != earlier.current or later.paused_s != earlier.paused_s:
        return True
    return later.ratio != earlier.ratio and not later.estimated


def _have_same_start(first: LevelReport, second: LevelReport) -> bool:
    """Return True if two reports of a level are of the same attempt and start.

    Below the next attempt of a level, the attempts of its levels start at 1 again.
    """
    if first.attempt != second.attempt:
        return False
    if first.started_at is None or second.started_at is None:
        return True
    return abs(first.started_at - second.started_at) <= _SAME_START_S


def _count_paused_seconds(report: LevelReport, at: float) -> float:
    """Return the seconds of the current pause until ``at``."""
    return 0.0 if report.paused_since is None else max(0.0, at - report.paused_since)


def _is_before_end(report: LevelReport, end: LevelReport | None) -> bool:
    """Return True for a late report of a running level that has ended since."""
    return (
        end is not None
        and _have_same_start(report, end)
        and not report.status.finished
        and report.at <= end.at
    )


def _get_number(span: ReceivedSpan, key: str, default: Number) -> Number:
    value = span.attributes.get(key)
    is_valid = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    return value if is_valid else default  # type: ignore[return-value]


def _read_failure(span: ReceivedSpan) -> Failure:
    type_ = span.attributes.get(semconv.ERROR_TYPE)
    return Failure(truncate(type_ if isinstance(type_, str) else "Error", MAX_NAME), span.error or "")


def _build_key(report: LevelReport) -> _OrderKey:
    """Return the order of a report among those of its level.

    Why the time last: a sender that counts may have a clock that was set back.
    """
    sequence = 0 if report.sequence is None else report.sequence
    return (report.attempt, sequence, int(report.rank), report.at, float(report.current))


def _to_sequence(report: LevelReport) -> int:
    """Return the number of the snapshot of a report.

    A report without a sequence number has its time in microseconds instead.
    """
    number = round(report.at * 1e6) if report.sequence is None else report.sequence
    return min((number * len(Rank) + int(report.rank)) * _CHANGES_PER_REPORT, _MAX_SEQUENCE)


def _hash_run(text: str, generation: int) -> str:
    return hashlib.sha256(f"{text}\0{generation}".encode()).hexdigest()[:32]


def _describe_origin(instance: str, origin: RunOrigin) -> str:
    return f"{instance}\0{origin.operation_id}\0{origin.trace_id or ''}"
