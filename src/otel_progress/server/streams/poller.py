"""Polls the reader for data that its watch does not report.

These are trees, items, previews, batches, and runs that no longer exist.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from otel_progress.diagnostics import report_internal_error
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import EventQuery, HistoryQuery, PreviewQuery, Reader
from otel_progress.records import Preview
from otel_progress.server.settings import StreamLimits
from otel_progress.server.streams.messages import Message
from otel_progress.server.streams.subscriptions import OperationSubscription, SubscriptionTable
from otel_progress.server.streams.waiting import wait_for_event

T = TypeVar("T")


_POLLS_PER_ROUND: Final = 20
"""Operations polled per round. The rest wait for the next round."""


_EVENT_LIMITS: Final = (50, 500)
"""Newest events that a poll reads: more in a second query when all of the first were new."""


_PREVIEW_LIMITS: Final = (50,)


_REST_FACTOR: Final = 2.0
"""Pause after a round, as a multiple of its duration. It bounds the share of time spent polling."""


@dataclass(frozen=True, slots=True)
class PollResult:
    """Result of polling one followed operation.

    ``operation`` is None when it was not requested or not found.
    """

    operation_id: str
    levels: bool
    operation: OperationSnapshot | None
    events: Sequence[Event]
    previews: Sequence[Preview] = ()


class PollTarget(Protocol):
    """Part of the hub that the poller uses.

    It has the operations to poll, and methods that receive the results.
    """

    clock: Callable[[], float]
    limits: StreamLimits
    subscriptions: SubscriptionTable

    @property
    def subscribers(self) -> Collection[object]:
        """All clients."""

    def apply_poll_result(self, result: PollResult) -> None:
        """Receive the state of a followed operation."""

    def apply_batches(self, batches: Iterable[BatchSnapshot]) -> None:
        """Receive batches that changed."""

    def has_batch_clients(self) -> bool:
        """Return True when a client receives batches."""

    def known_runs(self) -> Iterable[Message]:
        """Yield the latest message of every run that exists."""

    def resolve_missing(self, operation: OperationSnapshot | None, operation_id: str, run: str) -> None:
        """Receive the state of a run that is no longer active."""


class TreePoller:
    """Polling task with one thread for all clients of a hub.

    Under load polls are delayed but never pile up.
    """

    def __init__(self, hub: PollTarget, reader: Reader) -> None:
        self._hub = hub
        self._reader = reader
        self._intervals = hub.limits.polling
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="otel-progress-looker")
        self._awake = asyncio.Event()
        self._batches_changed = True
        self._batches_polled_at = -self._intervals.idle_batches_s
        self._batches: dict[str, tuple[object, ...]] = {}
        self._reconciled_at = hub.clock()
        self._reconciliation: asyncio.Task[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Start the next round without waiting."""
        self._awake.set()

    def report_batch_change(self) -> None:
        """Poll the batches at the shorter interval."""
        self._batches_changed = True

    def reconcile_soon(self) -> None:
        """Reconcile as soon as the changes that were just read have settled."""
        intervals = self._intervals
        self._reconciled_at = self._hub.clock() - intervals.reconcile_s + intervals.settle_s + 0.5
        self._awake.set()

    def stop(self) -> None:
        """Stop the task, without waiting for a running poll."""
        self._task.cancel()
        if self._reconciliation is not None:
            self._reconciliation.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                is_urgent = await self._run_round()
            except Exception as error:
                # The watch reports to the clients that the journal cannot be read.
                report_internal_error("server", "Polling the journal for a client failed", error=error)
                is_urgent = False
            duration = time.monotonic() - started
            self._awake.clear()
            if not is_urgent:
                intervals = self._intervals
                pause = intervals.pause_s if self._hub.subscriptions else intervals.idle_pause_s
                await wait_for_event(self._awake, max(pause, _REST_FACTOR * duration))

    async def _run_round(self) -> bool:
        """Run the polls that are due.

        Return True while a client still waits for its first poll.
        """
        now = self._hub.clock()
        is_urgent = await self._poll_operations()
        await self._poll_batches(now)
        self._start_reconciliation(now)
        return is_urgent

    async def _poll_operations(self) -> bool:
        due = self._hub.subscriptions.start_due_polls(_POLLS_PER_ROUND)
        is_urgent = any(not subscription.was_polled for subscription in due)
        if due:
            jobs = [
                (subscription, _needs_tree(subscription), not subscription.was_polled) for subscription in due
            ]
            for result in await self._run_in_thread(lambda: [self._poll_operation(*job) for job in jobs]):
                self._hub.apply_poll_result(result)
        return is_urgent

    async def _poll_batches(self, now: float) -> None:
        intervals = self._intervals
        pause = intervals.batches_s if self._batches_changed else intervals.idle_batches_s
        if now - self._batches_polled_at >= pause and self._hub.has_batch_clients():
            self._batches_polled_at, self._batches_changed = now, False
            batches = await self._run_in_thread(self._reader.batches)
            self._hub.apply_batches(self._select_changed(batches))

    def _start_reconciliation(self, now: float) -> None:
        is_running = self._reconciliation is not None and not self._reconciliation.done()
        is_due = now - self._reconciled_at >= self._intervals.reconcile_s
        if is_due and not is_running and self._hub.subscribers:
            self._reconciled_at = now
            # It sleeps between its queries, so no client may wait for it.
            self._reconciliation = asyncio.get_running_loop().create_task(self._reconcile())

    def _poll_operation(
        self, subscription: OperationSubscription, levels: bool, is_first: bool
    ) -> PollResult:
        operation_id = subscription.operation_id
        return PollResult(
            operation_id,
            levels,
            self._reader.get(operation_id) if levels or is_first else None,
            self._read_events(subscription),
            self._read_previews(subscription),
        )

    def _read_events(self, subscription: OperationSubscription) -> Sequence[Event]:
        """Read the newest events, as many as may be new.

        More are read while the oldest of them is new.
        """
        events: Sequence[Event] = ()
        for limit in (1, *_EVENT_LIMITS) if subscription.has_baseline else (1,):
            events = self._reader.events(subscription.operation_id, EventQuery(limit=limit))
            if len(events) < limit or not subscription.is_new_event(events[0]):
                break
        return events

    def _read_previews(self, subscription: OperationSubscription) -> Sequence[Preview]:
        previews: Sequence[Preview] = ()
        for limit in (1, *_PREVIEW_LIMITS) if subscription.has_baseline else (1,):
            previews = self._reader.previews(subscription.operation_id, PreviewQuery(limit=limit))
            if len(previews) < limit or not subscription.is_new_preview(previews[0]):
                break
        return previews

    def _select_changed(self, batches: Sequence[BatchSnapshot]) -> list[BatchSnapshot]:
        """Return the batches that changed since the last poll, the earliest first."""
        current: dict[str, tuple[object, ...]] = {
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
        changed = [batch for batch in reversed(batches) if self._batches.get(batch.id) != current[batch.id]]
        self._batches = current
        return changed

    async def _reconcile(self) -> None:
        """Find known runs that were deleted, expired, or ended unreported."""
        try:
            await self._reconcile_once()
        except Exception as error:
            report_internal_error("server", "Polling the journal for deleted runs failed", error=error)

    async def _reconcile_once(self) -> None:
        hub = self._hub
        remembered = [
            (message.operation_id, message.key[1], message.ended, message.number)
            for message in hub.known_runs()
        ]
        # A run that changes now may not be in the journal yet.
        await asyncio.sleep(self._intervals.settle_s)
        active_runs, all_runs = await self._run_in_thread(self._read_runs)
        numbers = {message.key[1]: message.number for message in hub.known_runs()}
        for operation_id, run, ended, number in remembered:
            # Why not each ended one: the end of a run that is still known as active was missed.
            if run in (all_runs if ended else active_runs) or numbers.get(run) != number:
                continue
            operation = await self._run_in_thread(lambda id_=operation_id: self._reader.get(id_))  # type: ignore[misc]
            if not ended or operation is None:
                hub.resolve_missing(operation, operation_id, run)

    def _read_runs(self) -> tuple[set[str], set[str]]:
        """Return the active runs, and these together with recently ended ones."""
        active = {operation.run for operation in self._reader.active(levels=False)}
        ended = self._reader.history(HistoryQuery(limit=2 * self._hub.limits.max_ended))
        return active, active | {operation.run for operation in ended}

    async def _run_in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


def _needs_tree(subscription: OperationSubscription) -> bool:
    return subscription.levels > 0 and (subscription.tree_is_due or not subscription.was_polled)
