"""Progress as OpenTelemetry events: each level's start and end, its way between them at most once a second, items, signs of life.

An event is a log record with a name, tied to the level's span by explicit ids, so it goes out whether the span is sampled or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from otel_progress import semconv
from otel_progress.model import LevelInfo, LevelSnapshot, Status
from otel_progress.operations import Condition, Event, OperationSnapshot
from otel_progress.otlp import event_codec as fields
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import ChangeSet
from otel_progress.records import Preview

UPDATE_S: Final = 1.0
"""Shortest time between two updates of one level, in seconds."""


HEARTBEAT_S: Final = 30.0
"""Shortest time between two heartbeats of an instance, in seconds."""


MAX_LEVELS: Final = 10_000
"""Running levels whose updates are followed; of those beyond, only start and end are told."""


_REMEMBERED: Final = 4096


_PASSED_ON: Final = (semconv.EVENT_ITEM,)


class Emitter(Protocol):
    """Where events go; ``EventLog`` of the logs shim is one."""

    def emit(self, event: LogEvent) -> None:
        """Queue one event."""

    def close(self) -> None:
        """Send what is queued and close."""


@dataclass(slots=True)
class _Tracked:
    """A running level: its newest snapshot, when it was last told, and whether there is something newer to tell."""

    latest: LevelSnapshot
    told_clock: float
    due: bool = False
    stalled: bool = False


class OtlpEvents:
    """A Sink that emits progress events.

    ``address`` returns where a preview of an operation can be looked at, empty while that is not known.
    At most ``max_levels`` running levels are followed; ``dropped`` counts the snapshots of others. An update that still waits for
    its second when the level ends is not sent by itself: the finished event has the last values.
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
        self._runs: dict[str, dict[str, _Tracked]] = {}
        self._followed = 0
        self._waiting: dict[tuple[str, str], _Tracked] = {}
        self._ended: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self._last_clock: float | None = None
        self._checked_clock: float | None = None
        self._heartbeat_clock: float | None = None
        self.dropped = 0

    def write(self, batch: ChangeSet) -> None:
        """Emit what a batch has to tell, and the updates whose second is over."""
        ended = []
        for snapshot in batch.snapshots:
            self._start(snapshot, batch.clock)
            if snapshot.status.finished:
                ended.append(snapshot)
            else:
                self._advance(snapshot, batch.clock)
        self._emit_items(batch)
        self._emit_previews(batch)
        for snapshot in reversed(ended):  # children before their parents
            self._finish(snapshot)
        for run, path in batch.evicted:
            self._forget(run, path)
        self._emit_due_updates(batch.clock)
        self._check_stalls(batch)
        self._last_clock = batch.clock

    def close(self) -> None:
        """Tell the last value of every level that still runs, then close the emitter."""
        for level in self._waiting.values():
            self._emit_level(semconv.EVENT_UPDATED, level.latest, level.latest.observed_at)
        self._waiting.clear()
        self._emitter.close()

    def _start(self, snapshot: LevelSnapshot, clock: float) -> None:
        info = snapshot.info
        levels = self._runs.get(info.run)
        known = None if levels is None else levels.get(info.path)
        if known is not None and known.latest.info.attempt == info.attempt:
            return
        if snapshot.status is Status.PENDING or info.started_at is None or self._is_over(info):
            return
        if known is None and self._followed >= self._max_levels:
            if not self._began_now(info):
                return
        else:
            if known is None:
                self._followed += 1
            self._runs.setdefault(info.run, {})[info.path] = _Tracked(snapshot, clock)
            self._waiting.pop((info.run, info.path), None)
        self._emit_level(semconv.EVENT_STARTED, snapshot, info.started_at)

    def _is_over(self, info: LevelInfo) -> bool:
        """True for a level that was seen to end, or whose operation was: what comes late is no new start."""
        return (info.run, info.path, info.attempt) in self._ended or (
            bool(info.path) and (info.run, "", 0) in self._ended
        )

    def _began_now(self, info: LevelInfo) -> bool:
        """True when a level that is not followed started since the last batch, so that its start has not been told."""
        return self._last_clock is None or info.started_clock is None or info.started_clock > self._last_clock

    def _advance(self, snapshot: LevelSnapshot, clock: float) -> None:
        info = snapshot.info
        known = self._runs.get(info.run, {}).get(info.path)
        if known is None:
            self.dropped += snapshot.status is Status.RUNNING
            return
        if snapshot.sequence <= known.latest.sequence:
            return
        known.latest = snapshot
        known.due = True
        if clock - known.told_clock >= UPDATE_S:
            self._update(known, clock)
        else:
            self._waiting[info.run, info.path] = known

    def _update(self, level: _Tracked, clock: float) -> None:
        level.told_clock = clock
        level.due = False
        self._emit_level(semconv.EVENT_UPDATED, level.latest, level.latest.observed_at)

    def _emit_due_updates(self, clock: float) -> None:
        over = [
            key
            for key, level in self._waiting.items()
            if not level.due or clock - level.told_clock >= UPDATE_S
        ]
        for key in over:
            level = self._waiting.pop(key)
            if level.due:
                self._update(level, clock)

    def _finish(self, snapshot: LevelSnapshot) -> None:
        info = snapshot.info
        key = (info.run, info.path, info.attempt)
        self._forget(info.run, info.path)
        if key in self._ended:
            return
        self._remember(key)
        if not info.path:
            self._remember((info.run, "", 0))
        at = snapshot.observed_at if snapshot.ended_at is None else snapshot.ended_at
        self._emit_level(semconv.EVENT_FINISHED, snapshot, at)

    def _remember(self, key: tuple[str, str, int]) -> None:
        self._ended[key] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _forget(self, run: str, path: str) -> None:
        levels = self._runs.get(run)
        if levels is None:
            return
        gone = [path] if path else list(levels)
        for each in gone:
            if levels.pop(each, None) is not None:
                self._followed -= 1
                self._waiting.pop((run, each), None)
        if not levels:
            del self._runs[run]

    def _emit_items(self, batch: ChangeSet) -> None:
        events = [event for event in batch.events if event.kind in _PASSED_ON]
        if not events:
            return
        here = {(snapshot.info.run, snapshot.path): snapshot.info for snapshot in batch.snapshots}
        for event in events:
            self._emitter.emit(fields.item_event(event, self._place(event, here)))

    def _emit_previews(self, batch: ChangeSet) -> None:
        """Tell previews, those that are gone left out."""
        stored = [preview for preview in batch.previews if preview.location]
        here = (
            {(snapshot.info.run, snapshot.path): snapshot.info for snapshot in batch.snapshots}
            if stored
            else {}
        )
        for preview in stored:
            address = self._address(preview.operation_id, preview.number)
            self._emitter.emit(fields.preview_event(preview, self._place(preview, here), address))

    def _place(self, event: Event | Preview, here: Mapping[tuple[str, str], LevelInfo]) -> LevelInfo | None:
        info = here.get((event.run, event.path))
        if info is not None:
            return info
        known = self._runs.get(event.run, {}).get(event.path)
        return None if known is None else known.latest.info

    def _check_stalls(self, batch: ChangeSet) -> None:
        """Once a second: tell operations that stall, and, more rarely, that the instance is alive."""
        if self._checked_clock is not None and batch.clock - self._checked_clock < UPDATE_S:
            return
        self._checked_clock = batch.clock
        running = [levels[""] for levels in self._runs.values() if "" in levels]
        for root in running:
            stalled = self._condition(root.latest, batch) is Condition.STALLED
            if stalled and not root.stalled:
                self._emit_level(semconv.EVENT_STALLED, root.latest, batch.at)
            root.stalled = stalled
        if self._heartbeat_clock is None:
            self._heartbeat_clock = batch.clock  # the first one after a while: starts are signs of life too
        elif running and batch.clock - self._heartbeat_clock >= HEARTBEAT_S:
            self._heartbeat_clock = batch.clock
            self._emitter.emit(fields.heartbeat(batch, len(running)))

    def _condition(self, root: LevelSnapshot, batch: ChangeSet) -> Condition:
        return OperationSnapshot(root, (), batch.at, batch.clock, batch.instance).condition

    def _emit_level(self, name: str, snapshot: LevelSnapshot, at: float) -> None:
        self._emitter.emit(fields.level_event(name, snapshot, at))
