"""The hub of the streams: one watch of the reader, the newest message about everything, and any number of cursors on it."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from otel_progress.operations import BatchSnapshot, OperationSnapshot
from otel_progress.server import looking
from otel_progress.server.backlog import Backlog
from otel_progress.server.composing import (
    batch_message,
    gone_message,
    item_message,
    preview_message,
    run_key,
    snapshot_message,
    whole_message,
)
from otel_progress.server.encoding import Encoder
from otel_progress.server.feed import Feed
from otel_progress.server.followed import LINGER_S, Followed
from otel_progress.server.follower import Follower
from otel_progress.server.following import LATER_S, Following
from otel_progress.server.limits import StreamLimits
from otel_progress.server.looking import Looker
from otel_progress.server.messages import Message

if TYPE_CHECKING:
    from otel_progress.protocols import Reader
    from otel_progress.server.counts import ServerCounts

_HOUSEKEEPING_S: Final = 1.0


class Hub:
    """Fan-out of what changes to any number of clients. It watches while there are any, and a minute longer.

    All methods belong to one event loop, but for :meth:`close` and :meth:`forget`, which any thread may call.
    Overflow policy: *newest*. A client that is slow skips versions of an operation, counted as coalesced; nobody waits for it.
    """

    def __init__(
        self,
        reader: Reader,
        counts: ServerCounts,
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
        self.followers: set[Follower] = set()
        self._reader = reader
        self._encoder = Encoder()
        self.followed = Followed(clock, self.limits.trees)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feed: Feed | None = None
        self._looker: Looker | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._begun = 0
        self._idle_since: float | None = None
        self._backlog = self._new_backlog()

    # --- clients --------------------------------------------------------------------------------------------------

    def attach(self, transport: str) -> Follower:
        """Return the place of a new client. The caller has looked at :attr:`full`; it calls :meth:`detach` in the end."""
        self._start()
        follower = Follower(self, transport)
        self.followers.add(follower)
        self._idle_since = None
        self.counts.clients(transport, 1)
        return follower

    def detach(self, follower: Follower) -> None:
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
        return cursor if self.followed.remembers(ids, cursor) else None

    # --- what followers read --------------------------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        """Name of the sequence; another one when the hub began anew."""
        return self._backlog.epoch

    @property
    def head(self) -> int:
        """The last number given out."""
        return self._backlog.head

    @property
    def floor(self) -> int:
        """The last number of what was forgotten."""
        return self._backlog.floor

    def after(self, cursor: int) -> Sequence[Message]:
        """Return what was told after ``cursor``, of each thing the newest, in order."""
        return self._backlog.after(cursor)

    def of(self, id_: str, cursor: int, *, levels: bool) -> Iterator[Message]:
        """Yield what there is of an operation above ``cursor``: itself (with levels once looked at), and its items."""
        following = self.followed.get(id_)
        whole = None if following is None else following.whole
        told = False
        for message in self._backlog.of(id_):
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
        return {message.operation_id for message in newer if message.operation_id in ids}.union(self.followed.moved(ids, cursor))

    def follow(self, follower: Follower, id_: str, *, levels: bool) -> None:
        """Keep an operation's tree and items for a client from now on; ``followed.unfollow`` ends that."""
        if self.followed.follow(follower, id_, levels=levels, head=self.head) and self._looker is not None:
            self._looker.wake()

    # --- what changes ---------------------------------------------------------------------------------------------

    def apply(self, found: Iterable[OperationSnapshot]) -> None:
        """Take in operations that changed, the earliest first."""
        for operation in found:
            message = snapshot_message(operation, self._encoder)
            self._backlog.put(message)
            following = self.followed.get(message.operation_id)
            if following is not None:
                self.followed.changed(following)
                if message.ended:
                    following.later = list(LATER_S)
                self._wake(following.followers)
            if message.batch is not None and self._looker is not None:
                self._looker.batches_changed()
        self._wake_wide()

    def gone(self, operation_id: str, run: str) -> None:
        """Tell that a run was deleted or has expired."""
        following = self.followed.get(operation_id)
        before = self._backlog.get(run_key(run))
        if following is not None and following.whole is not None and following.whole.key[1] == run:
            before = before or following.whole
            following.whole = None
        if before is None or before.kind == "gone":
            return
        self._backlog.put(gone_message(before))
        if following is not None:
            self._wake(following.followers)
        self._wake_wide()

    def looked(self, found: looking.Found) -> None:
        """Take in what was looked up for those who follow an operation by its id."""
        following = self.followed.get(found.operation_id)
        if following is None:
            return
        self._take_whole(following, found)
        for event in following.new_items(found.events):
            item = item_message(event)
            item.place(self.epoch, self._backlog.next_number(), None)
            following.add(item)
        for preview in following.new_previews(found.previews):
            told = preview_message(preview)
            told.place(self.epoch, self._backlog.next_number(), None)
            following.add(told)
        following.looked = following.looked or found.levels or not following.levels
        self._wake(following.followers)

    def batches(self, batches: Iterable[BatchSnapshot]) -> None:
        """Take in batches that changed."""
        for batch in batches:
            self._backlog.put(batch_message(batch))
        self._wake_wide()

    def missing(self, operation: OperationSnapshot | None, operation_id: str, run: str) -> None:
        """Take in what became of a run that is no longer among the active ones."""
        if operation is None or operation.run != run:
            self.gone(operation_id, run)
        elif operation.status.finished:
            self.apply([operation])

    def known_runs(self) -> Iterator[Message]:
        """Yield the newest message of every run that is not gone."""
        return (message for message in self._backlog.all() if message.kind == "snapshot")

    def has_batch_readers(self) -> bool:
        """Tell whether any client is told of batches."""
        return any(one.wide is not None and (one.wide.batch is not None or not one.wide.types) for one in self.followers)

    # --- life -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Be ready for clients again after a :meth:`close`; watching begins with the first one."""
        self.closed = False

    def forget(self, operation_id: str, run: str | None = None) -> None:
        """Tell all clients at once that the ended runs of an operation were deleted, and ``run``, ended or not. From any thread."""

        def tell() -> None:
            known = [*self._backlog.of(operation_id)]
            following = self.followed.get(operation_id)
            if following is not None and following.whole is not None:
                known.append(following.whole)
            for message in known:
                if message.kind == "snapshot" and (message.ended or message.key[1] == run):
                    self.gone(operation_id, message.key[1])

        self._on_loop(tell)

    def close(self) -> None:
        """End all streams and stop watching. From any thread, and again."""
        self.closed = True
        with self._lock:
            feed, loop = self._feed, self._loop
        if feed is not None:
            feed.stop()
        if loop is not None:
            self._on_loop(self._stop)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._feed is not None and self._loop is loop:
            return
        with self._lock:
            self._loop = loop
            self._feed = Feed(self._reader, self.limits.interval_s, self._notify)
        self._backlog, self._begun, self.primed, self.trouble = self._new_backlog(), 0, False, None
        self.followed.clear()
        self._looker = Looker(self, self._reader)
        self._keeper = loop.create_task(self._keep())
        self._feed.start()

    def _stop(self) -> None:
        with self._lock:
            feed, self._feed = self._feed, None
        if feed is not None:
            feed.stop()
        if self._looker is not None:
            self._looker.stop()
            self._looker = None
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
        feed = self._feed
        if feed is None:
            return
        found, begun, wrong = feed.drain()
        self.trouble = wrong
        self.apply(found)
        if begun != self._begun:
            if self._begun and self._looker is not None:
                self._looker.sweep_soon()  # while nobody watched, operations may have ended or gone
            self._begun, self.primed = begun, True
        self._wake(self.followers)

    async def _keep(self) -> None:
        """Once a second: what is old goes, who blocks is let go, and without clients the watching ends."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.keep_house()

    def keep_house(self) -> None:
        """Do what time alone makes due."""
        now, limits = self.clock(), self.limits
        self._backlog.age()
        self.followed.forget_left()
        for follower in list(self.followers):
            since = follower.blocked_since
            if since is not None and now - since > limits.blocked_s and follower.task is not None:
                follower.blocked_since, follower.let_go = None, True
                self.counts.refused("slow")
                follower.task.cancel()
            self.counts.coalesced(follower.transport, follower.skipped)
            follower.skipped = 0
        if self._idle_since is not None and now - self._idle_since > LINGER_S:
            self._stop()

    def _take_whole(self, following: Following, found: looking.Found) -> None:
        """Keep the operation that was looked up, where the watch does not tell it, unless it was deleted meanwhile."""
        operation = found.operation
        if operation is None:
            return
        told = self._backlog.get(run_key(operation.run))
        if told is None or (found.levels and told.kind != "gone"):
            whole = whole_message(operation, self._encoder, levels=found.levels)
            whole.place(self.epoch, self._backlog.next_number(), following.whole)
            following.whole = whole

    def _wake(self, followers: Iterable[Follower]) -> None:
        for follower in followers:
            follower.wake.set()

    def _wake_wide(self) -> None:
        for follower in self.followers:
            if follower.wide is not None:
                follower.wake.set()

    def _new_backlog(self) -> Backlog:
        limits = self.limits
        return Backlog(secrets.token_hex(6), self.clock, most_ended=limits.most_ended, ended_age_s=limits.ended_age_s)
