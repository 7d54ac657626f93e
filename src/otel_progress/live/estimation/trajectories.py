"""Bounded cache of the trajectories of past runs, with keys to load.

Methods whose name ends in ``_locked`` require the lock of the live store.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, pairwise
from typing import Final

from otel_progress.live.estimation.levels import build_trajectory
from otel_progress.live.estimation_state import EstimationState
from otel_progress.live.node import Node
from otel_progress.model import Status
from otel_progress.processes import host_class
from otel_progress.quantiles import interpolated_quantile
from otel_progress.records import MAX_TRAJECTORIES_PER_KEY, Trajectory, TrajectoryEntry, TrajectoryKey

MAX_CACHED_KEYS: Final = 1_000
"""Keys in the cache. Beyond it, the least recently requested keys are evicted."""


MAX_KEYS_PER_QUERY: Final = 64
"""Keys that are loaded at once. The other keys are loaded after later writes of the journal."""


MAX_UNSENT_KEYS: Final = 10_000
"""Keys whose new entries wait for a tick. Beyond it, the entries of the oldest key are dropped."""


MAX_KEYS_PER_OPERATION: Final = 64
"""Kinds of levels per operation that leave trajectories. Further kinds leave none."""


_THINNED_POINTS: Final = 32
"""A trajectory with so many points was probably thinned out."""


_OUTLIER_FACTOR: Final = 3.0


class _CacheEntry:
    """Trajectories of one key: ``base`` from the journal, ``own`` of this process."""

    __slots__ = ("base", "known", "loaded_clock", "longest_gap", "own", "persisted")

    def __init__(self) -> None:
        self.base: tuple[Trajectory, ...] = ()
        self.own: dict[int, TrajectoryEntry] = {}
        self.persisted: set[int] = set()
        """Keys of ``own`` that the journal has stored. The next load returns them as part of
        ``base``.
        """
        self.known: tuple[Trajectory, ...] = ()
        """The newest trajectories of ``base`` and ``own``."""
        self.longest_gap = 0.0
        self.loaded_clock: float | None = None

    def rebuild(self) -> None:
        """Compute ``known`` and ``longest_gap`` from ``base`` and ``own``."""
        for surplus in list(islice(self.own, max(0, len(self.own) - MAX_TRAJECTORIES_PER_KEY))):
            del self.own[surplus]
            self.persisted.discard(surplus)
        trajectories = (*self.base, *(entry.trajectory for entry in self.own.values()))
        self.known = trajectories[-MAX_TRAJECTORIES_PER_KEY:]
        self.longest_gap = max((compute_longest_gap(trajectory) for trajectory in self.known), default=0.0)


class TrajectoryCache:
    """Cache of trajectories by key.

    ``has_backend`` is True when a journal can load them. ``get_scope`` returns the group of the
    operations that have no ``eta_key``.
    """

    def __init__(self, *, has_backend: bool = False, get_scope: Callable[[], str] = lambda: "") -> None:
        self.has_backend = has_backend
        self._get_scope = get_scope
        self._host = host_class()
        self._entries: OrderedDict[TrajectoryKey, _CacheEntry] = OrderedDict()
        self._pending_keys: dict[TrajectoryKey, None] = {}
        self._unsent: OrderedDict[TrajectoryKey, deque[TrajectoryEntry]] = OrderedDict()

    @property
    def has_unsent(self) -> bool:
        """True while no change set has reported some entry."""
        return bool(self._unsent)

    def request_key_locked(
        self, operation_type: str, level: str, eta_key: str | None, since: float
    ) -> TrajectoryKey:
        """Return the key of a level in operations of a type.

        Queue it for loading unless loaded after ``since``.

        ``since`` is in monotonic seconds.
        """
        key = TrajectoryKey(operation_type, level, self._host, eta_key or self._get_scope())
        entry = self._touch_entry_locked(key)
        if self.has_backend and (entry.loaded_clock is None or entry.loaded_clock <= since):
            self._pending_keys[key] = None
        return key

    def list_history_locked(self, key: TrajectoryKey) -> tuple[Trajectory, ...]:
        """Return the trajectories of a key, oldest first."""
        entry = self._entries.get(key)
        return () if entry is None else entry.known

    def get_longest_gap_locked(self, key: TrajectoryKey) -> float:
        """Return the longest time without an advance in past runs, in seconds, or 0."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else entry.longest_gap

    def add_locked(self, entries: Iterable[TrajectoryEntry]) -> None:
        """Add the trajectories of a run to the cache and to the next change set."""
        for added in entries:
            entry = self._touch_entry_locked(added.key)
            entry.own[id(added)] = added
            entry.rebuild()
            self._add_unsent_locked(added)

    def drain_locked(self) -> list[TrajectoryEntry]:
        """Return the entries for the next change set."""
        entries, self._unsent = self._unsent, OrderedDict()
        return [entry for by_key in entries.values() for entry in by_key]

    def _add_unsent_locked(self, added: TrajectoryEntry) -> None:
        """Add an entry to the next change set.

        Only the newest ones of a key are needed, because sinks store no more.
        """
        entries = self._unsent.get(added.key)
        if entries is None:
            entries = self._unsent[added.key] = deque(maxlen=MAX_TRAJECTORIES_PER_KEY)
            if len(self._unsent) > MAX_UNSENT_KEYS:
                self._unsent.popitem(last=False)
        entries.append(added)

    def mark_persisted_locked(self, entries: Iterable[TrajectoryEntry]) -> None:
        """Mark entries that the journal has stored: the next load returns them."""
        for persisted in entries:
            entry = self._entries.get(persisted.key)
            if entry is not None and id(persisted) in entry.own:
                entry.persisted.add(id(persisted))

    def take_pending_keys_locked(self) -> list[TrajectoryKey]:
        """Remove and return the next keys to load, at most ``MAX_KEYS_PER_QUERY``."""
        keys = list(islice(self._pending_keys, MAX_KEYS_PER_QUERY))
        for key in keys:
            del self._pending_keys[key]
        return keys

    def requeue_locked(self, keys: Iterable[TrajectoryKey]) -> None:
        """Queue keys again that could not be loaded."""
        for key in islice(keys, max(0, MAX_CACHED_KEYS - len(self._pending_keys))):
            self._pending_keys[key] = None

    def store_loaded_locked(
        self, key: TrajectoryKey, trajectories: Sequence[Trajectory], clock: float
    ) -> bool:
        """Store the trajectories that were loaded at ``clock``.

        Return False when nothing changed.
        """
        entry = self._touch_entry_locked(key)
        before = entry.known
        # Why the same objects for equal trajectories: the estimators cache results by identity.
        entry.base = tuple(next((known for known in before if known == new), new) for new in trajectories)
        entry.loaded_clock = clock
        for persisted in entry.persisted:
            entry.own.pop(persisted, None)
        entry.persisted.clear()
        entry.rebuild()
        return entry.known != before

    def _touch_entry_locked(self, key: TrajectoryKey) -> _CacheEntry:
        """Return the entry of a key as the most recently used one. Create it if needed."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _CacheEntry()
            if len(self._entries) > MAX_CACHED_KEYS:
                evicted, _ = self._entries.popitem(last=False)
                self._pending_keys.pop(evicted, None)
        else:
            self._entries.move_to_end(key)
        return entry


def compute_longest_gap(trajectory: Trajectory) -> float:
    """Return the longest time between two advances in a trajectory, in seconds.

    The points of a long run were thinned out. Then a gap counts only if it is an outlier.
    """
    points = trajectory.points
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(points)]
    if not gaps:
        return 0.0
    longest = max(gaps)
    is_outlier = len(points) < _THINNED_POINTS or longest > _OUTLIER_FACTOR * interpolated_quantile(gaps, 0.5)
    return longest if is_outlier else 0.0


def collect_trajectories_locked(node: Node, estimation: EstimationState | None) -> Iterable[TrajectoryEntry]:
    """Add the trajectory of a completed level to its operation.

    Return the entries of a completed operation.

    Failed, cancelled and resumed runs and those that ended early leave none, because their duration
    does not predict that of others.
    """
    operation = node.operation
    if node.status is not Status.COMPLETED or operation.is_resumed or estimation is None:
        return ()
    if node.ended_early:
        return ()
    trajectory = build_trajectory(node, estimation)
    if node.parent is not None:
        if operation.trajectories is None:
            operation.trajectories = {}
        by_key = operation.trajectories
        if estimation.key in by_key or len(by_key) < MAX_KEYS_PER_OPERATION:
            by_key.setdefault(estimation.key, deque(maxlen=MAX_TRAJECTORIES_PER_KEY)).append(trajectory)
        return ()
    at = node.ended_at or 0.0
    entries = [TrajectoryEntry(estimation.key, operation.run, at, trajectory)]
    entries += [
        TrajectoryEntry(key, operation.run, at, trajectory)
        for key, trajectories in (operation.trajectories or {}).items()
        for trajectory in trajectories
    ]
    operation.trajectories = None
    return entries
