"""Receiver that merges the progress of OTLP senders and stores it in a journal."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from otel_progress import redaction, semconv
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.model import Instance, LevelSnapshot, MetadataValue
from otel_progress.operations import Event
from otel_progress.processes import build_otlp_host, get_heartbeat_timeout_s, is_otlp_host
from otel_progress.protocols import ChangeSet, Reader, Sink, TrajectorySource
from otel_progress.receivers import json_encoding, protobuf
from otel_progress.receivers.correlation import LogKey, LogTarget, SpanIndex
from otel_progress.receivers.estimates import ReceivedEstimates
from otel_progress.receivers.logs import (
    MAX_WAITING_LOGS,
    MAX_WAITING_LOGS_PER_SENDER,
    LogBuffer,
    build_log_record,
    states_level,
)
from otel_progress.receivers.merge import (
    MAX_ENDED_RUNS_PER_SENDER,
    MAX_LEVELS_PER_RUN,
    MAX_RUNS_PER_SENDER,
    MergedRun,
    Sender,
    TooManyError,
)
from otel_progress.receivers.reports import (
    InvalidReportError,
    ItemReport,
    LevelReport,
    read_item,
    read_report,
    redact_report,
)
from otel_progress.receivers.spans import (
    MAX_SPANS_PER_SENDER,
    SpanTracker,
    TrackedSpan,
    has_progress,
    is_own_span,
    normalize_span,
    place_span,
)
from otel_progress.receivers.telemetry import (
    Decoded,
    Encoding,
    ReceivedEvent,
    ReceivedLog,
    ReceivedSpan,
    Signal,
)
from otel_progress.receivers.waiting_spans import MAX_WAITING_SPANS, SenderSpanKey, SpanAbove, WaitingSpans
from otel_progress.records import LogRecord, TrajectoryEntry
from otel_progress.settings.defaults import DEFAULT_STALL_AFTER_S
from otel_progress.text import MAX_NAME, normalize_id, truncate

R = TypeVar("R", ReceivedEvent, ReceivedSpan)

MAX_SENDERS: Final = 1_000
"""Maximum number of senders. The one that reported longest ago is dropped first."""


MAX_ITEMS: Final = 100_000
"""Latest items that are recognised when they arrive again."""


MAX_KNOWN_LOGS: Final = 100_000
"""Latest log records that are recognised when they arrive again."""


MAX_UNSTORED_LOGS: Final = 10_000
"""Maximum number of log records of a sender that wait for the journal. The oldest are dropped."""


MAX_NUMBERED_RUNS: Final = 20_000
"""Runs whose last log record is known. Log records of other runs are numbered by their time."""


MAX_LEVELS: Final = 100_000
"""Maximum number of levels of all senders. Beyond it ended runs are dropped, then reports of new
levels are rejected. A level uses about 1.5 KB of memory.
"""


_OTHER_SENDERS: Final = "otlp-logs"
"""Instance that stores the log records of processes without progress, such as a log shipper."""


@dataclass(frozen=True, slots=True)
class ReceiverLimits:
    """Limits of a receiver.

    Reports beyond a limit are rejected, which the response states. Waiting spans beyond a limit
    become operations.
    """

    senders: int = MAX_SENDERS
    runs_per_sender: int = MAX_RUNS_PER_SENDER
    ended_runs_per_sender: int = MAX_ENDED_RUNS_PER_SENDER
    levels_per_run: int = MAX_LEVELS_PER_RUN
    items: int = MAX_ITEMS
    spans_per_sender: int = MAX_SPANS_PER_SENDER
    levels: int = MAX_LEVELS
    logs: int = MAX_KNOWN_LOGS
    unstored_logs: int = MAX_UNSTORED_LOGS
    waiting_logs: int = MAX_WAITING_LOGS
    waiting_logs_per_sender: int = MAX_WAITING_LOGS_PER_SENDER
    waiting_spans: int = MAX_WAITING_SPANS


@dataclass(frozen=True, slots=True)
class Receipt:
    """Result of a request: the numbers of used and rejected records.

    A span that waits for its parent is used. If its level is rejected later, the request that
    released it has one more rejected record. ``reason`` is that of the first rejection. ``dropped``
    are the log records of this and earlier requests that waited for their operation or for the
    journal until a limit was reached.
    """

    accepted: int = 0
    rejected: int = 0
    reason: str = ""
    dropped: int = 0


@dataclass(slots=True)
class _SenderState:
    """A sender with its changes that are not stored yet.

    ``is_local`` is True if the process writes to the same journal itself. ``states_levels`` is True
    if its log records state their levels.
    """

    instance: Instance
    sender: Sender
    spans: SpanTracker
    clock: float
    is_local: bool | None = None
    changed: dict[tuple[str, str], MergedRun] = field(default_factory=dict)
    items: list[Event] = field(default_factory=list)
    logs: deque[LogRecord] = field(default_factory=deque)
    trajectories: list[TrajectoryEntry] = field(default_factory=list)
    last_item: int = 0
    states_levels: bool = False


@dataclass(slots=True)
class _Request:
    """Result of a request so far.

    ``touched`` are the senders with changes, and ``equal_logs`` counts equal log records.
    """

    rejected: int
    reason: str
    accepted: int = 0
    touched: dict[str, _SenderState] = field(default_factory=dict)
    equal_logs: Counter[int] = field(default_factory=Counter)

    def reject(self, error: Exception) -> None:
        """Reject a record that is invalid, beyond a limit, or fails. Raises JournalError."""
        if isinstance(error, JournalError):
            raise error
        reason = str(error)
        if not isinstance(error, (InvalidReportError, TooManyError)):
            # Why per record: a sender repeats a request that fails, so it would never end.
            report_internal_error("receiver", "A record could not be merged", error=error)
            reason = "internal error of the receiver"
        self.rejected += 1
        self.reason = self.reason or reason


class Receiver:
    """Merges received progress and writes it to ``sink``, usually a journal.

    ``receive`` returns after the changes were stored, so a response confirms that. Several threads
    may call it. Ended spans can wait for their parents in memory, so call ``close`` at the end.

    If the sink is also a Reader, a process that writes to the same journal itself is ignored.
    ``wall`` returns Unix seconds. Texts are redacted by the settings of ``configure()`` in this
    process, else by the built-in rules.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        limits: ReceiverLimits = ReceiverLimits(),
        stall_after_s: float = DEFAULT_STALL_AFTER_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._reader = sink if isinstance(sink, Reader) else None
        self._limits = limits
        self._stall_after_s = stall_after_s
        self._wall = wall
        self._senders: OrderedDict[str, _SenderState] = OrderedDict()
        self._level_count = 0
        self._estimates = ReceivedEstimates(sink if isinstance(sink, TrajectorySource) else None)
        self._known_items: OrderedDict[int, None] = OrderedDict()
        self._known_logs: OrderedDict[int, None] = OrderedDict()
        self._last_logs: OrderedDict[str, int] = OrderedDict()
        self._spans = SpanIndex()
        self._buffer = LogBuffer(
            max_logs=limits.waiting_logs, max_logs_per_sender=limits.waiting_logs_per_sender
        )
        self._reported: dict[LogKey, _SenderState] = {}
        self._waiting = WaitingSpans(
            max_spans=limits.waiting_spans, max_spans_per_sender=limits.spans_per_sender
        )
        self._late_errors: list[Exception] = []
        self._other = self._create_state(_OTHER_SENDERS, {}, wall())
        self._redactor = redaction.Redactor()
        self._lock = threading.Lock()

    def receive(self, signal: Signal, body: bytes, encoding: Encoding) -> Receipt:
        """Decode, merge and store one request. Metrics are ignored.

        Raises InvalidRequestError if the body is not such a request, and JournalError if the
        changes could not be stored. Then they are stored with the next request.
        """
        if signal == "logs":
            return self.receive_logs(body, encoding)
        return self.receive_spans(body, encoding) if signal == "traces" else Receipt()

    def close(self) -> None:
        """Store the spans that wait for their parents, as operations.

        Raises JournalError if they could not be stored. Does not close the sink.
        """
        request = _Request(0, "")
        with self._lock:
            self._estimates.start_request()
            while (key := self._waiting.find_oldest()) is not None:
                self._release_oldest(request, key)
            self._reject_late(request)
            self._assign_waiting_logs(request)
            self._store(request.touched.values())

    def receive_logs(self, body: bytes, encoding: Encoding) -> Receipt:
        """Store the records of an ``ExportLogsServiceRequest``, like :meth:`receive`."""
        decode = protobuf.decode_logs if encoding == "protobuf" else json_encoding.decode_logs
        return self.apply_events(decode(body, self._wall()))

    def receive_spans(self, body: bytes, encoding: Encoding) -> Receipt:
        """Store the spans of an ``ExportTraceServiceRequest``, like :meth:`receive`."""
        decode = protobuf.decode_spans if encoding == "protobuf" else json_encoding.decode_spans
        return self.apply_spans(decode(body, self._wall()))

    def apply_events(self, decoded: Decoded[ReceivedEvent | ReceivedLog]) -> Receipt:
        """Merge and store decoded events and log records, like :meth:`receive`."""
        events = [record for record in decoded.records if isinstance(record, ReceivedEvent)]
        logs = [record for record in decoded.records if isinstance(record, ReceivedLog)]
        return self._apply(events, self._apply_event, decoded, logs)

    def apply_spans(self, decoded: Decoded[ReceivedSpan]) -> Receipt:
        """Merge and store decoded spans, like :meth:`receive`."""
        spans = [found for span in decoded.records if (found := normalize_span(span)) is not None]
        # Why sorted: a span is placed below its parent, which may follow in the request.
        spans.sort(key=lambda span: span.started_at)
        return self._apply(spans, self._apply_span, decoded)

    def _apply(
        self,
        records: Sequence[R],
        apply: Callable[[_SenderState, R], None],
        decoded: Decoded[Any],
        logs: Sequence[ReceivedLog] = (),
    ) -> Receipt:
        request = _Request(decoded.rejected, decoded.reason)
        with self._lock:
            self._estimates.start_request()
            for record in records:
                try:
                    state = self._find_sender(record)
                    request.touched[state.instance.id] = state
                    apply(state, record)
                    request.accepted += 1
                except Exception as error:
                    request.reject(error)
            # Why afterwards: events of the same request may report the levels of log records.
            for log in logs:
                try:
                    self._apply_log(request, log)
                except Exception as error:
                    request.reject(error)
            # Why afterwards: the parents may be in this request.
            now = self._wall()
            while (key := self._waiting.find_due(now, request.touched)) is not None:
                self._release_oldest(request, key)
            self._reject_late(request)
            self._assign_waiting_logs(request)
            self._store(request.touched.values())
            dropped = self._buffer.take_dropped()
        return Receipt(request.accepted, request.rejected, request.reason, dropped)

    def _apply_event(self, state: _SenderState, event: ReceivedEvent) -> None:
        if event.name == semconv.EVENT_HEARTBEAT:
            state.clock = max(state.clock, event.at)
            known = state.instance
            state.instance = _build_instance(known.id, event.resource, known.started_at, heartbeats=True)
        elif event.name == semconv.EVENT_ITEM:
            if not self._is_local(state, event):
                self._apply_item(state, event)
        elif (report := read_report(event)) is not None and not self._is_local(state, event):
            self._apply_report(state, report)

    def _get_redactor(self) -> redaction.Redactor:
        return redaction.redactor_slot.current or self._redactor

    def _apply_report(self, state: _SenderState, report: LevelReport) -> None:
        report = redact_report(report, self._get_redactor())
        if self._level_count >= self._limits.levels and not state.sender.knows(report):
            self._drop_ended_runs()
            if self._level_count >= self._limits.levels:
                msg = f"the receiver has at most {self._limits.levels:,} levels"
                raise TooManyError(msg)
        state.clock = max(state.clock, report.at)
        count = state.sender.level_count
        try:
            run, paths = state.sender.apply(report)
        finally:
            self._level_count += state.sender.level_count - count
        state.changed.update(((run.run, path), run) for path in paths)
        for key in self._spans.add(state.instance.id, run.run, report):
            if key in self._buffer:
                self._reported[key] = state
        if "" in paths:
            self._estimate(state, run)

    def _apply_log(self, request: _Request, log: ReceivedLog) -> None:
        """Add a log record to its level, or let it wait.

        A record without trace and operation is ignored.
        """
        sender = _read_instance_id(log)
        # Why no new sender: most senders of log records have no progress.
        state = self._senders.get(sender)
        if state is not None and not self._uses_log(state, log):
            return
        found = self._spans.find(sender, log)
        if found is None:
            return
        state = self._other if state is None else state
        # Why also without a change: the journal may have failed when the record arrived before.
        request.touched[state.instance.id] = state
        if self._is_known_log(request, sender, log):
            request.accepted += 1
        elif isinstance(found, LogTarget):
            self._add_log(request, state, found, log)
        else:
            self._buffer.add(sender, found, log)

    def _uses_log(self, state: _SenderState, log: ReceivedLog) -> bool:
        """Return False for a record that is stored otherwise.

        The process writes to the same journal itself, or it exports the records of its levels. Then
        other handlers of its logging may export them as well, with the trace only.
        """
        is_stated = states_level(log)
        state.states_levels = state.states_levels or is_stated
        return not state.is_local and (is_stated or not state.states_levels)

    def _is_known_log(self, request: _Request, sender: str, log: ReceivedLog) -> bool:
        """Return True if a log record arrived before.

        Equal records of one request are different ones: clocks of some senders have milliseconds.
        """
        key = hash(
            (sender, log.trace_id, log.span_id, log.at, log.severity, log.logger, log.body, log.details)
        )
        request.equal_logs[key] += 1
        key = hash((key, request.equal_logs[key]))
        if key in self._known_logs:
            return True
        self._known_logs[key] = None
        if len(self._known_logs) > self._limits.logs:
            self._known_logs.popitem(last=False)
        return False

    def _add_log(self, request: _Request, state: _SenderState, target: LogTarget, log: ReceivedLog) -> None:
        """Add a log record to the changes of ``state``."""
        run = target.run.run
        # Why the time: numbers continue to increase after a restart of the receiver.
        number = self._last_logs[run] = max(self._last_logs.pop(run, 0) + 1, round(log.at * 1e6))
        if len(self._last_logs) > MAX_NUMBERED_RUNS:
            self._last_logs.popitem(last=False)
        state.logs.append(build_log_record(log, target, number, self._get_redactor()))
        if len(state.logs) > self._limits.unstored_logs:
            state.logs.popleft()
            self._buffer.dropped += 1
        request.touched[state.instance.id] = state
        request.accepted += 1

    def _assign_waiting_logs(self, request: _Request) -> None:
        """Add the log records that waited for the reports of this request."""
        for key, state in self._reported.items():
            for sender, log in self._buffer.remove_waiting(key):
                known = self._senders.get(sender)
                if known is not None and not self._uses_log(known, log):
                    continue
                found = self._spans.find(sender, log)
                if isinstance(found, LogTarget):
                    # Why not the sender of the record: it may be dead since.
                    self._add_log(request, state, found, log)
                elif found is not None:
                    self._buffer.add(sender, found, log)
        self._reported.clear()

    def _estimate(self, state: _SenderState, run: MergedRun) -> None:
        """Estimate the end of a running operation, or add the ended one to the history."""
        root = run.get_root()
        if root is None:
            return
        report, started_at = root
        is_paused = report.paused_since is not None
        started_at = min(report.at, started_at + report.paused_s)
        if report.status.finished:
            entry = self._estimates.finish(run.run, report.status, started_at, report.at)
            if entry is not None:
                state.trajectories.append(entry)
            return
        service = state.instance.service
        self._estimates.update(
            run.run,
            run.operation_type,
            service,
            started_at,
            report.at,
            report.ratio,
            is_paused=is_paused,
        )

    def _drop_ended_runs(self) -> None:
        for state in self._senders.values():
            state.sender.drop_ended()
        self._level_count = sum(state.sender.level_count for state in self._senders.values())

    def _apply_span(self, state: _SenderState, span: ReceivedSpan) -> None:
        """Add the level of a span, or end the level that events describe.

        Then add the levels of the spans that waited for it.
        """
        if state.is_local:
            return
        key = (state.instance.id, span.trace_id, span.span_id)
        if self._is_described_by_events(state, span):
            self._end_by_span(state, span)
            if span.ended_at is not None:
                self._waiting.pass_over(key, SpanAbove(None, False))
                self._release(state, key, None)
            return
        tracked = state.spans.find(key[1:])
        above = self._waiting.find_above(state.instance.id, span)
        parent = None if above.key is None else state.spans.find(above.key[1:])
        if tracked is not None:
            self._apply_tracked(state, span, tracked)
        elif span.ended_at is not None and not has_progress(span):
            self._pass_over(state, key, above, parent)
            return
        else:
            tracked = place_span(span, parent)
            try:
                if span.ended_at is not None and _can_wait(above, parent):
                    # Why before the wait: the response rejects an invalid span.
                    state.spans.read(span, tracked, self._wall())
                    self._waiting.add(key, span, above, self._wall())
                    return
                self._apply_tracked(state, span, tracked)
            except (InvalidReportError, TooManyError):
                if span.ended_at is not None:
                    self._pass_over(state, key, above, parent)
                raise
        if key in self._waiting:  # It ended before the report of its start arrived.
            self._apply_waiting(state, key, parent)
        self._release(state, key, tracked)

    def _is_described_by_events(self, state: _SenderState, span: ReceivedSpan) -> bool:
        sender = state.sender
        return is_own_span(span) or sender.knows_span(span) or (sender.states_runs and has_progress(span))

    def _end_by_span(self, state: _SenderState, span: ReceivedSpan) -> None:
        """End the level of an ended span that events describe."""
        ended = None if span.ended_at is None else state.sender.end_by_span(span)
        if ended is not None:
            run, paths = ended
            state.clock = max(state.clock, span.ended_at or 0.0)
            state.changed.update(((run.run, path), run) for path in paths)
            if "" in paths:
                self._estimate(state, run)

    def _apply_tracked(self, state: _SenderState, span: ReceivedSpan, tracked: TrackedSpan) -> None:
        """Add the level of a span at a place, and track the span.

        Raises InvalidReportError or TooManyError if it is rejected.
        """
        report = state.spans.read(span, tracked, self._wall())
        if report is None:
            return
        try:
            self._apply_report(state, report)
        except TooManyError:
            state.spans.drop(span)
            raise
        # Why at the end: a rejected span is not tracked.
        state.spans.track(span, tracked)

    def _pass_over(
        self, state: _SenderState, key: SenderSpanKey, above: SpanAbove, parent: TrackedSpan | None
    ) -> None:
        """Place the spans below an ended span without progress below the span above it."""
        self._waiting.pass_over(key, above)
        if _can_wait(above, parent):
            self._waiting.move(key, above)
        else:
            self._release(state, key, parent)

    def _release(self, state: _SenderState, key: SenderSpanKey, tracked: TrackedSpan | None) -> None:
        """Add the levels of the spans that wait for a span, and of those below them.

        ``tracked`` is the place of the span. Without one the spans below it are operations.
        """
        places = [(key, tracked)]
        while places:
            key, tracked = places.pop()
            places += [
                (below, self._apply_waiting(state, below, tracked)) for below in self._waiting.get_below(key)
            ]

    def _apply_waiting(
        self, state: _SenderState, key: SenderSpanKey, parent: TrackedSpan | None
    ) -> TrackedSpan | None:
        """Add the level of a waiting span below ``parent``.

        Return the place of the spans below it. Raises JournalError: then the span still waits.
        """
        span = self._waiting.get(key)
        tracked = parent
        try:
            if self._is_described_by_events(state, span):
                self._end_by_span(state, span)
            elif not state.is_local:
                place = state.spans.find(key[1:]) or place_span(span, parent)
                self._apply_tracked(state, span, place)
                tracked = place
        except JournalError:
            raise
        except Exception as error:
            self._late_errors.append(error)
        self._waiting.remove(key)
        return tracked

    def _reject_late(self, request: _Request) -> None:
        """Reject the released spans whose levels could not be added."""
        for late in self._late_errors:
            request.reject(late)
        self._late_errors.clear()

    def _release_oldest(self, request: _Request, key: SenderSpanKey) -> None:
        """Stop the wait of a span, and of all that wait above and below it.

        Without a tracked span above them, the highest one is an operation. Raises JournalError.
        """
        key = self._waiting.find_topmost(key)
        span = self._waiting.get(key)
        state = self._find_sender(span)
        request.touched[state.instance.id] = state
        above = self._waiting.find_above(state.instance.id, span).key
        parent = None if above is None else state.spans.find(above[1:])
        self._release(state, key, self._apply_waiting(state, key, parent))

    def _apply_item(self, state: _SenderState, event: ReceivedEvent) -> None:
        """Add an item, unless it arrived before."""
        item = redact_report(read_item(event), self._get_redactor())
        state.clock = max(state.clock, item.at)
        run = state.sender.find_run(item.origin)
        if run is None:
            # Only an operation can have items. Its own report will complete it.
            run, paths = state.sender.add_run(item.origin, item.at)
            self._level_count += len(paths)
            state.changed.update(((run.run, path), run) for path in paths)
        # Why a hash: the items themselves would use ten times the memory.
        key = hash((state.instance.id, run.run, item.path, item.name, item.outcome, item.at))
        if key in self._known_items:
            return
        self._known_items[key] = None
        if len(self._known_items) > self._limits.items:
            self._known_items.popitem(last=False)
        # Why the time: numbers continue to increase after a restart of the receiver.
        state.last_item = max(state.last_item + 1, round(item.at * 1e6))
        state.items.append(_build_item(item, run, state.last_item))

    def _is_local(self, state: _SenderState, event: ReceivedEvent) -> bool:
        """Return True if the process writes to the same journal itself.

        Its own writes are complete, and have other sequence numbers.
        """
        if state.is_local is None and self._reader is not None:
            operation_id = event.attributes.get(semconv.OPERATION_ID)
            found = self._reader.get(normalize_id(operation_id)) if isinstance(operation_id, str) else None
            instance = None if found is None else found.instance
            # Why also the run: the application may choose the id in the resource.
            is_same = instance is not None and (
                instance.id == state.instance.id
                or (found is not None and found.run == event.attributes.get(semconv.RUN))
            )
            state.is_local = is_same and instance is not None and not is_otlp_host(instance.host)
        return bool(state.is_local)

    def _find_sender(self, record: ReceivedEvent | ReceivedSpan) -> _SenderState:
        id_ = _read_instance_id(record)
        state = self._senders.get(id_)
        if state is None:
            started_at = record.at if isinstance(record, ReceivedEvent) else record.started_at
            state = self._create_state(id_, record.resource, min(started_at, self._wall()))
            self._senders[id_] = state
            while len(self._senders) > self._limits.senders:
                _, dropped = self._senders.popitem(last=False)
                self._level_count -= dropped.sender.level_count
        self._senders.move_to_end(id_)
        return state

    def _create_state(
        self, id_: str, resource: Mapping[str, MetadataValue], started_at: float
    ) -> _SenderState:
        limits = self._limits
        sender = Sender(
            id_,
            max_runs=limits.runs_per_sender,
            max_ended_runs=limits.ended_runs_per_sender,
            max_levels=limits.levels_per_run,
        )
        instance = _build_instance(id_, resource, started_at, heartbeats=False)
        return _SenderState(instance, sender, SpanTracker(limits.spans_per_sender), started_at)

    def _store(self, states: Iterable[_SenderState]) -> None:
        """Write the changes of senders. They stay until the sink has stored them."""
        now = self._wall()
        for state in states:
            if state.is_local:
                continue
            snapshots = self._build_snapshots(state.changed)
            changes = (snapshots, state.items, state.logs, state.sender.active)
            if not any(changes) and not _sends_heartbeats(state):
                continue  # a sender of ended spans without progress
            self._sink.write(
                ChangeSet(
                    state.instance,
                    at=now,
                    clock=state.clock,
                    snapshots=snapshots,
                    events=tuple(state.items),
                    logs=tuple(state.logs),
                    trajectories=tuple(state.trajectories),
                )
            )
            state.changed.clear()
            state.items.clear()
            state.logs.clear()
            state.trajectories.clear()

    def _build_snapshots(self, changed: Mapping[tuple[str, str], MergedRun]) -> Sequence[LevelSnapshot]:
        """Return the snapshots of changed levels, parents before children."""
        # Why sorted: a late parent changes after its children.
        order = sorted(changed, key=lambda key: (key[0], key[1].count("/") if key[1] else -1))
        return [self._build_snapshot(changed[key], key[1]) for key in order]

    def _build_snapshot(self, run: MergedRun, path: str) -> LevelSnapshot:
        snapshot = run.build_snapshot(path, self._stall_after_s)
        eta = None if path or snapshot.status.finished else self._estimates.get(run.run)
        return snapshot if eta is None else replace(snapshot, eta=eta)


def _can_wait(above: SpanAbove, parent: TrackedSpan | None) -> bool:
    """Return True if the next span above is of the same process and not tracked yet."""
    return parent is None and above.is_local


def _sends_heartbeats(state: _SenderState) -> bool:
    return get_heartbeat_timeout_s(state.instance.host) != math.inf


def _build_item(item: ItemReport, run: MergedRun, number: int) -> Event:
    return Event(
        operation_id=run.operation_id,
        operation_type=run.operation_type,
        run=run.run,
        path=item.path,
        level_type=item.level_type,
        kind=semconv.EVENT_ITEM,
        number=number,
        at=item.at,
        name=item.name,
        outcome=item.outcome,
        error=item.error,
        metadata=item.metadata,
    )


def _read_instance_id(event: ReceivedEvent | ReceivedLog | ReceivedSpan) -> str:
    """Return the id of the sender. Without one, the resource identifies it."""
    for values in (event.resource, event.attributes):  # Heartbeats have it as an attribute.
        value = values.get(semconv.SERVICE_INSTANCE_ID)
        if isinstance(value, str) and value:
            return normalize_id(value)
    described = "\0".join(f"{key}={value}" for key, value in sorted(event.resource.items()))
    return f"otlp-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def _build_instance(
    id_: str, resource: Mapping[str, MetadataValue], at: float, *, heartbeats: bool
) -> Instance:
    pid = resource.get("process.pid")
    return Instance(
        id=id_,
        pid=pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 2**31 else 0,
        host=build_otlp_host(_get_name(resource, "host.name"), heartbeats=heartbeats),
        service=_get_name(resource, semconv.SERVICE_NAME) or "unknown_service",
        started_at=at,
    )


def _get_name(resource: Mapping[str, MetadataValue], key: str) -> str:
    value = resource.get(key)
    return truncate(value, MAX_NAME) if isinstance(value, str) else ""
