"""Adds the work of other processes to the operations of this one.

Levels that other processes started become levels of the operation here, and units that they counted
on a level are added to it. So totals, ratios, estimates, batches and metrics need no further rules.
A contribution replaces the earlier one of the same writer and path, and older ones are ignored.

Methods whose name ends in ``_locked`` require the lock of the live store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from otel_progress import semconv
from otel_progress.live.node import ContributedLevels, Node, Operation, Spec, merge_metadata
from otel_progress.live.tree import OpenRejected, Tree
from otel_progress.model import LevelSnapshot, Status
from otel_progress.records import Contribution

MAX_WRITERS_PER_OPERATION: Final = 10_000
"""Shares of other processes per operation. Those of further ones are dropped and counted."""


MAX_KNOWN_PER_OPERATION: Final = 100_000
"""Ended levels of other processes that are known per operation, so that a repeated contribution is
ignored. Beyond it the oldest are dropped.
"""


MAX_POLLS_FOR_LEVEL: Final = 100
"""Polls for which units wait for a level that is not known. Beyond it, they are dropped: the level
has ended, and is not in memory any more.
"""


REASON_GONE: Final = "its process ended first"
"""Message of running levels whose process has ended."""


# Why no "Error" in the name: it is a signal to the merger, and no caller receives it.
class ParentMissing(Exception):  # noqa: N818
    """The level above a contributed level is not known yet."""


class ContributionMerger:
    """Merges contributions into operations. ``dropped`` counts what was left out."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.dropped = 0

    def merge_locked(
        self,
        operation: Operation,
        contributions: Iterable[Contribution],
        ended: list[Node],
        waiting: set[tuple[str, str, str]],
    ) -> list[Node]:
        """Merge contributions to one operation, parents before their children.

        Append the levels that end to ``ended``. Add the keys of levels whose parents are not known
        yet to ``waiting``. Return the ended levels whose figures changed.
        """
        known = operation.contributed
        if known is None:
            known = operation.contributed = ContributedLevels()
        finishing: list[tuple[tuple[str, str], Node, LevelSnapshot]] = []
        revised: dict[Node, None] = {}
        # Why: the level of a share may have been started by another process, and be new as well.
        ordered = sorted(contributions, key=lambda each: (each.level.info.depth, each.is_share))
        for contribution in ordered:
            level, key = contribution.level, (contribution.writer, contribution.level.path)
            if level.sequence <= known.sequences.get(key, known.ended.get(key, -1)):
                continue
            if contribution.is_share and self._is_awaited_locked(operation, known, key):
                waiting.add(contribution.key)
                continue
            if contribution.writer not in known.writers:
                if len(known.writers) >= MAX_WRITERS_PER_OPERATION:
                    self.dropped += 1
                    continue
                known.writers[contribution.writer] = contribution.instance
            if contribution.is_share:
                known.sequences[key] = level.sequence
                self._merge_share_locked(operation, contribution, revised)
                continue
            try:
                node = self._find_or_start_locked(operation, known, key, contribution, ended)
            except ParentMissing:
                waiting.add(contribution.key)
                continue
            if node is None:
                self.dropped += key not in known.ended
                self._remember_end_locked(known, key, level.sequence)
                continue
            known.sequences[key] = level.sequence
            _set_values_locked(node, contribution)
            if level.status.finished:
                finishing.append((key, node, level))
        # Why last and in this order: the end of a level cancels the levels that run below it.
        for key, node, level in reversed(finishing):
            self._end_locked(node, level, ended)
            self._drop_node_locked(known, key)
            self._remember_end_locked(known, key, level.sequence)
        return list(revised)

    def end_writers_locked(self, operation: Operation, gone: Sequence[str], ended: list[Node]) -> None:
        """Cancel the running levels of processes that have ended. Their counts stay."""
        known = operation.contributed
        if known is None:
            return
        for key, node in reversed(list(known.nodes.items())):
            if known.writers.get(key[0]) in gone and node.status is Status.RUNNING:
                node.message = REASON_GONE
                self._tree.end_level_locked(node, Status.CANCELLED, ended)
                sequence = known.sequences.get(key, 0)
                self._drop_node_locked(known, key)
                self._remember_end_locked(known, key, sequence)

    def revise_locked(self, nodes: Iterable[Node], clock: float, now: float) -> list[Node]:
        """Update the figures of ended levels, and of the levels above them.

        ``clock`` and ``now`` are monotonic and Unix seconds. Return all of them.
        """
        found: dict[Node, None] = {}
        for node in nodes:
            here: Node | None = node
            while here is not None:
                if here.status.finished:
                    found[here] = None
                here = here.parent
        levels = sorted(found, key=lambda node: -node.depth)
        for node in levels:
            was_early = node.ended_early
            self._tree.update_level_locked(node, clock, now)
            siblings = None if node.parent is None else node.parent.children
            if siblings is not None and node.ended_early is not was_early:
                siblings.ended_early += 1 if node.ended_early else -1
        return levels

    # --- units on a level of this process --------------------------------------------------------

    def _is_awaited_locked(
        self, operation: Operation, known: ContributedLevels, key: tuple[str, str]
    ) -> bool:
        """Return True if units wait for their level.

        The process that started the level may write it later than the one that counts on it.
        """
        polls = 0 if find_level_locked(operation, key[1]) is not None else known.awaited.get(key, 0) + 1
        if 0 < polls <= MAX_POLLS_FOR_LEVEL:
            known.awaited[key] = polls
            return True
        known.awaited.pop(key, None)
        return False

    def _merge_share_locked(
        self, operation: Operation, contribution: Contribution, revised: dict[Node, None]
    ) -> None:
        node = find_level_locked(operation, contribution.level.path)
        if node is None:
            self.dropped += 1
            return
        level, extras = contribution.level, node.ensure_extras()
        before = None if extras.shares is None else extras.shares.get(contribution.writer)
        # Why a new dict: readers iterate over it.
        extras.shares = {**(extras.shares or {}), contribution.writer: contribution}
        operation.previews = max(operation.previews, level.previews)
        if node.status.finished:
            if before is None or _get_counts(before) != _get_counts(contribution):
                revised[node] = None
            return
        if level.total is not None and (before is None or before.level.total != level.total):
            node.total = level.total
        if level.message is not None and (before is None or before.level.message != level.message):
            node.message = level.message
        if level.metadata and (before is None or before.level.metadata != level.metadata):
            node.metadata = merge_metadata(node.metadata, level.metadata)
        node.dirty = True

    # --- levels of other processes ---------------------------------------------------------------

    def _find_or_start_locked(
        self,
        operation: Operation,
        known: ContributedLevels,
        key: tuple[str, str],
        contribution: Contribution,
        ended: list[Node],
    ) -> Node | None:
        """Return the node of a level, which may just have started.

        Return None if the level cannot be added, or if it has ended. Raises ParentMissing if the
        level above is not known yet.
        """
        level = contribution.level
        node = known.nodes.get(key)
        if node is not None and known.starts.get(key) in (None, level.info.started_at):
            if node.status is Status.PENDING:
                self._start_stage_locked(node, level, ended)
            known.starts[key] = level.info.started_at
            return None if node.status.finished and not node.declared else node
        if node is not None:
            # The level has started again, and the end of the earlier attempt is not known.
            self._tree.end_level_locked(node, Status.CANCELLED, ended)
            self._drop_node_locked(known, key)
        parent = self._find_parent_locked(operation, known, key)
        if parent is None and self._is_parent_expected_locked(known, key):
            raise ParentMissing
        if parent is None or parent.status is not Status.RUNNING:
            return None
        try:
            node = self._start_locked(parent, level, ended)
        except OpenRejected:
            return None
        node.tracked = contribution.is_tracked
        if level.info.trace_id is not None and level.info.span_id is not None:
            node.trace = (int(level.info.trace_id, 16), int(level.info.span_id, 16))
            node.info = None
        known.nodes[key] = node
        known.starts[key] = level.info.started_at
        return node

    def _find_parent_locked(
        self, operation: Operation, known: ContributedLevels, key: tuple[str, str]
    ) -> Node | None:
        writer, path = key
        above = path.rpartition("/")[0]
        return known.nodes.get((writer, above)) or find_level_locked(operation, above)

    def _is_parent_expected_locked(self, known: ContributedLevels, key: tuple[str, str]) -> bool:
        """Return True if the level above is one of the same process, not known yet."""
        writer, path = key
        above = path.rpartition("/")[0]
        is_share = (writer, above) in known.sequences or not above
        return not is_share and (writer, above) not in known.ended

    def _start_locked(self, parent: Node, level: LevelSnapshot, ended: list[Node]) -> Node:
        """Start a level below ``parent``. Raises OpenRejected."""
        info, tree = level.info, self._tree
        spec = Spec(
            info.type, info.id, info.name, level.total, info.unit, info.weight, info.deadline_at, None,
            level.metadata, None, None, info.unit_plural,
        )  # fmt: skip
        segment = info.path.rpartition("/")[2]
        existing = None if parent.children is None else parent.children.nodes.get(segment)
        if existing is not None and existing.declared:
            return self._start_stage_locked(existing, level, ended)
        if info.declared:
            stage = tree.declare_stage_locked(parent, spec)
            return self._start_stage_locked(stage, level, ended)
        node = tree.create_node(parent, spec)
        tree.start_level_locked(node, rename=True)
        self._set_start_locked(node, level)
        if info.type == semconv.STAGE and parent.children is not None:
            parent.children.stage = node
        return node

    def _start_stage_locked(self, stage: Node, level: LevelSnapshot, ended: list[Node]) -> Node:
        """Start a declared stage if it runs or ran in its process."""
        parent = stage.parent
        if level.status is Status.PENDING or parent is None or stage.status is not Status.PENDING:
            return stage
        if level.info.started_at is None:
            self._tree.skip_stage_locked(stage)
            return stage
        try:
            started = self._tree.start_stage_locked(parent, stage.spec, [], ended)
        except OpenRejected:
            return stage
        self._set_start_locked(started, level)
        return started

    def _set_start_locked(self, node: Node, level: LevelSnapshot) -> None:
        """Set the start of a level to the time at which its process started it."""
        started_at, now, clock = level.info.started_at, node.started_at, node.started_clock
        if started_at is None or now is None or clock is None or started_at >= now:
            return
        parent = node.parent
        first = now if parent is None or parent.started_at is None else parent.started_at
        node.started_at = max(started_at, min(first, now))
        node.started_clock = clock - (now - node.started_at)
        node.info = None

    def _end_locked(self, node: Node, level: LevelSnapshot, ended: list[Node]) -> None:
        if node.status.finished or node.status is Status.PENDING:
            return
        self._tree.end_level_locked(node, level.status, ended)
        if level.duration_s is not None:
            node.duration = max(0.0, level.duration_s)
        if level.ended_at is not None and node.ended_at is not None:
            node.ended_at = max(node.started_at or 0.0, min(node.ended_at, level.ended_at))
        node.snapshot = None

    def _drop_node_locked(self, known: ContributedLevels, key: tuple[str, str]) -> None:
        for table in (known.nodes, known.starts, known.sequences):
            table.pop(key, None)

    def _remember_end_locked(self, known: ContributedLevels, key: tuple[str, str], sequence: int) -> None:
        known.ended[key] = sequence
        known.ended.move_to_end(key)
        if len(known.ended) > MAX_KNOWN_PER_OPERATION:
            known.ended.popitem(last=False)


def find_level_locked(operation: Operation, path: str) -> Node | None:
    """Return the level of an operation at a path, or None if it is not in memory."""
    node = operation.root
    for segment in path.split("/") if path else ():
        if node is None or node.children is None:
            return None
        node = node.children.nodes.get(segment)
    return node


def _get_counts(contribution: Contribution) -> tuple[object, ...]:
    level = contribution.level
    return contribution.is_counted, level.current, level.failed, level.skipped


def _set_values_locked(node: Node, contribution: Contribution) -> None:
    """Set the values of a level to those of its contribution."""
    level = contribution.level
    if node.status.finished:
        return
    if contribution.is_counted:
        node.ensure_counter().set(level.current)
    extras = node.extras
    if level.failed or level.skipped or extras is not None:
        node.set_outcomes(level.failed, level.skipped)
    node.total, node.message, node.metadata = level.total, level.message, level.metadata
    node.error = level.error
    node.operation.previews = max(node.operation.previews, level.previews)
    node.dirty = True
