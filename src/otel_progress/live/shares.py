"""Parts of this process in operations of other processes.

A share is a level of another process that this process counts on, and below which it starts levels.
Its node has no operation of its own here: no reader of this process lists it, and sinks other than
journals do not receive it. What the share counted is reported to the owner as contributions. Their
counts are totals since the start of the share, so a repeated report changes nothing.

Methods whose name ends in ``_locked`` require the lock of the live store.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Final
from zlib import crc32

from otel_progress.live.figures import needs_update
from otel_progress.live.node import Node, Operation, Share, Spec, raise_counter_missing
from otel_progress.live.snapshots import take_snapshot_locked
from otel_progress.model import NO_LEVELS, NO_METADATA, ParentLink, Status
from otel_progress.records import Contribution

IDLE_S: Final = 30.0
"""Time without a change after which a share is closed, in seconds. Its next use opens another one.
"""


MAX_SHARES: Final = 1_000
"""Open shares. Beyond it, the one that has been unused for the longest time is closed."""


_SUFFIX_CHARACTERS: Final = 6


_DIGITS: Final = 4
"""Numbers per microsecond, each for a quarter of the processes. With more, JavaScript would round
the numbers.
"""


_MAX_CLAIMED: Final = 4_096
"""Numbers that are known to be used. Beyond it, they are dropped, because the time has passed."""


class RecordNumbers:
    """Numbers of the events or logs that one process adds to a shared operation.

    They follow the time, so that records of all processes are in order. ``now`` returns Unix
    seconds. Two processes have the same number only if they record within the same microsecond and
    have the same digit.
    """

    __slots__ = ("_claimed", "_digit", "_now")

    def __init__(self, instance: str, now: Callable[[], float]) -> None:
        self._now = now
        self._digit = crc32(instance.encode()) % _DIGITS
        self._claimed: dict[int, object] = {}

    def __call__(self) -> int:
        """Return the next number, which fits into a floating-point number. Takes no lock."""
        number, claim = int(self._now() * 1e6) * _DIGITS + self._digit, object()
        # Why: the insertion is one call of a C function, so one thread gets the number.
        while self._claimed.setdefault(number, claim) is not claim:
            number += _DIGITS
        if len(self._claimed) > _MAX_CLAIMED:
            self._claimed = {number: claim}
        return number


_next_numbers: Final[dict[str, int]] = {}
"""First number of further shares by instance, after the shutdown of a configuration.

A process that is configured again is the same instance. Each of its shares counts from 0, so it
needs a number of its own.
"""


class ShareRegistry:
    """Shares of this process by run and path."""

    def __init__(
        self, instance: str, clock: Callable[[], float], now: Callable[[], float], stall_after: float
    ) -> None:
        self._instance = instance
        self._clock = clock
        self._now = now
        self._stall_after = stall_after
        self._next_number = count(_next_numbers.get(instance, 0)).__next__
        self._nodes: OrderedDict[tuple[str, str], Node] = OrderedDict()
        self._prepared: dict[tuple[str, str], Node] = {}
        self._closing: list[Node] = []
        self.local: dict[tuple[str, str], Node] = {}
        """Operations of this process in place of shares, while there is no shared store."""
        self._local_users: dict[Node, set[weakref.ref[object]]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def is_closing(self) -> bool:
        """True while the last contributions of a closed share are due."""
        return bool(self._closing)

    def list_runs_locked(self) -> list[str]:
        """Return the runs of the open shares."""
        return list(dict.fromkeys(run for run, _ in self._nodes))

    def list_nodes_locked(self) -> list[Node]:
        """Return the nodes of the open shares."""
        return list(self._nodes.values())

    def open_locked(
        self,
        link: ParentLink,
        operation_type: str,
        type_: str,
        trace: tuple[int, int] | None,
        active: dict[Node, None],
    ) -> Node:
        """Return the node of a share. Add a new one to the ``active`` levels.

        ``trace`` are the trace id and span id of the level.
        """
        key = (link.run, link.path)
        node = self._nodes.get(key)
        if node is not None:
            # Why: the last one is the one that was used last.
            self._nodes.move_to_end(key)
            return node
        if len(self._nodes) >= MAX_SHARES:
            self._close_oldest_locked()
        node = self.prepare(link, operation_type, type_, trace)
        active[node] = None
        self._nodes[key] = node
        self._prepared.pop(key, None)
        return node

    def prepare(
        self, link: ParentLink, operation_type: str, type_: str, trace: tuple[int, int] | None
    ) -> Node:
        """Return the node of a share without the lock.

        A new one waits for :meth:`open_locked`.
        """
        key = (link.run, link.path)
        node = self._nodes.get(key)
        if node is None:
            node = self._prepared.setdefault(key, self._create(link, operation_type, type_, trace))
        return node

    def _create(
        self, link: ParentLink, operation_type: str, type_: str, trace: tuple[int, int] | None
    ) -> Node:
        number, clock, now = self._next_number(), self._clock(), self._now()
        operation = Operation(link.operation_id, operation_type, link.run, self._instance, self._stall_after)
        id_ = link.path.rpartition("/")[2].partition(":")[2] or link.operation_id
        spec = Spec(type_, id_, None, None, None, 1, None, None, NO_METADATA)
        node = operation.root = Node(operation, None, link.path, id_, spec)
        node.path_segment = link.path.rpartition("/")[2]
        node.depth = link.path.count("/") + 1 if link.path else 0
        number_records_by_time(operation, self._instance, self._now)
        # Why the time: the processes of a run number its previews independently.
        first = operation.previews = int(now * 1e6)
        suffix = f"@{self._instance[:_SUFFIX_CHARACTERS]}" + (f".{number}" if number else "")
        operation.share = Share(node, f"{self._instance}/{number}", suffix, clock, first)
        operation.is_shared = True
        node.trace = trace
        node.started_clock = node.advanced_clock = node.observed_clock = clock
        node.started_at = node.advanced_at = node.observed_at = operation.date(now, clock)
        node.status = node.counted_status = Status.RUNNING
        return node

    # --- users -----------------------------------------------------------------------------------

    def hold_locked(self, node: Node, user: object) -> None:
        """Keep a share open until ``user`` releases it or is collected. Idempotent."""
        share, users = node.operation.share, None
        if share is not None:
            users = share.users
        elif node in self.local.values():
            users = self._local_users.setdefault(node, set())
        if users is not None:
            users.add(weakref.ref(user))

    def release_locked(self, node: Node, user: object) -> bool:
        """Release a share. Idempotent.

        Return True if it is an operation without a further user.
        """
        share, users = node.operation.share, self._local_users.get(node)
        if share is not None:
            users = share.users
        if users is None:
            return False
        users.discard(weakref.ref(user))
        return share is None and not users

    def choose_local(self, key: tuple[str, str], started: Node) -> Node:
        """Return the operation in place of a share: a running one, otherwise ``started``."""
        node = self.local.setdefault(key, started)
        if node.status is not Status.RUNNING:
            self.local[key] = node = started
        return node

    def forget_local_locked(self, node: Node) -> None:
        """Remove an operation in place of a share. Idempotent."""
        self.local = {key: each for key, each in self.local.copy().items() if each is not node}
        self._local_users.pop(node, None)

    # --- end of shares ---------------------------------------------------------------------------

    def close_idle_locked(self, clock: float) -> None:
        """Close the shares that are idle at ``clock`` (monotonic seconds)."""
        for node in list(self._nodes.values()):
            share = node.operation.share
            if share is None:
                continue
            if node.operation.sequence != share.sequence or needs_update(node) or _is_used(node):
                share.sequence, share.clock = node.operation.sequence, clock
            elif clock - share.clock >= IDLE_S:
                self._close_locked(node)

    def close_all_locked(self) -> None:
        """Close all shares at the shutdown, also those in use."""
        _next_numbers[self._instance] = self._next_number()
        for node in list(self._nodes.values()):
            self._close_locked(node)

    def _close_oldest_locked(self) -> None:
        oldest = next((node for node in list(self._nodes.values()) if not _is_used(node)), None)
        if oldest is not None:
            self._close_locked(oldest)

    def _close_locked(self, node: Node) -> None:
        """Close a share. Handles open another one at their next use."""
        self._nodes.pop((node.operation.run, node.path), None)
        node.count_one = raise_counter_missing
        node.status = Status.CANCELLED
        self._closing.append(node)

    def take_closed_locked(self, active: dict[Node, None]) -> list[Node]:
        """Remove the closed shares from the ``active`` levels, and return them.

        Another thread may have counted on them while they were closed, so a later tick calls this.
        """
        closed, self._closing = self._closing, []
        still_used = [node for node in closed if node.children is not None and node.children.running]
        self._closing += still_used
        for node in closed:
            if node not in still_used:
                active.pop(node, None)
        return closed


def number_records_by_time(operation: Operation, instance: str, now: Callable[[], float]) -> None:
    """Number the further events and logs of a shared operation."""
    operation.next_number = RecordNumbers(instance, now)
    operation.next_log = RecordNumbers(instance, now)


def _is_used(node: Node) -> bool:
    """Return True if a call or a level below uses a share."""
    share, children, handle = node.operation.share, node.children, node.handle
    return (
        (share is not None and any(user() is not None for user in share.users.copy()))
        or (children is not None and children.running > 0)
        or (handle is not None and handle() is not None)
    )


def build_contribution_locked(node: Node) -> Contribution:
    """Return the contribution of a share or of a level below it."""
    operation, extras, counter = node.operation, node.extras, node.counter
    share = operation.share
    assert share is not None
    is_share = node.parent is None
    snapshot = take_snapshot_locked(node)
    is_counted = counter is not None and counter.touched
    failures = None if extras is None else extras.failures
    skips = None if extras is None else extras.skips
    has_previews = is_share and operation.previews > share.first_preview
    level = replace(
        snapshot,
        status=Status.RUNNING if is_share else node.status,
        current=counter.value() if counter is not None and is_counted else 0,
        total=node.total,
        ratio=None,
        failed=0 if failures is None else int(failures.value()),
        skipped=0 if skips is None else int(skips.value()),
        failed_below=0,
        ended_levels=NO_LEVELS,
        eta=None,
        estimated=False,
        previews=operation.previews if has_previews else 0,
    )
    return Contribution(level, share.writer, is_share, is_counted, node.tracked)
