"""Progress of scikit-learn estimators through its callback API, since version 1.9.

The callback's tree of tasks is the tree of levels, also for tasks in the processes of joblib.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Final

from otel_progress.instrument.level import Level
from otel_progress.instrument.wrapping import wrap
from otel_progress.integrations.training import create_level, guard_hook, is_configured, select_metrics

FIT: Final = "fit"
"""Type of the level of the outermost estimator."""


Key = tuple[Any, ...]
"""UUID of a tree of tasks, and the ids of the tasks from the root to one of them."""


class ProgressCallback:
    """Callback for ``estimator.set_callbacks`` that records the tasks of ``fit``.

    Set it on the outermost estimator: scikit-learn passes it to the estimators inside. ``name`` is
    by default the class of the estimator. ``id`` is the id of the operation. Other arguments are
    metadata. Tasks without subtasks are units of their parent, and all others are levels. A request
    to cancel ends the iterations after the current task.
    """

    max_propagation_depth = None
    """The callback is passed to estimators at all depths."""

    def __init__(self, name: str | None = None, *, id: object = None, **metadata: object) -> None:
        self._name = name
        self._id = id
        self._metadata = metadata
        self._levels: dict[Key, Level] = {}
        self._process = os.getpid()
        self._is_shared = False
        self._received: frozenset[Key] = frozenset()
        """Keys of the levels of another process. Empty in the process that runs ``fit``."""
        self._ended_levels: dict[Key, int] = {}
        """Numbers of ended levels below levels that count nothing themselves."""
        self._counting: set[Key] = set()
        """Keys of the levels that count their subtasks themselves."""
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Why: other processes may count on the levels from now on.
        self._is_shared = True
        levels = {"_levels": dict(self._levels), "_ended_levels": {}, "_counting": set()}
        return {**self.__dict__, **levels, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
        if os.getpid() != self._process:
            self._received = frozenset(self._levels)

    # --- hooks -----------------------------------------------------------------------------------

    @guard_hook
    def setup(self, estimator: Any, context: Any) -> None:
        """Start the level of the outermost estimator."""
        if not is_configured():
            return
        model = str(context.estimator_name)
        level = create_level(
            "sklearn",
            FIT,
            self._name or model,
            id=self._id,
            total=context.max_subtasks or None,
            unit="task",
            group=model,
        )
        self._process = os.getpid()
        self._is_shared = False
        level.__enter__()
        self._levels[_get_key(context)] = level
        values = select_metrics(self._metadata)
        if values:
            level.update(**values)  # type: ignore[arg-type]

    @guard_hook
    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Start the level of a task with subtasks."""
        if context.max_subtasks == 0 or context.parent is None:
            return
        key = _get_key(context)
        parent_key = self._find_parent(key)
        if parent_key is None:
            return
        name = f"{context.estimator_name} {context.task_name} {context.task_id}"
        # Why a weight: the parent includes the finished part of this level, unless other processes
        # count on the parent.
        weight = 0 if parent_key in self._received else 1
        # Why the start: it configures a process that has only received the handle.
        level = (
            self._levels[parent_key]
            .start()
            .level(
                context.task_name or "task",
                context.task_id,
                name,
                total=context.max_subtasks,
                unit="task",
                weight=weight,
            )
            .start()
        )
        self._levels[key] = level

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        """Count the task. Return True after a request to cancel."""
        return bool(self._end_task(context))

    @guard_hook
    def _end_task(self, context: Any) -> bool:
        if context.parent is None:
            return False
        key = _get_key(context)
        level = self._levels.pop(key, None)
        if level is not None:
            self._complete(level)
        parent_key = self._find_parent(key)
        if parent_key is None:
            return False
        parent = self._levels[parent_key]
        self._count(parent_key, parent, is_level=level is not None)
        if parent_key in self._received:
            # Why: the fit may end before the next tick of this process.
            wrap(_do_nothing, parent)()
        return parent.cancel_requested

    @guard_hook
    def teardown(self, estimator: Any, context: Any) -> None:
        """End the level of the outermost estimator, and those of tasks without an end."""
        root = _get_key(context)
        error = sys.exc_info()[1]
        keys = [key for key in self._levels if key[: len(root)] == root]
        for key in sorted(keys, key=len, reverse=True):
            level = self._levels.pop(key)
            if key != root:
                level.fail("The task ended with an exception." if error is None else error)
            elif error is None:
                self._complete(level)
            level.__exit__(None if error is None else type(error), error, None)
        with self._lock:
            self._counting = {key for key in self._counting if key[: len(root)] != root}
            self._ended_levels = {
                key: count for key, count in self._ended_levels.items() if key[: len(root)] != root
            }

    # --- levels ----------------------------------------------------------------------------------

    def _count(self, key: Key, level: Level, *, is_level: bool) -> None:
        """Count a subtask that has ended.

        A level with subtasks that are levels counts them by their weight. Its own first count
        replaces these, so it includes them.
        """
        with self._lock:
            if is_level and key not in self._received and key not in self._counting:
                self._ended_levels[key] = self._ended_levels.get(key, 0) + 1
                return
            self._counting.add(key)
            units = 1 + self._ended_levels.pop(key, 0)
        level.increment(units)

    def _find_parent(self, key: Key) -> Key | None:
        """Return the key of the nearest task above that has a level."""
        return next((key[:n] for n in range(len(key) - 1, 0, -1) if key[:n] in self._levels), None)

    def _complete(self, level: Level) -> None:
        """Complete a level. Its total is an upper bound, which becomes the count."""
        if not self._is_shared:
            snapshot = level.snapshot()
            if snapshot.total is not None and snapshot.current < snapshot.total:
                level.update(total=snapshot.current)
        if level.cancel_requested:
            level.cancel("cancel was requested")
        level.complete()


def _do_nothing() -> None:
    """Do nothing. Its wrapped call delivers the counts of this process."""


def _get_key(context: Any) -> Key:
    ids: list[Any] = []
    current = context
    while current.parent is not None:
        ids.append(current.task_id)
        current = current.parent
    return (str(current.root_uuid), *reversed(ids))
