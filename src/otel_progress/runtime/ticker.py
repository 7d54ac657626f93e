"""The one collecting thread of a process: wakes when something begins, ticks while something runs, sleeps otherwise.

A tick collects what changed and leaves it in every lane. When ticks and sinks take long, the pause grows with them, so that they never
take more than a tenth of the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.live.store import LiveStore
from otel_progress.protocols import ChangeSet
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.settings.defaults import DEFAULT_TICK_S

MAX_TIME_SHARE: Final = 0.09
"""The part of the time that collecting and writing may take: below the promised tenth, since threads cost more than they see."""


HEARTBEAT_S: Final = 1.0
"""How often lanes get a batch although nothing changed: the sign of life."""


class Ticker:
    """Ticks every ``interval`` seconds while the store has an active level.

    ``get_store`` returns the store, which may be created later than the ticker: the store's listener wakes the ticker.
    ``before`` is called before each collection, ``after`` with its change set and the seconds it took.
    ``watching`` returns True when a level may start without a call of ``wake``.
    """

    def __init__(
        self,
        get_store: Callable[[], LiveStore],
        lanes: Sequence[SinkWorker],
        *,
        interval: float = DEFAULT_TICK_S,
        before: Callable[[], None] = lambda: None,
        watching: Callable[[], bool] = lambda: False,
        after: Callable[[ChangeSet, float], None] = lambda batch, seconds: None,
    ) -> None:
        self._get_store = get_store
        self.lanes = lanes
        self._interval = interval
        self._before = before
        self._watching = watching
        self._after = after
        self._in_background = True
        self.restart()

    def restart(self) -> None:
        """Start over without a thread: what a forked child does. The next level that begins starts one."""
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._asleep = self._in_background
        self._stop = threading.Event()
        self._beat_at = float("-inf")

    def wake(self) -> None:
        """Go on ticking. Called at every begin, so it is nothing but a look at a flag while ticks go on."""
        if self._asleep:
            self._asleep = False
            if self._thread is None:
                self._start()
            self._wake.set()

    def set_background(self, enabled: bool) -> None:
        """Allow or forbid ticks in the background. Tests forbid them and call ``tick()``."""
        self._in_background = self._asleep = enabled

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._stop.is_set():
                return
            self._thread = start_daemon_thread(
                self._run, "ticker", "ticker", "the thread that collects progress could not be started"
            )
            if self._thread is None:  # the next begin tries again; the tick at the end needs no thread
                self._asleep = True

    def tick(self) -> float:
        """Collect once and hand the batch on; return the seconds it took."""
        began = time.perf_counter()
        with self._turn:
            self._before()
            batch = self._get_store().collect()
            carries = has_changes(batch)
            beat = carries or batch.clock - self._beat_at >= HEARTBEAT_S
            if beat:
                self._beat_at = batch.clock
            for lane in self.lanes:
                if beat or lane.every_tick:
                    lane.submit(batch)
            seconds = time.perf_counter() - began
            self._after(batch, seconds)
        return seconds

    def pause(self, seconds: float) -> float:
        """Return how long to wait after a tick of ``seconds``, the last writes of the sinks counted in."""
        busy = seconds + sum(lane.seconds for lane in self.lanes)
        return max(self._interval - seconds, busy * (1 / MAX_TIME_SHARE - 1))

    def stop(self, timeout: float) -> None:
        """Tick once more and end the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        self._shielded_tick()

    def _run(self) -> None:
        while not self._stop.is_set():
            seconds = self._shielded_tick()
            if self._idle():
                self._sleep()
            else:
                self._stop.wait(self.pause(seconds))

    def _idle(self) -> bool:
        return (
            self._get_store().idle
            and not self._watching()
            and not any(lane.has_backlog for lane in self.lanes)
        )

    def _sleep(self) -> None:
        self._wake.clear()
        self._asleep = self._in_background
        if (
            self._idle() and not self._stop.is_set()
        ):  # after saying so: a begin in between is seen here, or wakes us
            self._wake.wait()
        self._asleep = False

    def _shielded_tick(self) -> float:
        try:
            return self.tick()
        except Exception as error:
            report_internal_error(
                "tick", "a tick failed; the work goes on, progress is seen at the next one", error=error
            )
            return self._interval


def has_changes(batch: ChangeSet) -> bool:
    """True when a batch says more than that the process is alive."""
    told = (
        batch.snapshots
        or batch.events
        or batch.evicted
        or batch.items
        or batch.logs
        or batch.batches
        or batch.resources
    )
    return bool(told or batch.trajectories or batch.previews) or batch.sample is not None
