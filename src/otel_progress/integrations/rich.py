"""Progress of programs that use rich: every task of ``rich.progress`` is a level.

Without a current level it is an operation of type ``rich``.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Any, Final

from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error
from otel_progress.integrations.bars import MAX_POSTFIX_KEYS, BarFigures, BarRecord, BarRecorder
from otel_progress.interrupts import is_interrupt


class TaskRecord(BarRecord):
    """A task of a ``Progress`` of rich."""

    __slots__ = ("counted", "fields", "raw_description", "reference", "shown_description", "task_id")

    def __init__(self, progress: Any, task_id: Any) -> None:
        super().__init__()
        self.reference = weakref.ref(progress)
        self.task_id = task_id
        self.resumed = progress._tasks[task_id].completed
        self.raw_description: object = None
        self.shown_description = ""
        self.fields: dict[str, object] | None = None
        self.counted: int | None = None
        """Count of a loop whose display is not started. None for any other task."""

    def read(self) -> BarFigures | None:
        """Return the state of the task, or None after it was removed or collected."""
        progress = self.reference()
        # Why without the lock of rich: a thread may hold it while it draws.
        task = None if progress is None else progress._tasks.get(self.task_id)
        if task is None:
            return None
        if task.description != self.raw_description:
            self.raw_description = task.description
            self.shown_description = _remove_markup(task.description)
        fields, metadata = _read_fields(task.fields), None
        if fields != self.fields and (fields or self.fields):
            self.fields = metadata = fields
        completed, is_finished = task.completed, task.finished
        if self.counted is not None:
            completed = self.counted
            is_finished = task.total is not None and completed >= task.total
        return BarFigures(completed, task.total, self.shown_description, metadata, task.started, is_finished)


class _CountedElements:
    """Elements of a loop over ``Progress.track`` whose display is not started.

    rich does not count them. An element is done when the loop requests the next one.
    """

    def __init__(self, progress: Any, elements: Iterable[Any], completed: int, task_id: Any) -> None:
        self._progress = progress
        self._elements = elements
        self._completed = completed
        self._task_id = task_id

    def __length_hint__(self) -> int:
        return length_hint(self._elements)

    def __iter__(self) -> Iterator[Any]:
        record = self._find_record()
        if record is None:
            yield from self._elements
            return
        record.counted = self._completed
        for element in self._elements:
            yield element
            record.counted += 1

    def _find_record(self) -> TaskRecord | None:
        try:
            # Why the last one: rich has added the task immediately before.
            task_id = self._progress.task_ids[-1] if self._task_id is None else self._task_id
            return _records.get(self._progress, {}).get(task_id)
        except Exception as error:
            _report(error)
            return None


def _remove_markup(description: object) -> str:
    """Return a description without the markup of rich."""
    from rich.errors import MarkupError
    from rich.markup import render

    try:
        return render(str(description)).plain
    except MarkupError:
        return str(description)


def _read_fields(fields: dict[str, object]) -> dict[str, object]:
    """Return the fields of a task that are simple values."""
    simple = {key: value for key, value in list(fields.items()) if isinstance(value, (str, int, float))}
    return dict(list(simple.items())[:MAX_POSTFIX_KEYS])


_recorder: Final = BarRecorder("rich", ("rich",))


_records: Final[weakref.WeakKeyDictionary[Any, dict[Any, TaskRecord]]] = weakref.WeakKeyDictionary()
"""Open tasks of each ``Progress``."""


def _open_task(progress: Any, task_id: Any) -> None:
    """Record a task, unless it is recorded or finished."""
    try:
        records = _records.setdefault(progress, {})
        record = records.get(task_id)
        if (record is not None and not record.is_ended) or progress._tasks[task_id].finished:
            return
        record = TaskRecord(progress, task_id)
        if _recorder.open(record):
            records[task_id] = record
    except Exception as error:
        _report(error)


def _end_tasks(progress: Any, task_ids: tuple[Any, ...] | None, error: BaseException | None) -> None:
    """Record the end of tasks, by default of all tasks."""
    try:
        records = _records.get(progress, {})
        for task_id in list(records) if task_ids is None else task_ids:
            record = records.pop(task_id, None)
            if record is not None:
                is_left = isinstance(error, GeneratorExit)
                _recorder.end(record, None if is_left else error, is_early=is_left)
    except Exception as failure:
        _report(failure)


def _report(error: Exception) -> None:
    if is_interrupt(error):
        raise error
    report_internal_error("integration", "A task of rich could not be recorded.", error=error)


def _wrap_add_task(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def add_task(self: Any, *arguments: Any, **keywords: Any) -> Any:
        task_id = original(self, *arguments, **keywords)
        if _patches[0].is_active:
            _open_task(self, task_id)
        return task_id

    return add_task


def _wrap_reset(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def reset(self: Any, task_id: Any, *arguments: Any, **keywords: Any) -> Any:
        result = original(self, task_id, *arguments, **keywords)
        if _patches[0].is_active:
            _open_task(self, task_id)
        return result

    return reset


def _wrap_start(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def start(self: Any) -> Any:
        result = original(self)
        if _patches[0].is_active:
            # Why: a display that was stopped may start again.
            for task_id in list(self._tasks):
                _open_task(self, task_id)
        return result

    return start


def _wrap_track(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def iterate(self: Any, *arguments: Any, **keywords: Any) -> Iterator[Any]:
        bound = signature.bind(self, *arguments, **keywords)
        if _patches[0].is_active and not self.live.is_started:
            passed = bound.arguments
            bound.arguments["sequence"] = _CountedElements(
                self, passed["sequence"], passed.get("completed", 0), passed.get("task_id")
            )
        yield from original(*bound.args, **bound.kwargs)

    @functools.wraps(original)
    def track(self: Any, *arguments: Any, **keywords: Any) -> Any:
        # Why: a display that is started counts by itself, without a cost per element here.
        is_counted = self.live.is_started or "sequence" not in signature.parameters
        return (original if is_counted else iterate)(self, *arguments, **keywords)

    return track


def _wrap_remove_task(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(original)
    def remove_task(self: Any, task_id: Any) -> Any:
        _end_tasks(self, (task_id,), None)
        return original(self, task_id)

    return remove_task


def _wrap_stop(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def stop(self: Any) -> Any:
        error = sys.exc_info()[1]
        try:
            return original(self)
        finally:
            _end_tasks(self, None, error)

    return stop


_WRAPPERS: Final[dict[str, Callable[[Any], Any]]] = {
    "add_task": _wrap_add_task,
    "start": _wrap_start,
    "reset": _wrap_reset,
    "track": _wrap_track,
    "remove_task": _wrap_remove_task,
    "stop": _wrap_stop,
}


_patches: Final[list[AttributePatch]] = []


def instrument() -> None:
    """Record the tasks of all displays of rich from now on. Idempotent."""
    # Why here: the import takes time, and this package needs rich only for its console.
    from rich.progress import Progress

    if not _patches:
        _patches.extend(AttributePatch(Progress, name) for name in _WRAPPERS)
    if not _patches[0].is_active:
        for patch, wrap in zip(_patches, _WRAPPERS.values(), strict=True):
            patch.apply(wrap)


def uninstrument() -> None:
    """Stop recording new tasks. Idempotent.

    Open tasks are recorded until they end.
    """
    for patch in _patches:
        patch.remove()
