"""Hub of the streams: one watch, the latest messages, a cursor per client."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.protocols import Reader
from otel_progress.semconv import Transport
from otel_progress.server.counters import ServerCounters
from otel_progress.server.settings import StreamLimits
from otel_progress.server.streams.backlog import Backlog
from otel_progress.server.streams.messages import (
    Encoder,
    Message,
    build_batch_message,
    build_gone_message,
    build_item_message,
    build_preview_message,
    build_snapshot_message,
    build_tree_message,
    run_key,
)
from otel_progress.server.streams.poller import PollResult, TreePoller
from otel_progress.server.streams.reader_watch import ReaderWatch
from otel_progress.server.streams.subscriber import Subscriber
from otel_progress.server.streams.subscriptions import (
    FOLLOW_UP_DELAYS_S,
    LINGER_S,
    OperationSubscription,
    SubscriptionTable,
)

_MAINTENANCE_S: Final = 1.0


_MAX_WRITES_PER_S: Final = 2_000


_MAX_CURSOR_DIGITS: Final = 18


class Hub:
    """Fan-out of changes to any number of clients.

    Watches the reader while there are clients.

    All methods belong to one event loop, except :meth:`close` and :meth:`report_deleted`, which are
    thread-safe. Overflow policy: *newest*. A slow client skips versions of an operation, which are
    counted as coalesced. Other clients do not wait for it.
    """

    def __init__(
        self,
        reader: Reader,
        counts: ServerCounters,
        *,
        limits: StreamLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = counts
        self.limits = limits or StreamLimits()
        self.clock = clock
        self.closed = False
        self.reader_error: str | None = None
        self.primed = False
        self.subscribers: set[Subscriber] = set()
        self.subscriptions = SubscriptionTable(clock, self.limits.trees)
        self._reader = reader
        self._encoder = Encoder()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: ReaderWatch | None = None
        self._poller: TreePoller | None = None
        self._maintenance: asyncio.Task[None] | None = None
        self._watch_starts = 0
        self._idle_since: float | None = None
        self._backlog = self._build_backlog()

    # --- clients ----------------------------------------------------------------------------------

    def attach(self, transport: Transport) -> Subscriber:
        """Add a client.

        The caller has checked :attr:`is_full`, and calls :meth:`detach` at the end.
        """
        self._start()
        subscriber = Subscriber(self, transport)
        self.subscribers.add(subscriber)
        self._idle_since = None
        self.counts.count_clients(transport, 1)
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        """Remove a client."""
        subscriber.unfollow(None)
        self.subscribers.discard(subscriber)
        self.counts.count_clients(subscriber.transport, -1)
        self.counts.count_coalesced(subscriber.transport, subscriber.skipped)
        if not self.subscribers:
            self._idle_since = self.clock()

    @property
    def is_full(self) -> bool:
        """True when the maximum number of clients is reached."""
        return len(self.subscribers) >= self.limits.clients

    @property
    def pause_s(self) -> float:
        """Time between two writes to one client.

        It grows with the clients, to bound all writes per second.
        """
        return max(self.limits.pause_s, len(self.subscribers) / _MAX_WRITES_PER_S)

    def find_cursor(self, last_event_id: str, ids: Iterable[str]) -> int | None:
        """Return the cursor of a ``Last-Event-ID``, None when it cannot be resumed."""
        epoch, _, digits = last_event_id.partition("-")
        is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_CURSOR_DIGITS
        if epoch != self._backlog.epoch or not is_number:
            return None
        cursor = int(digits)
        if not self.oldest_resumable <= cursor <= self.last_number:
            return None
        return cursor if self.subscriptions.can_resume(ids, cursor) else None

    # --- timeline ---------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """Name of the sequence. It changes when the hub starts again."""
        return self._backlog.epoch

    @property
    def last_number(self) -> int:
        """The last assigned number."""
        return self._backlog.last_number

    @property
    def oldest_resumable(self) -> int:
        """The highest number of an evicted message."""
        return self._backlog.oldest_resumable

    def messages_after(self, cursor: int) -> Sequence[Message]:
        """Return the latest message per subject above ``cursor``, in order."""
        return self._backlog.messages_after(cursor)

    def messages_of(self, id_: str, cursor: int, *, levels: bool) -> Iterator[Message]:
        """Yield the messages of an operation above ``cursor``: its state and its items.

        With ``levels`` the state is the tree, as soon as it was polled.
        """
        subscription = self.subscriptions.get(id_)
        tree = None if subscription is None else subscription.tree_message
        has_snapshot = False
        for message in self._backlog.messages_of(id_):
            has_snapshot = has_snapshot or message.kind == "snapshot"
            if message.number > cursor and not (levels and message.kind == "snapshot"):
                yield message
        if tree is not None and tree.number > cursor and (levels or not has_snapshot):
            yield tree
        if subscription is not None:
            yield from subscription.items_after(cursor)

    def changed_ids(self, ids: Mapping[str, bool], cursor: int) -> Iterable[str]:
        """Return those of ``ids`` that may have messages above ``cursor``."""
        newer = self._backlog.messages_after(cursor)
        if len(newer) * 4 > len(ids):
            return ids
        return {message.operation_id for message in newer if message.operation_id in ids}.union(
            self.subscriptions.ids_with_newer(ids, cursor)
        )

    def follow(self, wake_event: asyncio.Event, id_: str, *, levels: bool) -> None:
        """Poll an operation for a client from now on.

        ``subscriptions.unfollow`` ends that.
        """
        is_due = self.subscriptions.follow(wake_event, id_, levels=levels, last_number=self.last_number)
        if is_due and self._poller is not None:
            self._poller.wake()

    # --- changes ----------------------------------------------------------------------------------

    def apply(self, operations: Iterable[OperationSnapshot]) -> None:
        """Receive operations that changed, the earliest first."""
        for operation in operations:
            message = build_snapshot_message(operation, self._encoder)
            self._backlog.put(message)
            subscription = self.subscriptions.get(message.operation_id)
            if subscription is not None:
                self.subscriptions.schedule_poll(subscription)
                subscription.has_ended = message.ended
                if message.ended:
                    subscription.follow_up_delays = list(FOLLOW_UP_DELAYS_S)
                _set_all(subscription.wake_events)
            if message.batch is not None and self._poller is not None:
                self._poller.report_batch_change()
        self._wake_global()

    def mark_deleted(self, operation_id: str, run: str) -> None:
        """Send to the clients that a run was deleted or has expired."""
        subscription = self.subscriptions.get(operation_id)
        last_message = self._backlog.get(run_key(run))
        if (
            subscription is not None
            and subscription.tree_message is not None
            and subscription.tree_message.key[1] == run
        ):
            last_message = last_message or subscription.tree_message
            subscription.tree_message = None
        if last_message is None or last_message.kind == "gone":
            return
        self._backlog.put(build_gone_message(last_message))
        if subscription is not None:
            _set_all(subscription.wake_events)
        self._wake_global()

    def apply_poll_result(self, result: PollResult) -> None:
        """Receive the state of an operation that clients follow by its id."""
        subscription = self.subscriptions.get(result.operation_id)
        if subscription is None:
            return
        self._store_tree(subscription, result)
        items = [build_item_message(event) for event in subscription.select_new_items(result.events)]
        previews = subscription.select_new_previews(result.previews)
        for message in (*items, *map(build_preview_message, previews)):
            message.assign_number(self.epoch, self._backlog.next_number(), None)
            subscription.add_item(message)
        subscription.was_polled = subscription.was_polled or result.levels or not subscription.levels
        _set_all(subscription.wake_events)

    def apply_batches(self, batches: Iterable[BatchSnapshot]) -> None:
        """Receive batches that changed."""
        for batch in batches:
            self._backlog.put(build_batch_message(batch))
        self._wake_global()

    def resolve_missing(self, operation: OperationSnapshot | None, operation_id: str, run: str) -> None:
        """Receive the state of a run that is no longer active."""
        if operation is None or operation.run != run:
            self.mark_deleted(operation_id, run)
        elif operation.status.finished:
            self.apply([operation])

    def known_runs(self) -> Iterator[Message]:
        """Yield the latest message of every run that is not deleted."""
        return (message for message in self._backlog.all_messages() if message.kind == "snapshot")

    def has_batch_clients(self) -> bool:
        """Return True when a client receives batches."""
        selections = (subscriber.global_selection for subscriber in self.subscribers)
        return any(
            selection is not None and (selection.batch is not None or not selection.types)
            for selection in selections
        )

    # --- lifecycle --------------------------------------------------------------------------------

    def open(self) -> None:
        """Accept clients again after :meth:`close`. The first client starts the watch."""
        self.closed = False

    def report_deleted(self, operation_id: str, run: str | None = None) -> None:
        """Send to all clients that runs of an operation were deleted.

        These are its ended runs, and ``run``. Thread-safe.
        """

        def report() -> None:
            messages = [*self._backlog.messages_of(operation_id)]
            subscription = self.subscriptions.get(operation_id)
            if subscription is not None and subscription.tree_message is not None:
                messages.append(subscription.tree_message)
            for message in messages:
                if message.kind == "snapshot" and (message.ended or message.key[1] == run):
                    self.mark_deleted(operation_id, message.key[1])

        self._call_on_loop(report)

    def close(self) -> None:
        """End all streams and stop the watch. Thread-safe. Repeated calls do nothing."""
        self.closed = True
        with self._lock:
            watch, loop = self._watch, self._loop
        if watch is not None:
            watch.stop()
        if loop is not None:
            self._call_on_loop(self._stop)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._watch is not None and self._loop is loop:
            return
        limits = self.limits
        with self._lock:
            self._loop = loop
            self._watch = ReaderWatch(
                self._reader, limits.interval_s, self._notify, retry_s=limits.polling.watch_retry_s
            )
        self._backlog = self._build_backlog()
        self._watch_starts, self.primed, self.reader_error = 0, False, None
        self.subscriptions.clear()
        self._poller = TreePoller(self, self._reader)
        self._maintenance = loop.create_task(self._run_maintenance_loop())
        self._watch.start()

    def _stop(self) -> None:
        with self._lock:
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        if self._poller is not None:
            self._poller.stop()
            self._poller = None
        if self._maintenance is not None:
            self._maintenance.cancel()
            self._maintenance = None
        self.wake_all()

    def _notify(self) -> None:
        self._call_on_loop(self._drain)

    def _call_on_loop(self, function: Callable[[], None]) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:
                # The loop is closed, so there are no clients.
                return

    def _drain(self) -> None:
        watch = self._watch
        if watch is None:
            return
        changes, watch_starts, self.reader_error = watch.drain()
        self.apply(changes)
        if watch_starts != self._watch_starts:
            if self._watch_starts and self._poller is not None:
                # Operations may have ended or been deleted while the watch was down.
                self._poller.reconcile_soon()
            self._watch_starts, self.primed = watch_starts, True
        self.wake_all()

    async def _run_maintenance_loop(self) -> None:
        while True:
            await asyncio.sleep(_MAINTENANCE_S)
            self.run_maintenance()

    def run_maintenance(self) -> None:
        """Expire messages, disconnect blocked clients, and stop an unused watch."""
        now, limits = self.clock(), self.limits
        self._backlog.expire()
        self.subscriptions.evict_unfollowed()
        for subscriber in list(self.subscribers):
            since = subscriber.blocked_since
            if since is not None and now - since > limits.blocked_s and subscriber.task is not None:
                subscriber.blocked_since, subscriber.evicted = None, True
                self.counts.count_refusal("slow")
                subscriber.task.cancel()
            self.counts.count_coalesced(subscriber.transport, subscriber.skipped)
            subscriber.skipped = 0
        if self._idle_since is not None and now - self._idle_since > LINGER_S:
            self._stop()

    def _store_tree(self, subscription: OperationSubscription, result: PollResult) -> None:
        """Store the polled operation, unless the watch reports it or it was deleted."""
        operation = result.operation
        if operation is None:
            return
        subscription.has_ended = operation.status.finished
        reported = self._backlog.get(run_key(operation.run))
        if reported is None or (result.levels and reported.kind != "gone"):
            message = build_tree_message(operation, self._encoder, levels=result.levels)
            message.assign_number(self.epoch, self._backlog.next_number(), subscription.tree_message)
            subscription.tree_message = message

    def wake_all(self) -> None:
        """Let all clients check their state, such as their access."""
        _set_all(subscriber.wake for subscriber in self.subscribers)

    def _wake_global(self) -> None:
        _set_all(sub.wake for sub in self.subscribers if sub.global_selection is not None)

    def _build_backlog(self) -> Backlog:
        limits = self.limits
        return Backlog(
            secrets.token_hex(6), self.clock, max_ended=limits.max_ended, ended_age_s=limits.ended_age_s
        )


def _set_all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()
