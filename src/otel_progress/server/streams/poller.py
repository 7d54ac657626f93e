"""Looks into the journal for what the watch does not tell: trees, items, batches, and what became of runs that vanished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import EventQuery, HistoryQuery, PreviewQuery
from otel_progress.records import Preview
from otel_progress.server.streams.waiting import wait_for_event

if TYPE_CHECKING:
    from otel_progress.protocols import Reader
    from otel_progress.server.streams.hub import Hub


T = TypeVar("T")


BATCHES_EVERY_S: Final = 1.0
"""Time between two looks at the batches while operations of any change, in seconds."""


BATCHES_AT_LEAST_S: Final = 5.0
"""Time between two looks otherwise: a batch may be declared and have no operation yet."""


SWEEP_EVERY_S: Final = 10.0
"""Time between two comparisons of what is remembered with what there is."""


_AT_ONCE: Final = 20


_FEW: Final = 50


_MANY: Final = 500


_SETTLED_S: Final = 2.0
"""What changed less than this before a comparison is left out of it, as it may have come after the journal was read."""


_REST: Final = 2.0
"""After a look comes a pause this many times as long, so that looking takes a bounded share of the time."""


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one look at a followed operation found; ``operation`` is None when it was not asked for or there is none."""

    operation_id: str
    levels: bool
    operation: OperationSnapshot | None
    events: Sequence[Event]
    previews: Sequence[Preview] = ()


class TreePoller:
    """One task with one thread, for all clients of a hub: it is late when there is much to look at, and never more than that."""

    def __init__(self, hub: Hub, reader: Reader) -> None:
        self._hub = hub
        self._reader = reader
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="otel-progress-looker")
        self._awake = asyncio.Event()
        self._batches_dirty = True
        self._batches_at = -BATCHES_AT_LEAST_S
        self._batches: dict[str, tuple[object, ...]] = {}
        self._swept_at = hub.clock()
        self._sweeping: asyncio.Task[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Look at what is due without waiting."""
        self._awake.set()

    def batches_changed(self) -> None:
        """Have the batches looked at soon."""
        self._batches_dirty = True

    def sweep_soon(self) -> None:
        """Compare with what there is as soon as what was just read has settled."""
        self._swept_at = self._hub.clock() - SWEEP_EVERY_S + _SETTLED_S + 0.5
        self._awake.set()

    def stop(self) -> None:
        """End; what is being looked at is not waited for."""
        self._task.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                hurried = await self._round()
            except Exception as error:  # a journal that cannot be read now is told by the watch
                report_internal_error("server", "Looking into the journal for a client failed", error=error)
                hurried = False
            took = time.monotonic() - began
            self._awake.clear()
            if not hurried:
                idle = 0.05 if self._hub.subscriptions else 0.5
                await wait_for_event(self._awake, max(idle, _REST * took))

    async def _round(self) -> bool:
        """Do what is due; tell whether somebody still waits for a first look."""
        hub, now = self._hub, self._hub.clock()
        due = hub.subscriptions.due(_AT_ONCE)
        first = any(not following.was_polled for following in due)
        if due:
            jobs = [
                (one.operation_id, one.levels > 0, one.was_polled, one.has_baseline, one.number)
                for one in due
            ]
            for found in await self._in_thread(lambda: [self._look(*job) for job in jobs]):
                hub.apply_poll_result(found)
        pause = BATCHES_EVERY_S if self._batches_dirty else BATCHES_AT_LEAST_S
        if now - self._batches_at >= pause and hub.has_batch_readers():
            self._batches_at, self._batches_dirty = now, False
            hub.batches(self._changed(await self._in_thread(self._reader.batches)))
        if (
            now - self._swept_at >= SWEEP_EVERY_S
            and hub.followers
            and (self._sweeping is None or self._sweeping.done())
        ):
            self._swept_at = now
            self._sweeping = asyncio.get_running_loop().create_task(
                self._reconcile()
            )  # it rests in between: nobody waits for it
        return first

    def _look(self, operation_id: str, levels: bool, looked: bool, based: bool, number: int) -> PollResult:
        operation = self._reader.get(operation_id) if levels or not looked else None
        events = self._reader.events(operation_id, EventQuery(limit=_FEW if based else 1))
        if based and len(events) == _FEW and events[0].number > number:
            events = self._reader.events(operation_id, EventQuery(limit=_MANY))
        return PollResult(
            operation_id,
            levels,
            operation,
            events,
            self._reader.previews(operation_id, PreviewQuery(limit=_FEW if based else 1)),
        )

    def _changed(self, batches: Sequence[BatchSnapshot]) -> list[BatchSnapshot]:
        """Return the batches that say something new, the earliest first."""
        now: dict[str, tuple[object, ...]] = {
            batch.id: (
                batch.name,
                batch.type,
                batch.total,
                batch.ended_at,
                batch.ratio,
                *batch.counts.values(),
            )
            for batch in batches
        }
        changed = [batch for batch in reversed(batches) if self._batches.get(batch.id) != now[batch.id]]
        self._batches = now
        return changed

    async def _reconcile(self) -> None:
        """Find runs that are remembered and no longer there: deleted, expired, or ended while nobody watched."""
        try:
            await self._reconcile_once()
        except Exception as error:
            report_internal_error("server", "Looking into the journal for what has gone failed", error=error)

    async def _reconcile_once(self) -> None:
        hub = self._hub
        remembered = [
            (message.operation_id, message.key[1], message.ended, message.number)
            for message in hub.known_runs()
        ]
        await asyncio.sleep(_SETTLED_S)
        runs = await self._in_thread(self._present)
        known = {message.key[1]: message.number for message in hub.known_runs()}
        for operation_id, run, ended, number in remembered:
            if run in runs or known.get(run) != number:
                continue
            found = await self._in_thread(lambda id_=operation_id: self._reader.get(id_))  # type: ignore[misc]
            if not ended or found is None:
                hub.resolve_missing(found, operation_id, run)

    def _present(self) -> set[str]:
        active = self._reader.active(levels=False)
        ended = self._reader.history(HistoryQuery(limit=2 * self._hub.limits.most_ended))
        return {operation.run for operation in (*active, *ended)}

    async def _in_thread(self, question: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, question)
