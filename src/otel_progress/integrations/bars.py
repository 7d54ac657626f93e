"""Levels of the progress bars of other libraries, which are polled once per tick.

A bar has no hook for each advance that would cost nothing. So the ticker reads its figures. A bar
that is shorter than a second leaves no level.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from typing import Final, NamedTuple, cast

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import ForkPhase, on_fork
from otel_progress.instrument.arguments import LevelArguments, parse_number
from otel_progress.instrument.backend import RecordingBackend
from otel_progress.instrument.context import get_current_level
from otel_progress.instrument.late_levels import (
    Origin,
    capture_origin,
    complete_at_total,
    get_active_backend,
    is_of_backend,
    start_late_level,
    write_figures,
    write_texts,
)
from otel_progress.instrument.level import Level
from otel_progress.instrument.nesting import EnclosingBar, find_loop, next_number, set_bar_finder
from otel_progress.instrument.pollers import add_poller
from otel_progress.instrument.rejections import find_outer_frame
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import STOPPED_EARLY
from otel_progress.locking import CallerLock
from otel_progress.model import Number

MIN_AGE_S: Final = 1.0
"""Age of a bar at which its level starts, in seconds."""


MAX_BARS: Final = 1_000
"""Open bars of a library that are recorded. Beyond it, new bars are not recorded."""


MAX_DEPTH: Final = 16
"""Bars that nest in each other. Beyond it, a bar is a sibling of the bar around it."""


MAX_ENTERED: Final = 64
"""Bars per context whose loops or blocks are remembered. Beyond it, the oldest are dropped."""


MAX_FAILURES: Final = 3
"""Reads of a bar that may raise an error. Beyond it, the bar is not recorded any more."""


MAX_POSTFIX_KEYS: Final = 32
"""Metadata keys from the postfix of a bar. Beyond it, further keys are left out."""


_ESCAPE_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")


_WHITE_SPACE: Final = re.compile(r"\s+")


class BarFigures(NamedTuple):
    """State of a bar, as its library returns it. Each value may be invalid."""

    current: object
    total: object
    description: object = ""
    metadata: Mapping[str, object] | None = None
    """None if it is unchanged."""
    is_started: bool = True
    is_finished: bool = False
    """True if the library has marked the bar as done."""


class BarRecord:
    """A bar and its level. The bar is referenced weakly.

    Subclasses implement :meth:`read` for a library.
    """

    __slots__ = (
        "created_at",
        "description",
        "entry_number",
        "failures",
        "is_ended",
        "known_error",
        "level",
        "loop",
        "origin",
        "outer",
        "recorder",
        "resumed",
        "unit",
    )

    def __init__(self) -> None:
        self.origin: Origin | None = None
        self.outer: BarRecord | None = None
        """The bar around this one."""
        self.loop: Level | None = None
        """Level of the ``track`` loop around this bar, inside of the bar around it."""
        self.entry_number = 0
        """Number of the loop over the bar or of its block, among all loops. 0 before it."""
        self.recorder: BarRecorder | None = None
        error = sys.exc_info()[1]
        # Why the id: a reference would keep the frames of the exception.
        self.known_error = None if error is None else id(error)
        """Exception that was handled when the bar was created. It is not one of the bar."""
        self.created_at: float = 0.0
        """Monotonic seconds."""
        self.level: Level | None = None
        self.is_ended = False
        self.description: tuple[object, str] = (None, "")
        """Description at the last read, as the library returned it and as a text."""
        self.failures = 0
        """Number of reads that raised an error."""
        self.unit: str | None = None
        self.resumed: Number = 0

    @property
    def depth(self) -> int:
        """Number of bars around this one."""
        depth, outer = 0, self.outer
        while outer is not None:
            depth, outer = depth + 1, outer.outer
        return depth

    @property
    def is_iterated(self) -> bool:
        """True while the caller runs in the loop over the bar, or in its ``with`` block."""
        return not self.is_ended

    def read(self) -> BarFigures | None:
        """Return the state of the bar, or None after it was collected. It may raise."""
        raise NotImplementedError

    def start_level(self) -> Level | None:
        """Start the level of the bar. Return it, or None if it cannot have one."""
        if self.level is None and self.recorder is not None:
            if self.outer is not None:
                self.outer.start_level()
            self.recorder.start_early(self)
        return self.level


_entered: ContextVar[tuple[BarRecord, ...]] = ContextVar("otel-progress-bars", default=())
"""Bars whose loop or ``with`` block was entered in this context, newest last.

It is replaced, because tasks share it.
"""


def enter_bar(record: BarRecord) -> None:
    """Make a bar the innermost one of this context, until its loop or block ends."""
    record.entry_number = next_number()
    others = [other for other in _entered.get() if other is not record and not other.is_ended]
    _entered.set((*others[-MAX_ENTERED:], record))


def find_innermost_bar(before: float = math.inf) -> BarRecord | None:
    """Return the innermost bar whose loop or ``with`` block the caller is in.

    ``before`` is the number of a loop. Bars that were entered later are left out.
    """
    for record in reversed(_entered.get()):
        if record.entry_number < before and record.is_iterated:
            return record
    return None


def _find_enclosing_bar(number: int) -> EnclosingBar | None:
    """Return the bar around a loop. A level that was started inside it wins."""
    record = find_innermost_bar(number)
    if record is None or record.origin is None or record.origin.level is not get_current_level():
        return None
    return record


set_bar_finder(_find_enclosing_bar)


class BarRecorder:
    """Poller that records the bars of one library.

    ``type`` is the type of their levels. ``packages`` are the top-level packages of the library.
    All methods may be called from any thread, and never raise an error of their own.
    """

    def __init__(self, type: str, packages: tuple[str, ...]) -> None:
        self._type = type
        self._packages = packages
        self.restart()
        on_fork(phase=ForkPhase.CACHES, owner=self, after_in_child=BarRecorder.restart)

    def restart(self) -> None:
        """Drop all bars, as a forked child does. They belong to the parent process."""
        for record in getattr(self, "_records", ()):
            _release(record)
        self._records: dict[BarRecord, None] = {}
        """Open bars, oldest first."""
        # Why: a signal handler or the garbage collector may end a bar while this thread reads one.
        self._lock = CallerLock()
        self._ending: deque[tuple[Level, BaseException | None, bool]] = deque()
        """Levels to end, with the visible exception, and whether all units are done."""

    @property
    def is_active(self) -> bool:
        """True while a bar is open."""
        return bool(self._records)

    def open(self, record: BarRecord) -> bool:
        """Record a new bar, whose creator is the caller. Return False beyond the limit."""
        if len(self._records) >= MAX_BARS:
            return False
        add_poller(self)
        record.origin = origin = capture_origin(self._packages)
        outer = find_innermost_bar()
        while outer is not None and (outer.is_ended or outer.depth >= MAX_DEPTH):
            outer = outer.outer
        # Why: a level that was started inside the outer bar is the parent.
        if outer is not None and outer.origin is not None and outer.origin.level is origin.level:
            record.outer = outer
        after = 0 if record.outer is None else record.outer.entry_number
        record.loop = cast("Level | None", find_loop(find_outer_frame(), next_number(), after=after))
        record.recorder = self
        backend = get_active_backend()
        record.created_at = time.monotonic() if backend is None else backend.store.clock()
        self._records[record] = None
        if backend is not None:
            backend.store.notify_change()
        return True

    def end(self, record: BarRecord, error: BaseException | None = None, *, is_early: bool = False) -> None:
        """End the level of a bar: failed with ``error``, completed, or cancelled.

        ``error`` is the exception that is visible at the end. ``is_early`` is True if the loop over
        the bar was left.
        """
        if record.is_ended:
            return
        if error is not None and id(error) == record.known_error:
            error = None
        backend = get_active_backend()
        # Why: the ticker may hold the lock of this recorder while it waits for that of the store.
        if backend is not None and backend.store.run_after_interrupted_call(
            partial(self.end, record, error, is_early=is_early)
        ):
            return
        self._lock.run(self._end_locked, record, error, is_early)
        self._end_levels()

    def poll(self) -> None:
        """Read all open bars."""
        backend = get_active_backend()
        if backend is None:
            return
        clock = backend.store.clock()
        for record in list(self._records):
            try:
                outer = record.outer
                if outer is not None and record.level is None and clock - record.created_at >= MIN_AGE_S:
                    # Why: if the bar around is of another library, its recorder may poll it later.
                    outer.start_level()
                # Why per bar: the end of a bar never waits for more than one read.
                self._lock.run(self._poll_locked, record, backend, clock)
                self._end_levels()
            except Exception as error:
                report_internal_error("integration", f"A bar of {self._type} could not be read.", error=error)
                record.failures += 1
                if record.failures >= MAX_FAILURES:
                    self.end(record, is_early=True)

    def start_early(self, record: BarRecord) -> None:
        """Start the level of a bar younger than ``MIN_AGE_S``, for a level below it."""
        backend = get_active_backend()
        # Why: the ticker may hold the lock of this recorder while it waits for that of the store.
        if backend is None or backend.store.is_interrupting():
            return
        self._lock.run(self._start_early_locked, record, backend)

    # --- one bar ---------------------------------------------------------------------------------

    def _poll_locked(self, record: BarRecord, backend: RecordingBackend, clock: float) -> None:
        level = record.level
        if record.is_ended:
            # Why again: an exception may have interrupted the end.
            self._records.pop(record, None)
            return
        if level is not None and not level.recording:
            if is_of_backend(level, backend):
                self._drop_locked(record)  # its parent has ended
                return
            record.level = level = None
        if level is None and clock - record.created_at < MIN_AGE_S:
            # Why: a bar may be older than the clock of the runtime.
            record.created_at = min(record.created_at, clock)
            return
        figures = record.read()
        if figures is None:
            self._end_locked(record, None, True)
        elif not figures.is_started:
            record.created_at = clock
        elif level is None and not self._start_locked(record, figures, clock):
            self._drop_locked(record)
        else:
            self._write_locked(record, figures)
            if figures.is_finished:
                self._end_locked(record, None, False)

    def _start_early_locked(self, record: BarRecord, backend: RecordingBackend) -> None:
        if record.is_ended or record.level is not None:
            return
        figures = record.read()
        if figures is not None and figures.is_started:
            clock = backend.store.clock()
            record.created_at = min(record.created_at, clock)
            if self._start_locked(record, figures, clock):
                self._write_locked(record, figures)

    def _start_locked(self, record: BarRecord, figures: BarFigures, clock: float) -> bool:
        """Start the level of a bar. Return False if it was rejected."""
        parent = record.loop
        outer = record.outer
        while outer is not None and (parent is None or not parent.recording):
            parent, outer = outer.level, outer.outer
        if parent is not None and not parent.recording:
            parent = None
        name = _clean_text(figures.description)
        record.description = (figures.description, name)
        arguments = LevelArguments(
            "level", self._type, name=name or None, unit=_clean_text(record.unit) or None
        )
        record.level = start_late_level(
            arguments,
            cast(Origin, record.origin),
            parent,
            age_s=clock - record.created_at,
            resumed=_to_number(record.resumed) or 0,
        )
        if record.level is None:
            return False
        complete_at_total(record.level)
        return True

    def _write_locked(self, record: BarRecord, figures: BarFigures) -> None:
        level = record.level
        if level is None:
            return
        write_figures(level, _to_number(figures.current), _to_number(figures.total))
        message, (raw, text) = None, record.description
        if figures.description is not raw:
            description = _clean_text(figures.description)
            message = None if description == text else description
            record.description = (figures.description, description)
        if message is not None or figures.metadata is not None:
            write_texts(level, message, figures.metadata)

    def _end_locked(self, record: BarRecord, error: BaseException | None, is_early: bool) -> None:
        if record.is_ended:
            return
        level, figures = record.level, None
        try:
            if level is not None and level.recording:
                figures = record.read()
                if figures is not None:
                    self._write_locked(record, figures)
        except Exception as failure:
            if is_interrupt(failure):
                raise
            report_internal_error("integration", f"A bar of {self._type} could not be read.", error=failure)
        finally:
            self._drop_locked(record)
            if level is not None:
                self._ending.append((level, error, _is_complete(level, figures, is_early=is_early)))

    def _drop_locked(self, record: BarRecord) -> None:
        """Stop reading a bar."""
        _release(record)
        self._records.pop(record, None)

    def _end_levels(self) -> None:
        """End the waiting levels."""
        # Why without the lock: the end of an operation may wait for a tick.
        # Why: a call that interrupts the owner of the lock leaves this to the owner.
        while self._ending and not self._lock.is_owned():
            try:
                level, error, is_complete = self._ending.popleft()
            except IndexError:  # another thread ends it
                return
            try:
                if not level.recording:
                    continue
                if error is not None:
                    level.__exit__(type(error), error, error.__traceback__)
                elif is_complete:
                    level.complete()
                else:
                    level.cancel(STOPPED_EARLY)
            except Exception as failure:
                if is_interrupt(failure):
                    raise
                report_internal_error("integration", f"A bar of {self._type} could not end.", error=failure)


def _release(record: BarRecord) -> None:
    """Mark a bar as ended, and drop what it references."""
    # Why not the outer bar: bars inside this one may still need the level of that one.
    record.is_ended, record.level, record.loop = True, None, None
    record.origin, record.recorder = None, None


def parse_postfix(postfix: object) -> dict[str, object]:
    """Return the postfix of a bar, such as ``loss=0.1, acc=0.9``, as metadata.

    A text of another form has the key ``postfix``.
    """
    text = _clean_text(postfix)
    metadata: dict[str, object] = {}
    for part in text.split(", ") if text else ():
        key, separator, value = part.partition("=")
        key = key.strip()
        if not separator or not key or " " in key:
            return {"postfix": text}
        if len(metadata) < MAX_POSTFIX_KEYS:
            metadata[key] = _parse_value(value.strip())
    return metadata


def _parse_value(text: str) -> object:
    """Return the number that a text contains, else the text."""
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return text


def _clean_text(value: object) -> str:
    """Return a text without escape sequences and without the colon of a description."""
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else str(value)
    text = _WHITE_SPACE.sub(" ", _ESCAPE_SEQUENCE.sub("", text[:1000])).strip()
    return text[:-1].rstrip() if text.endswith(":") else text


def _to_number(value: object) -> Number | None:
    """Return a finite number of at least 0, or None for any other value."""
    number = None if value is None else parse_number(value, "count")
    return number if isinstance(number, (int, float)) else None


def _is_complete(level: Level, figures: BarFigures | None, *, is_early: bool) -> bool:
    """Return whether a bar has reached its total, or has none and was not left."""
    if figures is not None and figures.is_finished:
        return True
    current = _to_number(None if figures is None else figures.current)
    total = _to_number(None if figures is None else figures.total)
    if figures is None:
        snapshot = level.snapshot()
        current, total = snapshot.current, snapshot.total
    if total is None:
        return not is_early
    return current is not None and current >= total
