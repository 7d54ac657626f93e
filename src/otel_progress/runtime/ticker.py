"""Ticker: the thread that collects changes and submits them to the sinks.

It starts when a level starts, ticks while a level is active, and sleeps otherwise. The pause
between two ticks grows with the processor time that ticks and sinks need, so that they use at most
a tenth of a core. The end of an operation interrupts the pause.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from otel_progress.diagnostics import report_internal_error
from otel_progress.live.store import LiveStore
from otel_progress.locking import CallerLock
from otel_progress.protocols import ChangeSet
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.runtime.threads import start_daemon_thread
from otel_progress.settings.defaults import DEFAULT_TICK_S

MAX_TIME_SHARE: Final = 0.09
"""Maximum share of a core for ticks and writes. Beyond it the pauses become longer. It is below
the documented tenth, because threads cost more than they can measure.
"""


MAX_PAUSE_S: Final = 5.0
"""Maximum pause between two ticks in seconds. Other processes consider a process that writes no
heartbeat for 15 seconds as ended.
"""


HEARTBEAT_S: Final = 1.0
"""Interval at which sinks receive a change set although nothing changed, in seconds."""


MAX_WAITING_ENDS: Final = 20_000
"""Ended operations that wait for a tick. Beyond it, the pauses become shorter."""


CROWDED_TIME_SHARE: Final = 0.5
"""Maximum share of the time for ticks while more ended operations wait. Why more: otherwise their
number grows until some are dropped.
"""


END_TIME_SHARE: Final = 0.005
"""Maximum share of the time for ticks that the ends of operations cause. Beyond it, ends wait for
the next regular tick.
"""


MAX_END_CREDIT_S: Final = 0.05
"""Time that ticks at ends may use before their share limits them, in seconds."""


_POLL_S: Final = 0.05
"""Time between two checks of the waiting ended operations during a pause, in seconds."""


class Ticker:
    """Ticks every ``interval`` seconds while the store has an active level.

    ``get_store`` returns the store. It may be created later than the ticker, because the
    store's listener wakes the ticker. ``before`` is called before each collection, ``collected``
    with its change set before the sinks receive it, and ``after`` with the change set and the
    seconds that the tick took. ``watching`` returns True when a level may
    start without a call of ``wake``.
    """

    def __init__(
        self,
        get_store: Callable[[], LiveStore],
        sink_workers: Sequence[SinkWorker],
        *,
        interval: float = DEFAULT_TICK_S,
        before: Callable[[], None] = lambda: None,
        watching: Callable[[], bool] = lambda: False,
        collected: Callable[[ChangeSet], None] = lambda change_set: None,
        after: Callable[[ChangeSet, float], None] = lambda change_set, seconds: None,
    ) -> None:
        self._get_store = get_store
        self._sink_workers = sink_workers
        self._interval = interval
        self._before = before
        self._watching = watching
        self._collected = collected
        self._after = after
        self._in_background = True
        self.restart()

    def restart(self) -> None:
        """Discard the thread, as a forked child does.

        The next start of a level starts a new one.
        """
        self._tick_lock = CallerLock()
        # Why a queue: its C functions may be interrupted by themselves, unlike those of an Event.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = CallerLock()
        self._is_asleep = self._in_background
        self._stop = threading.Event()
        self._heartbeat_at = float("-inf")
        self._started_ticks = 0
        self._finished_ticks = 0
        self._is_end_due = False
        self._is_awaited = False
        self._end_credit_s = MAX_END_CREDIT_S
        self._credited_at = time.monotonic()

    def wake(self) -> None:
        """Resume ticking.

        Called whenever a level starts, so it only checks a flag while the ticker runs.
        """
        if self._is_asleep:
            if self._thread is None or not self._thread.is_alive():
                self._start_lock.run(self._start_thread)
            # Why last: after an interrupted call the next one wakes the ticker.
            self._wake.put(None)
            self._is_asleep = self._thread is None and self._in_background

    def wake_at_end(self) -> None:
        """Tick soon, because an operation has ended.

        It only checks a flag while a tick is due.
        """
        if not self._is_end_due:
            self._is_end_due = True
            # Why: an end may be the first call of a process without a thread for ticks.
            self.wake()
            self._wake.put(None)

    def request_tick(self) -> int:
        """Tick at once. Return a number for :meth:`has_ticked`."""
        number = self._started_ticks
        self._is_awaited = True
        self.wake()
        self._wake.put(None)
        return number

    def has_ticked(self, number: int) -> bool:
        """Return True if a tick after ``request_tick`` has submitted its changes."""
        return self._finished_ticks > number

    @property
    def has_started(self) -> bool:
        """True if something was recorded in this process."""
        return self._thread is not None or self._started_ticks > 0

    @property
    def is_ticking(self) -> bool:
        """True while a tick has changes that it has not submitted, and after a failed one."""
        return self._finished_ticks != self._started_ticks

    def can_wait(self) -> bool:
        """Return False if a wait for a tick is useless or would block the tick itself."""
        return (
            self._thread is not None
            and self._thread is not threading.current_thread()
            and not self._tick_lock.is_owned()
            and not self._stop.is_set()
        )

    def set_background(self, enabled: bool) -> None:
        """Allow or forbid ticks in the background. Tests forbid them and call ``tick()``."""
        self._in_background = self._is_asleep = enabled

    def _start_thread(self) -> None:
        if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        # Without a thread, the next level tries again. The tick at the shutdown needs none.
        self._thread = start_daemon_thread(
            self._run,
            "ticker",
            "ticker",
            "The thread that collects progress could not be started",
            register=self._register_thread,
        )

    def _register_thread(self, thread: threading.Thread) -> None:
        self._thread = thread

    def tick(self) -> float:
        """Collect changes once and submit them to the sinks.

        Return the processor time of the tick in seconds.
        """
        return self._tick_within(-1) or 0.0

    def _tick_within(self, timeout: float) -> float | None:
        """Tick like :meth:`tick`. Return None if another tick lasts ``timeout`` seconds.

        A timeout of -1 is unlimited.
        """
        # Why: a signal handler that flushes may interrupt a tick of its own thread.
        if self._tick_lock.is_interrupting():
            return 0.0
        processor_started = time.thread_time()
        tick_lock = self._tick_lock.lock
        try:
            # Why a timeout: the other tick may wait for a lock of a call that this one interrupts.
            if not tick_lock.acquire(timeout=timeout):
                return None
            # Why again: an exception between two calls would leave the lock held.
            with tick_lock:
                tick_lock.release()
                self._tick_locked()
        except BaseException:
            self._tick_lock.release_all()
            raise
        # Why not the elapsed time: on a busy machine most of it is that of other programs, and the
        # pause would become longer by ten times as much.
        return time.thread_time() - processor_started

    def _tick_locked(self) -> None:
        started = time.perf_counter()
        self._started_ticks += 1
        number = self._started_ticks
        self._is_end_due = self._is_awaited = False
        self._before()
        change_set = self._get_store().collect()
        self._collected(change_set)
        is_due = has_changes(change_set) or change_set.clock - self._heartbeat_at >= HEARTBEAT_S
        if is_due:
            self._heartbeat_at = change_set.clock
        try:
            for worker in self._sink_workers:
                if is_due or worker.every_tick:
                    worker.submit(change_set)
        except BaseException:
            # Why: a signal handler raised, and some sinks have not received it.
            self._get_store().resend(ended=True)
            raise
        self._finished_ticks = number
        self._after(change_set, time.perf_counter() - started)

    def compute_pause(self, seconds: float) -> float:
        """Return the pause after a tick that used ``seconds`` of processor time.

        The processor time of the last writes of the sinks counts as well. The pause is at most
        ``MAX_PAUSE_S``, unless the interval is longer.
        """
        pause_s = min(MAX_PAUSE_S, self._get_busy_s(seconds) * (1 / MAX_TIME_SHARE - 1))
        return max(self._interval - seconds, pause_s)

    def _get_busy_s(self, seconds: float) -> float:
        """Return the processor time of a tick and of the last writes of the sinks."""
        return seconds + sum(worker.seconds for worker in self._sink_workers)

    def drain(self, timeout: float) -> bool:
        """Tick until no ended operation waits. Return False after an error or the timeout."""
        deadline = time.monotonic() + timeout
        if self._tick_lock.is_interrupting():
            return False
        is_complete = self._tick_safely(timeout) is not None
        store = self._get_store()
        while is_complete and store.waiting_ends:
            remaining_s = deadline - time.monotonic()
            is_complete = remaining_s > 0.0 and self._tick_safely(remaining_s) is not None
        return is_complete

    def stop(self, timeout: float) -> bool:
        """End the thread within ``timeout`` seconds, and tick a last time.

        Return False if ended operations still wait. They are moved to the file, if there is one.
        """
        deadline = time.monotonic() + timeout
        self._stop.set()
        self._wake.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        is_complete = self.drain(max(0.0, 0.5 * (deadline - time.monotonic())))
        if not is_complete:
            self._spill_safely(self._get_store(), everything=True)
        return is_complete

    def _run(self) -> None:
        # Why the comparison: an exception may interrupt the start of a thread. Then the next level
        # starts another one.
        while not self._stop.is_set() and threading.current_thread() is self._thread:
            seconds = self._tick_safely() or self._interval
            if self._is_idle():
                self._sleep()
            else:
                self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        """Wait after a tick that used ``seconds``, shorter while many ends wait.

        Move them to a file if they use much memory, which is faster than a tick.
        """
        started, pause_s = time.monotonic(), self.compute_pause(seconds)
        shortest_s = min(pause_s, max(self._interval, seconds * (1 / CROWDED_TIME_SHARE - 1)))
        while True:
            waited_s = time.monotonic() - started
            if waited_s >= pause_s or self._stop.is_set() or self._use_end_credit(seconds):
                return
            self._wait(min(_POLL_S, pause_s - waited_s))
            store = self._get_store()
            self._spill_safely(store)
            if time.monotonic() - started >= shortest_s and store.waiting_ends > MAX_WAITING_ENDS:
                return

    def _wait(self, timeout: float) -> None:
        """Wait for a wake-up."""
        with suppress(Empty):
            self._wake.get(timeout=timeout)

    def _use_end_credit(self, seconds: float) -> bool:
        """Return True if an operation has ended, within the share of ticks at ends.

        ``seconds`` is the time of the last tick. A caller that waits for a tick needs no credit.
        """
        if self._is_awaited:
            return True
        if not self._is_end_due:
            return False
        now = time.monotonic()
        earned_s = (now - self._credited_at) * END_TIME_SHARE
        self._credited_at = now
        self._end_credit_s = min(MAX_END_CREDIT_S, self._end_credit_s + earned_s)
        if self._end_credit_s <= 0.0:
            return False
        self._end_credit_s -= self._get_busy_s(seconds)
        return True

    def _spill_safely(self, store: LiveStore, *, everything: bool = False) -> None:
        try:
            store.spill_ends(everything=everything)
        except Exception as error:
            report_internal_error("tick", "Ended operations could not be moved to a file", error=error)

    def _is_idle(self) -> bool:
        return (
            self._get_store().idle
            and not self._watching()
            and not any(worker.has_backlog for worker in self._sink_workers)
        )

    def _sleep(self) -> None:
        while not self._wake.empty():
            self._wake.get()
        self._is_asleep = self._in_background
        # Why again: a level that started in between is found here, or its wake() ends the wait.
        if self._is_idle() and not self._stop.is_set():
            self._wake.get()
        self._is_asleep = False

    def _tick_safely(self, timeout: float = -1) -> float | None:
        """Tick and return its processor time, or None after an error.

        None also if another tick lasts ``timeout`` seconds. A timeout of -1 is unlimited.
        """
        try:
            return self._tick_within(timeout)
        except Exception as error:
            report_internal_error(
                "tick", "A tick failed; the work continues, and the next tick reports progress", error=error
            )
            return None


def has_changes(change_set: ChangeSet) -> bool:
    """True if a change set contains more than the heartbeat of the process."""
    return change_set.sample is not None or any(
        (
            change_set.snapshots,
            change_set.events,
            change_set.evicted,
            change_set.items,
            change_set.logs,
            change_set.batches,
            change_set.resources,
            change_set.trajectories,
            change_set.previews,
            change_set.cancel_requests,
            change_set.completed_keys,
            change_set.checkpoints,
            change_set.contributions,
            change_set.relayed,
        )
    )
