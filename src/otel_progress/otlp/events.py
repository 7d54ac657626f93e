"""Progress as OpenTelemetry events: levels, items, previews and heartbeats.

Each level is updated at most once per second. An event is a log record with a name. It refers to
the level's span by id, so it is exported whether the span is sampled or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from otel_progress import semconv
from otel_progress.model import LevelInfo, LevelSnapshot, Status
from otel_progress.operations import Condition, Event, OperationSnapshot
from otel_progress.otlp import event_codec
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import ChangeSet
from otel_progress.records import Preview

UPDATE_S: Final = 1.0
"""Minimum time between two updates of one level, in seconds."""


HEARTBEAT_S: Final = 30.0
"""Minimum time between two heartbeats of an instance, in seconds."""


MAX_LEVELS: Final = 10_000
"""Maximum number of running levels with updates. Other levels have only start and end events."""


_MAX_FINISHED_LEVELS: Final = 4096
"""Maximum number of finished levels stored, so that late snapshots do not start them again."""


_EXPORTED_KINDS: Final = (semconv.EVENT_ITEM,)


_StartKey: TypeAlias = tuple[str, str, int, float | None]
"""Run, path, attempt and start of a level on the monotonic clock.

Why the start: below the next attempt of a level, the attempts of its levels start at 1 again.
"""


class Emitter(Protocol):
    """Receiver of events, for example an ``EventLog``."""

    def emit(self, event: LogEvent) -> None:
        """Queue one event."""

    def close(self) -> None:
        """Send the queued events and close."""


@dataclass(slots=True)
class _RunningLevel:
    """A running level: its latest snapshot and the time of its latest event.

    ``due`` is True while the snapshot was not sent.
    """

    latest: LevelSnapshot
    sent_clock: float
    due: bool = False
    stalled: bool = False


class OtlpEvents:
    """A Sink that emits progress events.

    ``address`` returns the URL of a preview, or an empty string while it is unknown. At most
    ``max_levels`` running levels have updates. ``dropped`` counts the snapshots of other levels.
    If a level ends while an update is waiting, only the finished event is sent. It has the last
    values.
    """

    def __init__(
        self,
        emitter: Emitter,
        *,
        max_levels: int = MAX_LEVELS,
        address: Callable[[str, int], str] = lambda operation_id, number: "",
    ) -> None:
        self._emitter = emitter
        self._address = address
        self._max_levels = max_levels
        self._runs: dict[str, dict[str, _RunningLevel]] = {}
        self._level_count = 0
        self._declared: dict[str, set[str]] = {}
        self._declared_count = 0
        self._waiting: dict[tuple[str, str], _RunningLevel] = {}
        self._finished: OrderedDict[_StartKey, None] = OrderedDict()
        self._last_clock: float | None = None
        self._checked_clock: float | None = None
        self._heartbeat_clock: float | None = None
        self.dropped = 0

    def write(self, change_set: ChangeSet) -> None:
        """Emit the events of a change set and the updates that are due."""
        # Why first: a level may be evicted and started again within one tick.
        for run, path in change_set.evicted:
            self._drop_levels(run, path)
        finished = []
        for snapshot in change_set.snapshots:
            self._start_level(snapshot, change_set.clock)
            if snapshot.status.finished:
                finished.append(snapshot)
            else:
                self._advance_level(snapshot, change_set.clock)
        self._emit_items(change_set)
        self._emit_previews(change_set)
        for snapshot in reversed(finished):  # children before their parents
            self._finish_level(snapshot)
        self._emit_due_updates(change_set.clock)
        self._check_stalls(change_set)
        self._last_clock = change_set.clock

    def close(self) -> None:
        """Emit the last values of every running level, then close the emitter."""
        for level in self._waiting.values():
            self._emit_level(semconv.EVENT_UPDATED, level.latest, level.latest.observed_at)
        self._waiting.clear()
        self._emitter.close()

    def _start_level(self, snapshot: LevelSnapshot, clock: float) -> None:
        info = snapshot.info
        levels = self._runs.get(info.run)
        known = None if levels is None else levels.get(info.path)
        if known is not None and _have_same_start(known.latest.info, info):
            return
        if snapshot.status is Status.PENDING:
            self._declare_stage(snapshot)
            return
        if info.started_at is None or self._is_finished(info):
            return
        if known is None and self._level_count >= self._max_levels:
            if not self._is_new(info):
                return
        else:
            if known is None:
                self._level_count += 1
            self._runs.setdefault(info.run, {})[info.path] = _RunningLevel(snapshot, clock)
            self._waiting.pop((info.run, info.path), None)
        self._emit_level(semconv.EVENT_STARTED, snapshot, info.started_at)

    def _declare_stage(self, snapshot: LevelSnapshot) -> None:
        """Emit the first snapshot of a declared stage, as an update."""
        info = snapshot.info
        declared = self._declared.get(info.run, set())
        if not info.declared or info.path in declared or self._is_finished(info):
            return
        if self._declared_count >= self._max_levels:
            self.dropped += 1
            return
        self._declared.setdefault(info.run, declared).add(info.path)
        self._declared_count += 1
        self._emit_level(semconv.EVENT_UPDATED, snapshot, snapshot.observed_at)

    def _is_finished(self, info: LevelInfo) -> bool:
        """Return True if the level or its operation has finished.

        A late snapshot is no new start.
        """
        return _build_start_key(info) in self._finished or (
            bool(info.path) and _build_ended_run_key(info.run) in self._finished
        )

    def _is_new(self, info: LevelInfo) -> bool:
        """Return True if the level started since the last change set."""
        return self._last_clock is None or info.started_clock is None or info.started_clock > self._last_clock

    def _advance_level(self, snapshot: LevelSnapshot, clock: float) -> None:
        info = snapshot.info
        known = self._runs.get(info.run, {}).get(info.path)
        if known is None:
            self.dropped += snapshot.status is Status.RUNNING
            return
        if snapshot.sequence <= known.latest.sequence:
            return
        known.latest = snapshot
        known.due = True
        if clock - known.sent_clock >= UPDATE_S:
            self._emit_update(known, clock)
        else:
            self._waiting[info.run, info.path] = known

    def _emit_update(self, level: _RunningLevel, clock: float) -> None:
        level.sent_clock = clock
        level.due = False
        self._emit_level(semconv.EVENT_UPDATED, level.latest, level.latest.observed_at)

    def _emit_due_updates(self, clock: float) -> None:
        due = [
            key
            for key, level in self._waiting.items()
            if not level.due or clock - level.sent_clock >= UPDATE_S
        ]
        for key in due:
            level = self._waiting.pop(key)
            if level.due:
                self._emit_update(level, clock)

    def _finish_level(self, snapshot: LevelSnapshot) -> None:
        info = snapshot.info
        key = _build_start_key(info)
        self._drop_levels(info.run, info.path)
        if key in self._finished:
            return
        self._add_finished(key)
        if not info.path:
            self._add_finished(_build_ended_run_key(info.run))
        at = snapshot.observed_at if snapshot.ended_at is None else snapshot.ended_at
        self._emit_level(semconv.EVENT_FINISHED, snapshot, at)

    def _add_finished(self, key: _StartKey) -> None:
        self._finished[key] = None
        if len(self._finished) > _MAX_FINISHED_LEVELS:
            self._finished.popitem(last=False)

    def _drop_levels(self, run: str, path: str) -> None:
        """Drop a level, or all levels of a run if ``path`` is empty."""
        if not path:
            self._declared_count -= len(self._declared.pop(run, ()))
        levels = self._runs.get(run)
        if levels is None:
            return
        for dropped_path in [path] if path else list(levels):
            if levels.pop(dropped_path, None) is not None:
                self._level_count -= 1
                self._waiting.pop((run, dropped_path), None)
        if not levels:
            del self._runs[run]

    def _emit_items(self, change_set: ChangeSet) -> None:
        events = [event for event in change_set.events if event.kind in _EXPORTED_KINDS]
        if not events:
            return
        infos = _index_infos(change_set)
        for event in events:
            self._emitter.emit(event_codec.build_item_event(event, self._find_info(event, infos)))

    def _emit_previews(self, change_set: ChangeSet) -> None:
        """Emit an event for each stored preview. A deleted preview has no location."""
        stored = [preview for preview in change_set.previews if preview.location]
        infos = _index_infos(change_set) if stored else {}
        for preview in stored:
            address = self._address(preview.operation_id, preview.number)
            info = self._find_info(preview, infos)
            self._emitter.emit(event_codec.build_preview_event(preview, info, address))

    def _find_info(
        self, event: Event | Preview, infos: Mapping[tuple[str, str], LevelInfo]
    ) -> LevelInfo | None:
        info = infos.get((event.run, event.path))
        if info is not None:
            return info
        known = self._runs.get(event.run, {}).get(event.path)
        return None if known is None else known.latest.info

    def _check_stalls(self, change_set: ChangeSet) -> None:
        """Report stalled operations once per second, and emit heartbeats."""
        if self._checked_clock is not None and change_set.clock - self._checked_clock < UPDATE_S:
            return
        self._checked_clock = change_set.clock
        running = [levels[""] for levels in self._runs.values() if "" in levels]
        for root in running:
            stalled = _get_condition(root.latest, change_set) is Condition.STALLED
            if stalled and not root.stalled:
                self._emit_level(semconv.EVENT_STALLED, root.latest, change_set.at)
            root.stalled = stalled
        if self._heartbeat_clock is None:
            # The first heartbeat comes after HEARTBEAT_S, because start events prove the same.
            self._heartbeat_clock = change_set.clock
        elif running and change_set.clock - self._heartbeat_clock >= HEARTBEAT_S:
            self._heartbeat_clock = change_set.clock
            self._emitter.emit(event_codec.build_heartbeat(change_set, len(running)))

    def _emit_level(self, name: str, snapshot: LevelSnapshot, at: float) -> None:
        self._emitter.emit(event_codec.build_level_event(name, snapshot, at))


def _have_same_start(first: LevelInfo, second: LevelInfo) -> bool:
    """Return True if two descriptions of a level are of the same attempt and start."""
    return first.attempt == second.attempt and first.started_clock == second.started_clock


def _build_start_key(info: LevelInfo) -> _StartKey:
    return (info.run, info.path, info.attempt, info.started_clock)


def _build_ended_run_key(run: str) -> _StartKey:
    return (run, "", 0, None)


def _index_infos(change_set: ChangeSet) -> dict[tuple[str, str], LevelInfo]:
    """Return the level descriptions of a change set by run and path."""
    return {(snapshot.info.run, snapshot.path): snapshot.info for snapshot in change_set.snapshots}


def _get_condition(root: LevelSnapshot, change_set: ChangeSet) -> Condition:
    return OperationSnapshot(root, (), change_set.at, change_set.clock, change_set.instance).condition
