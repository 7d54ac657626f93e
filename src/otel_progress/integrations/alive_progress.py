"""Progress of programs that use alive-progress: every bar is a level.

Without a current level it is an operation of type ``alive_progress``. The library has no hook, so
the function behind ``alive_bar`` and ``alive_it`` is replaced.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from otel_progress.attribute_patch import AttributePatch
from otel_progress.diagnostics import report_internal_error
from otel_progress.integrations.bars import BarFigures, BarRecord, BarRecorder, enter_bar
from otel_progress.interrupts import is_interrupt


class AliveRecord(BarRecord):
    """A bar of alive-progress."""

    __slots__ = ("reference", "title", "total")

    def __init__(self, bar: Any, total: object, title: object) -> None:
        super().__init__()
        self.reference = weakref.ref(bar)
        self.total = total
        self.title = title

    def read(self) -> BarFigures | None:
        """Return the state of the bar, or None after it was collected."""
        bar = self.reference()
        return None if bar is None else BarFigures(bar.current, self.total, self.title)


_recorder: Final = BarRecorder("alive_progress", ("alive_progress",))


_patches: Final[list[AttributePatch]] = []


def _wrap(original: Callable[..., AbstractContextManager[Any]]) -> Callable[..., AbstractContextManager[Any]]:
    @functools.wraps(original)
    @contextmanager
    def record_bar(config: Any, total: Any = None, **options: Any) -> Iterator[Any]:
        with original(config, total, **options) as bar:
            record = _open_bar(bar, config, total) if _patches[0].is_active else None
            try:
                yield bar
            except BaseException as error:
                _end_bar(record, error)
                raise
            _end_bar(record, None)

    return record_bar


def _open_bar(bar: Any, config: Any, total: Any) -> AliveRecord | None:
    try:
        if total is None and getattr(config, "manual", False):
            total = 1.0  # the position is a fraction
        record = AliveRecord(bar, total, getattr(config, "title", None))
        if _recorder.open(record):
            enter_bar(record)
            return record
    except Exception as error:
        _report(error)
    return None


def _end_bar(record: AliveRecord | None, error: BaseException | None) -> None:
    if record is None:
        return
    try:
        is_left = isinstance(error, GeneratorExit)
        _recorder.end(record, None if is_left else error, is_early=is_left)
    except Exception as failure:
        _report(failure)


def _report(error: Exception) -> None:
    if is_interrupt(error):
        raise error
    report_internal_error("integration", "A bar of alive-progress could not be recorded.", error=error)


def instrument() -> None:
    """Record the bars of alive-progress from now on. Idempotent.

    Raises ImportError if alive-progress is not installed.
    """
    try:
        from alive_progress.core import progress as module
    except ImportError as error:
        msg = "Invalid environment: expected alive-progress. Install it with `pip install alive-progress`."
        raise ImportError(msg) from error
    if not _patches:
        _patches.append(AttributePatch(module, "__alive_bar"))
    if not _patches[0].is_active and not _patches[0].apply(_wrap):
        report_internal_error(
            "integration",
            "Bars of this version of alive-progress are not recorded: its function was renamed.",
        )


def uninstrument() -> None:
    """Stop recording new bars. Idempotent."""
    for patch in _patches:
        patch.remove()
