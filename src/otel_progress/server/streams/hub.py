"""The hub of the streams: one watch of the reader, the newest message about everything, and any number of cursors on it."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.server.settings import StreamLimits
from otel_progress.server.streams.backlog import Backlog
from otel_progress.server.streams.messages import (
    Encoder,
    Message,
    batch_message,
    gone_message,
    item_message,
    preview_message,
    run_key,
    snapshot_message,
    whole_message,
)
from otel_progress.server.streams.poller import PollResult, TreePoller
from otel_progress.server.streams.reader_watch import ReaderWatch
from otel_progress.server.streams.subscriber import Subscriber
from otel_progress.server.streams.subscriptions import (
    LATER_S,
    LINGER_S,
    OperationSubscription,
    SubscriptionTable,
)

if TYPE_CHECKING:
    from otel_progress.protocols import Reader
    from otel_progress.server.counters import ServerCounters


_HOUSEKEEPING_S: Final = 1.0


class Hub:
    """Fan-out of what changes to any number of clients. It watches while there are any, and a minute longer.

    All methods belong to one event loop, but for :meth:`close` and :meth:`forget`, which any thread may call.
    Overflow policy: *newest*. A client that is slow skips versions of an operation, counted as coalesced; nobody waits for it.
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
        self.trouble: str | None = None
        self.primed = False
        self.followers: set[Subscriber] = set()
        self._reader = reader
        self._encoder = Encoder()
        self.subscriptions = SubscriptionTable(clock, self.limits.trees)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: ReaderWatch | None = None
        self._poller: TreePoller | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._begun = 0
        self._idle_since: float | None = None
        self._backlog = self._new_backlog()

    # --- clients --------------------------------------------------------------------------------------------------

    def attach(self, transport: str) -> Subscriber:
        """Return the place of a new client. The caller has looked at :attr:`full`; it calls :meth:`detach` in the end."""
        self._start()
        follower = Subscriber(self, transport)
        self.followers.add(follower)
        self._idle_since = None
        self.counts.clients(transport, 1)
        return follower

    def detach(self, follower: Subscriber) -> None:
        """Forget a client."""
        follower.unfollow(None)
        self.followers.discard(follower)
        self.counts.clients(follower.transport, -1)
        self.counts.coalesced(follower.transport, follower.skipped)
        if not self.followers:
            self._idle_since = self.clock()

    @property
    def full(self) -> bool:
        """Whether no more clients are taken."""
        return len(self.followers) >= self.limits.clients

    @property
    def pause_s(self) -> float:
        """Time between two writes to one client: longer the more there are, so that all together stay within bounds."""
        return max(self.limits.pause_s, len(self.followers) / 2_000)

    def can_resume(self, last_event_id: str, ids: Iterable[str]) -> int | None:
        """Return the cursor of a ``Last-Event-ID`` from which nothing is lacking, or None when something may be."""
        epoch, _, digits = last_event_id.partition("-")
        if epoch != self._backlog.epoch or not (digits.isascii() and digits.isdecimal()) or len(digits) > 18:
            return None
        cursor = int(digits)
        if not self.floor <= cursor <= self.head:
            return None
        return cursor if self.subscriptions.remembers(ids, cursor) else None

    # --- what followers read --------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """Name of the sequence; another one when the hub began anew."""
        return self._backlog.epoch

    @property
    def head(self) -> int:
        """The last number given out."""
        return self._backlog.last_number

    @property
    def floor(self) -> int:
        """The last number of what was forgotten."""
        return self._backlog.oldest_resumable

    def after(self, cursor: int) -> Sequence[Message]:
        """Return what was told after ``cursor``, of each thing the newest, in order."""
        return self._backlog.after(cursor)

    def of(self, id_: str, cursor: int, *, levels: bool) -> Iterator[Message]:
        """Yield what there is of an operation above ``cursor``: itself (with levels once looked at), and its items."""
        following = self.subscriptions.get(id_)
        whole = None if following is None else following.tree_message
        told = False
        for message in self._backlog.messages_of(id_):
            told = told or message.kind == "snapshot"
            if message.number > cursor and not (levels and message.kind == "snapshot"):
                yield message
        if whole is not None and whole.number > cursor and (levels or not told):
            yield whole
        if following is not None:
            yield from following.after(cursor)

    def changed_ids(self, ids: Mapping[str, bool], cursor: int) -> Iterable[str]:
        """Return those of ``ids`` that may have something above ``cursor``."""
        newer = self._backlog.after(cursor)
        if len(newer) * 4 > len(ids):
            return ids
        return {message.operation_id for message in newer if message.operation_id in ids}.union(
            self.subscriptions.moved(ids, cursor)
        )

    def follow(self, follower: Subscriber, id_: str, *, levels: bool) -> None:
        """Keep an operation's tree and items for a client from now on; ``followed.unfollow`` ends that."""
        if (
            self.subscriptions.follow(follower, id_, levels=levels, head=self.head)
            and self._poller is not None
        ):
            self._poller.wake()

    # --- what changes ---------------------------------------------------------------------------------------------

    def apply(self, found: Iterable[OperationSnapshot]) -> None:
        """Take in operations that changed, the earliest first."""
        for operation in found:
            message = snapshot_message(operation, self._encoder)
            self._backlog.put(message)
            following = self.subscriptions.get(message.operation_id)
            if following is not None:
                self.subscriptions.changed(following)
                if message.ended:
                    following.follow_up_delays = list(LATER_S)
                self._wake(following.followers)
            if message.batch is not None and self._poller is not None:
                self._poller.batches_changed()
        self._wake_wide()

    def mark_deleted(self, operation_id: str, run: str) -> None:
        """Tell that a run was deleted or has expired."""
        following = self.subscriptions.get(operation_id)
        before = self._backlog.get(run_key(run))
        if (
            following is not None
            and following.tree_message is not None
            and following.tree_message.key[1] == run
        ):
            before = before or following.tree_message
            following.tree_message = None
        if before is None or before.kind == "gone":
            return
        self._backlog.put(gone_message(before))
        if following is not None:
            self._wake(following.followers)
        self._wake_wide()

    def apply_poll_result(self, found: PollResult) -> None:
        """Take in what was looked up for those who follow an operation by its id."""
        following = self.subscriptions.get(found.operation_id)
        if following is None:
            return
        self._take_whole(following, found)
        for event in following.new_items(found.events):
            item = item_message(event)
            item.assign_number(self.epoch, self._backlog.next_number(), None)
            following.add(item)
        for preview in following.new_previews(found.previews):
            told = preview_message(preview)
            told.assign_number(self.epoch, self._backlog.next_number(), None)
            following.add(told)
        following.was_polled = following.was_polled or found.levels or not following.levels
        self._wake(following.followers)

    def batches(self, batches: Iterable[BatchSnapshot]) -> None:
        """Take in batches that changed."""
        for batch in batches:
            self._backlog.put(batch_message(batch))
        self._wake_wide()

    def resolve_missing(self, operation: OperationSnapshot | None, operation_id: str, run: str) -> None:
        """Take in what became of a run that is no longer among the active ones."""
        if operation is None or operation.run != run:
            self.mark_deleted(operation_id, run)
        elif operation.status.finished:
            self.apply([operation])

    def known_runs(self) -> Iterator[Message]:
        """Yield the newest message of every run that is not gone."""
        return (message for message in self._backlog.all() if message.kind == "snapshot")

    def has_batch_readers(self) -> bool:
        """Tell whether any client is told of batches."""
        return any(
            one.global_selection is not None
            and (one.global_selection.batch is not None or not one.global_selection.types)
            for one in self.followers
        )

    # --- life -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Be ready for clients again after a :meth:`close`; watching begins with the first one."""
        self.closed = False

    def forget(self, operation_id: str, run: str | None = None) -> None:
        """Tell all clients at once that the ended runs of an operation were deleted, and ``run``, ended or not. From any thread."""

        def tell() -> None:
            known = [*self._backlog.messages_of(operation_id)]
            following = self.subscriptions.get(operation_id)
            if following is not None and following.tree_message is not None:
                known.append(following.tree_message)
            for message in known:
                if message.kind == "snapshot" and (message.ended or message.key[1] == run):
                    self.mark_deleted(operation_id, message.key[1])

        self._on_loop(tell)

    def close(self) -> None:
        """End all streams and stop watching. From any thread, and again."""
        self.closed = True
        with self._lock:
            feed, loop = self._watch, self._loop
        if feed is not None:
            feed.stop()
        if loop is not None:
            self._on_loop(self._stop)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._watch is not None and self._loop is loop:
            return
        with self._lock:
            self._loop = loop
            self._watch = ReaderWatch(self._reader, self.limits.interval_s, self._notify)
        self._backlog, self._begun, self.primed, self.trouble = self._new_backlog(), 0, False, None
        self.subscriptions.clear()
        self._poller = TreePoller(self, self._reader)
        self._keeper = loop.create_task(self._keep())
        self._watch.start()

    def _stop(self) -> None:
        with self._lock:
            feed, self._watch = self._watch, None
        if feed is not None:
            feed.stop()
        if self._poller is not None:
            self._poller.stop()
            self._poller = None
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        self._wake(self.followers)

    def _notify(self) -> None:
        self._on_loop(self._drain)

    def _on_loop(self, function: Callable[[], None]) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:  # the loop has been closed: nobody is there to be told
                return

    def _drain(self) -> None:
        feed = self._watch
        if feed is None:
            return
        found, begun, wrong = feed.drain()
        self.trouble = wrong
        self.apply(found)
        if begun != self._begun:
            if self._begun and self._poller is not None:
                self._poller.sweep_soon()  # while nobody watched, operations may have ended or gone
            self._begun, self.primed = begun, True
        self._wake(self.followers)

    async def _keep(self) -> None:
        """Once a second: what is old goes, who blocks is let go, and without clients the watching ends."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.run_maintenance()

    def run_maintenance(self) -> None:
        """Do what time alone makes due."""
        now, limits = self.clock(), self.limits
        self._backlog.expire()
        self.subscriptions.forget_left()
        for follower in list(self.followers):
            since = follower.blocked_since
            if since is not None and now - since > limits.blocked_s and follower.task is not None:
                follower.blocked_since, follower.evicted = None, True
                self.counts.refused("slow")
                follower.task.cancel()
            self.counts.coalesced(follower.transport, follower.skipped)
            follower.skipped = 0
        if self._idle_since is not None and now - self._idle_since > LINGER_S:
            self._stop()

    def _take_whole(self, following: OperationSubscription, found: PollResult) -> None:
        """Keep the operation that was looked up, where the watch does not tell it, unless it was deleted meanwhile."""
        operation = found.operation
        if operation is None:
            return
        told = self._backlog.get(run_key(operation.run))
        if told is None or (found.levels and told.kind != "gone"):
            whole = whole_message(operation, self._encoder, levels=found.levels)
            whole.assign_number(self.epoch, self._backlog.next_number(), following.tree_message)
            following.tree_message = whole

    def _wake(self, followers: Iterable[Subscriber]) -> None:
        for follower in followers:
            follower.wake.set()

    def _wake_wide(self) -> None:
        for follower in self.followers:
            if follower.global_selection is not None:
                follower.wake.set()

    def _new_backlog(self) -> Backlog:
        limits = self.limits
        return Backlog(
            secrets.token_hex(6), self.clock, most_ended=limits.most_ended, ended_age_s=limits.ended_age_s
        )
