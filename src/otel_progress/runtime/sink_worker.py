"""A lane per sink: its own thread and a bounded mailbox, so that one that is slow or hangs holds up nobody else.

Batches that wait are merged, the newest snapshot of a level winning; what a sink could not take goes into the next batch again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Final

from otel_progress import batches
from otel_progress.batches import BatchDeclaration
from otel_progress.diagnostics import report_internal_error
from otel_progress.model import LevelSnapshot, Number
from otel_progress.operations import Event
from otel_progress.protocols import ChangeSet, Sink
from otel_progress.records import LogRecord, Preview, ResourceSample, ResourceUse, TrajectoryEntry
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.semconv import SinkName, get_sink_place
from otel_progress.text import truncate

MAX_SNAPSHOTS: Final = 200_000
"""Levels that may wait for one sink; beyond, the oldest are let go and counted."""


MAX_EVENTS: Final = 50_000
"""Events that may wait for one sink."""


MAX_LOGS: Final = 20_000
"""Log records that may wait for one sink."""


MAX_BATCHES: Final = 10_000
"""Declarations of batches that may wait for one sink."""


MAX_LESSONS: Final = 10_000
"""What past runs left to learn from that may wait for one sink."""


MAX_PREVIEWS: Final = 10_000
"""Previews that may wait for one sink."""


RETRY_S: Final = 0.05
"""Time between two tries of a flush to write what the sink refuses temporarily, in seconds."""


class PendingChanges:
    """Batches on their way to one sink, merged into one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Let everything go."""
        self.latest: ChangeSet | None = None
        self._snapshots: dict[tuple[str, str], LevelSnapshot] = {}
        self._events: list[Event] = []
        self._evicted: dict[tuple[str, str], None] = {}
        self._items: dict[tuple[str, str, str], Number] = {}
        self._logs: list[LogRecord] = []
        self._sample: ResourceSample | None = None
        self._resources: dict[str, ResourceUse] = {}
        self._batches: dict[str, BatchDeclaration] = {}
        self._lessons: list[TrajectoryEntry] = []
        self._previews: list[Preview] = []

    def add(self, batch: ChangeSet) -> int:
        """Merge a batch in; return how many snapshots, events, log records and so on had to be let go."""
        if self.latest is None or batch.clock >= self.latest.clock:
            self.latest = batch
        for key in batch.evicted:
            self._snapshots.pop(key, None)
            self._evicted[key] = None
        for snapshot in batch.snapshots:
            key = (snapshot.info.run, snapshot.info.path)
            known = self._snapshots.get(key)
            if known is None or known.sequence < snapshot.sequence:
                self._snapshots[key] = snapshot
                self._evicted.pop(key, None)
        self._events.extend(batch.events)
        for label, units in batch.items.items():
            self._items[label] = self._items.get(label, 0) + units
        self._logs.extend(batch.logs)
        self._observe(batch)
        return self._drop_surplus()

    def _observe(self, batch: ChangeSet) -> None:
        """Keep the newest sample, the newest use of each run, what the declarations of a batch come to, lessons and previews."""
        if batch.sample is not None and (self._sample is None or batch.sample.clock >= self._sample.clock):
            self._sample = batch.sample
        for run, use in batch.resources.items():
            known = self._resources.get(run)
            if known is None or known.samples <= use.samples:
                self._resources[run] = use
        self._lessons.extend(batch.trajectories)
        self._previews.extend(batch.previews)
        for info in batch.batches:
            declared = self._batches.get(info.id)
            self._batches[info.id] = info if declared is None else batches.merge(declared, info)

    def _drop_surplus(self) -> int:
        surplus = max(0, len(self._snapshots) - MAX_SNAPSHOTS)
        for key in list(islice(self._snapshots, surplus)):
            del self._snapshots[key]
        events = max(0, len(self._events) - MAX_EVENTS)
        del self._events[:events]
        for key in list(islice(self._evicted, max(0, len(self._evicted) - MAX_SNAPSHOTS))):
            del self._evicted[key]
        logs = max(0, len(self._logs) - MAX_LOGS)
        del self._logs[:logs]
        declared = max(0, len(self._batches) - MAX_BATCHES)
        for id_ in list(islice(self._batches, declared)):
            del self._batches[id_]
        lessons = max(0, len(self._lessons) - MAX_LESSONS)
        del self._lessons[:lessons]
        previews = max(0, len(self._previews) - MAX_PREVIEWS)
        del self._previews[:previews]
        for run in list(islice(self._resources, max(0, len(self._resources) - MAX_SNAPSHOTS))):
            del self._resources[run]
        return surplus + events + logs + declared + lessons + previews

    def drain(self) -> ChangeSet | None:
        """Return everything that waits as one batch, parents before children."""
        if self.latest is None:
            return None
        snapshots = sorted(self._snapshots.values(), key=lambda snapshot: snapshot.info.depth)
        batch = replace(
            self.latest,
            snapshots=snapshots,
            events=self._events,
            evicted=tuple(self._evicted),
            items=self._items,
            logs=self._logs,
            sample=self._sample,
            resources=self._resources,
            batches=tuple(self._batches.values()),
            trajectories=self._lessons,
            previews=self._previews,
        )
        self.clear()
        return batch


class SinkWorker:
    """Takes batches for one sink and writes them from a thread of its own. ``post`` never waits for the sink."""

    def __init__(
        self,
        name: SinkName,
        sink: Sink,
        *,
        every_tick: bool = False,
        on_error: Callable[[SinkName], None] = lambda name: None,
        on_dropped: Callable[[SinkName, int], None] = lambda name, count: None,
        on_recovered: Callable[[], None] = lambda: None,
        on_written: Callable[[ChangeSet], None] = lambda batch: None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.every_tick = every_tick
        self.dropped = 0
        """What the sink itself let go, as last told to ``on_dropped``."""
        self.seconds = 0.0
        """Processor time of the last write: a sink that waits for a disk or a network takes nothing from anybody."""
        self._on_error = on_error
        self._on_dropped = on_dropped
        self._on_recovered = on_recovered
        self._on_written = on_written
        self._error_is_temporary = False
        self.restart()

    def restart(self) -> None:
        """Start over without a thread and with nothing waiting: what a forked child does."""
        self._waiting = PendingChanges()
        self._ready = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._writing = False
        self._closing = False
        self._failed = False
        self._refused: ChangeSet | None = None
        self._refused_temporarily = False

    def submit(self, batch: ChangeSet) -> None:
        """Leave a batch; it is merged with those that wait."""
        with self._ready:
            if self._closing:
                return
            dropped = self._requeue_failed() + self._waiting.add(batch)
            if self._thread is None:
                self._start()
            self._ready.notify_all()
        if dropped:
            self._on_dropped(self.name, dropped)

    def _start(self) -> None:
        """Start the thread; without one the next batch tries again, and who asks for a flush writes what waits."""
        self._thread = start_daemon_thread(
            self._run,
            self.name,
            get_sink_place(self.name),
            f"the thread of the {self.name} could not be started",
        )

    def _requeue_failed(self) -> int:
        """Put what the sink refused in front of what waits; it is tried again with the next batch, not in a loop."""
        refused, self._refused = self._refused, None
        if refused is None:
            return 0
        newer = self._waiting.drain()
        self._waiting = PendingChanges()
        return self._waiting.add(refused) + (0 if newer is None else self._waiting.add(newer))

    @property
    def has_backlog(self) -> bool:
        """True while there is something that the sink has not taken yet, or has refused."""
        return self._writing or self._refused is not None or self._waiting.latest is not None

    def flush(self, timeout: float) -> bool:
        """Wait until everything posted so far was taken without an error, trying again once what the sink refused before.

        False when it was not taken within ``timeout`` seconds. While the sink refuses it temporarily, it is tried again until then.
        """
        deadline = time.monotonic() + timeout
        while not self._flush_once(max(0.0, deadline - time.monotonic())):
            with self._ready:
                is_retried = self._refused_temporarily and not self._closing and time.monotonic() < deadline
            if not is_retried:
                return False
            time.sleep(RETRY_S)
        return True

    def _flush_once(self, timeout: float) -> bool:
        with self._ready:
            if self._refused is not None and not self._closing:
                self._requeue_failed()
                self._ready.notify_all()
            alone = self._thread is None and self._waiting.latest is not None
        if alone:  # no thread could be started: better to wait for the sink than to lose the end of the work
            self._write_waiting()
        with self._ready:
            done = self._ready.wait_for(lambda: self._waiting.latest is None and not self._writing, timeout)
            return done and not self._failed

    def close(self, timeout: float) -> bool:
        """Flush, stop the thread and close the sink."""
        done = self.flush(timeout)
        with self._ready:
            self._closing = True
            thread = self._thread
            self._ready.notify_all()
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():  # the sink hangs: closing it from here could hang as well
                return False
        try:
            self.sink.close()
        except Exception as error:
            report_internal_error(
                get_sink_place(self.name), f"the {self.name} could not be closed", error=error
            )
        return done

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._waiting.latest is not None or self._closing)
                if self._closing and self._waiting.latest is None:
                    return
            self._write_waiting()

    def _write_waiting(self) -> None:
        with self._ready:
            batch = self._waiting.drain()
            self._writing = True
        failed = batch is not None and not self._write(batch)
        if batch is not None and not failed:
            self._tell_written(batch)
        with self._ready:
            self._writing = False
            self._refused = batch if failed else None
            self._refused_temporarily = failed and self._error_is_temporary
            recovered = self._failed and not failed
            self._failed = failed
            self._ready.notify_all()
        if recovered:
            self._on_recovered()

    def _tell_written(self, batch: ChangeSet) -> None:
        try:
            self._on_written(batch)
        except Exception as error:
            report_internal_error(
                get_sink_place(self.name),
                f"what was asked through the {self.name} cannot be heard: {truncate(error)}",
                error=error,
            )

    def _write(self, batch: ChangeSet) -> bool:
        began = time.thread_time()
        try:
            self.sink.write(batch)
            self._ask_for_drops()
        except Exception as error:
            self._error_is_temporary = getattr(error, "is_temporary", False) is True
            self._on_error(self.name)
            report_internal_error(
                get_sink_place(self.name),
                f"the {self.name} cannot take progress, the work goes on: {truncate(error)}",
                error=error,
            )
            return False
        finally:
            self.seconds = time.thread_time() - began
        return True

    def _ask_for_drops(self) -> None:
        """Tell what the sink had to let go by itself (a journal at its size bound, an exporter at its cap)."""
        dropped = getattr(self.sink, "dropped", 0)
        if isinstance(dropped, int) and dropped > self.dropped:
            self._on_dropped(self.name, dropped - self.dropped)
            self.dropped = dropped
