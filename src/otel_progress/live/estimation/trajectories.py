"""What past runs left to learn from, as far as this process knows it: by key, bounded, with what is yet to be asked for and told.

Not thread-safe by itself: the live store calls it with its lock held.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from typing import Final

from otel_progress.live.estimation.levels import build_trajectory
from otel_progress.live.estimation_state import EstimationState
from otel_progress.live.node import Node
from otel_progress.model import Status
from otel_progress.processes import host_class
from otel_progress.quantiles import interpolated_quantile
from otel_progress.records import Trajectory, TrajectoryEntry, TrajectoryKey

MAX_CACHED_KEYS: Final = 1_000
"""Keys that are remembered; beyond, those go that were asked for longest ago."""


MAX_TRAJECTORIES_PER_KEY: Final = 20
"""Trajectories that are remembered under each key, the newest."""


MAX_KEYS_PER_QUERY: Final = 64
"""Keys that are asked for at a time."""


_THINNED: Final = 32


_OUTLIER: Final = 3.0


class _CacheEntry:
    """What is known under one key: ``base`` as the journal said, ``own`` what this process learned since."""

    __slots__ = ("base", "gap", "known", "loaded", "own", "saved")

    def __init__(self) -> None:
        self.base: tuple[Trajectory, ...] = ()
        self.own: dict[int, TrajectoryEntry] = {}
        self.saved: set[int] = set()
        """Which of ``own`` the journal has by now, so that it will say them itself."""
        self.known: tuple[Trajectory, ...] = ()
        self.gap = 0.0
        self.loaded: float | None = None

    def rebuild(self) -> None:
        """Work out what is known from ``base`` and ``own``."""
        for surplus in list(islice(self.own, max(0, len(self.own) - MAX_TRAJECTORIES_PER_KEY))):
            del self.own[surplus]
            self.saved.discard(surplus)
        self.known = (*self.base, *(lesson.trajectory for lesson in self.own.values()))[
            -MAX_TRAJECTORIES_PER_KEY:
        ]
        self.gap = max((longest_gap(one) for one in self.known), default=0.0)


class TrajectoryCache:
    """Trajectories of past runs by key. ``has_backend`` says that there is a journal to ask."""

    def __init__(self, *, has_backend: bool = False) -> None:
        self.has_backend = has_backend
        self._host = host_class()
        self._shelves: OrderedDict[TrajectoryKey, _CacheEntry] = OrderedDict()
        self._wanted: dict[TrajectoryKey, None] = {}
        self._unsent: list[TrajectoryEntry] = []

    @property
    def has_unsent(self) -> bool:
        """True while there are lessons that no batch has carried."""
        return bool(self._unsent)

    def key(self, operation_type: str, level: str, eta_key: str | None, since: float) -> TrajectoryKey:
        """Return the key of a place in operations of a kind; ask for it anew unless that was done after ``since`` (monotonic)."""
        key = TrajectoryKey(operation_type, level, self._host, eta_key or "")
        shelf = self._shelf(key)
        if self.has_backend and (shelf.loaded is None or shelf.loaded <= since):
            self._wanted[key] = None
        return key

    def history(self, key: TrajectoryKey) -> tuple[Trajectory, ...]:
        """Return what is known under a key, oldest first."""
        shelf = self._shelves.get(key)
        return () if shelf is None else shelf.known

    def longest_gap(self, key: TrajectoryKey) -> float:
        """Return the longest time without an advance that past runs show, in seconds; 0 when they show none."""
        shelf = self._shelves.get(key)
        return 0.0 if shelf is None else shelf.gap

    def add(self, lessons: Iterable[TrajectoryEntry]) -> None:
        """Remember what a run left, and tell it in the next batch."""
        for lesson in lessons:
            shelf = self._shelf(lesson.key)
            shelf.own[id(lesson)] = lesson
            shelf.rebuild()
            self._unsent.append(lesson)

    def drain(self) -> list[TrajectoryEntry]:
        """Return what the next batch has to carry."""
        lessons, self._unsent = self._unsent, []
        return lessons

    def mark_persisted(self, lessons: Iterable[TrajectoryEntry]) -> None:
        """Hear that the journal has these lessons: it says them itself when it is asked next."""
        for lesson in lessons:
            shelf = self._shelves.get(lesson.key)
            if shelf is not None and id(lesson) in shelf.own:
                shelf.saved.add(id(lesson))

    def take_pending_keys(self) -> list[TrajectoryKey]:
        """Return keys that the journal is to be asked for, at most ``MAX_ASKED``; they are not returned again."""
        keys = list(islice(self._wanted, MAX_KEYS_PER_QUERY))
        for key in keys:
            del self._wanted[key]
        return keys

    def requeue(self, keys: Iterable[TrajectoryKey]) -> None:
        """Ask for keys again that could not be answered."""
        for key in islice(keys, max(0, MAX_CACHED_KEYS - len(self._wanted))):
            self._wanted[key] = None

    def load(self, key: TrajectoryKey, trajectories: Sequence[Trajectory], clock: float) -> bool:
        """Take what the journal keeps under a key, asked for at ``clock``; False when that is nothing new."""
        shelf = self._shelf(key)
        before = shelf.known
        # Those that are known stay the same objects: what was worked out of them is found again by that.
        shelf.base = tuple(next((one for one in before if one == new), new) for new in trajectories)
        shelf.loaded = clock
        for saved in shelf.saved:
            shelf.own.pop(saved, None)
        shelf.saved.clear()
        shelf.rebuild()
        return shelf.known != before

    def _shelf(self, key: TrajectoryKey) -> _CacheEntry:
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = _CacheEntry()
            if len(self._shelves) > MAX_CACHED_KEYS:
                gone, _ = self._shelves.popitem(last=False)
                self._wanted.pop(gone, None)
        else:
            self._shelves.move_to_end(key)
        return shelf


def longest_gap(trajectory: Trajectory) -> float:
    """Return the longest time between advances that a trajectory shows, in seconds.

    The points of a long run were thinned out, so the time between them says nothing, unless it stands out.
    """
    points = trajectory.points
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(points)]
    if not gaps:
        return 0.0
    longest = max(gaps)
    return longest if len(points) < _THINNED or longest > _OUTLIER * interpolated_quantile(gaps, 0.5) else 0.0


MAX_KEYS_PER_OPERATION: Final = 64
"""Kinds of levels of one operation that leave something; of each kind the last 20."""


def collect_trajectories(node: Node, course: EstimationState | None) -> Iterable[TrajectoryEntry]:
    """Note the curve of a level that completed; return the lessons of an operation that did.

    Failed and cancelled runs leave nothing, nor do those that took up the work of an earlier session: their length says nothing.
    """
    operation = node.operation
    if node.status is not Status.COMPLETED or operation.resumed or course is None:
        return ()
    curve = build_trajectory(node, course)
    if node.parent is not None:
        curves = operation.trajectories
        if course.key in curves or len(curves) < MAX_KEYS_PER_OPERATION:
            curves.setdefault(course.key, deque(maxlen=MAX_TRAJECTORIES_PER_KEY)).append(curve)
        return ()
    at = node.ended_at or 0.0
    lessons = [TrajectoryEntry(course.key, operation.run, at, curve)]
    lessons += [
        TrajectoryEntry(key, operation.run, at, one)
        for key, curves in operation.trajectories.items()
        for one in curves
    ]
    operation.trajectories = {}
    return lessons
