"""Level that counts the bytes of one transfer.

The integrations of files, downloads and uploads share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import ProgressError, RejectedValueError
from otel_progress.instrument.late_levels import add_units, write_figures
from otel_progress.instrument.level import Level
from otel_progress.instrument.tracer import current_level, level
from otel_progress.interrupts import is_interrupt

STOPPED_EARLY: Final = "stopped before the end"
"""Message of a transfer that was closed before its last byte."""


T = TypeVar("T")


def wrap_safely(wrap: Callable[[], object], original: T) -> T:
    """Return the result of ``wrap``, or the original object after an internal error.

    Raises only for invalid arguments in strict mode, and exceptions that interrupt it.
    """
    try:
        return cast(T, wrap())
    except ProgressError:
        raise
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("integration", "A transfer is not counted. The work continues.", error=error)
        return original


class Transfer:
    """Level that counts the bytes of one transfer.

    Any thread may use it. The methods never raise, also in strict mode, except for exceptions that
    interrupt them. After the end they do nothing. A size that exceeds the total makes the total
    unknown, because the sender may announce a wrong one.
    """

    __slots__ = ("_total", "done", "level")

    def __init__(
        self,
        type: str,
        name: str | None,
        *,
        total: Any = None,
        unit: str | None = "B",
        weight: Any = None,
        parent: Level | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        start = level if parent is None else parent.level
        self.level: Level = start(
            type, name=name, total=total, unit=unit, weight=weight, **(metadata or {})
        ).start()
        """Handle of the level, which is running if anything is configured."""
        self.done = 0
        """Number of transferred bytes. Approximate while threads share the transfer."""
        self._total: int | None = total if _is_size(total) else None

    @property
    def is_running(self) -> bool:
        """True if the level is recorded and has not ended."""
        return self.level.recording

    @property
    def is_incomplete(self) -> bool:
        """True if the total is known and was not reached."""
        return self._total is not None and self.done < self._total

    @property
    def has_reached_total(self) -> bool:
        """True if the total is known and was reached."""
        return self._total is not None and self.done >= self._total

    @property
    def total(self) -> int | None:
        """Number of bytes in all. None if it is unknown."""
        return self._total

    def add(self, size: int) -> None:
        """Count ``size`` more bytes, at least 0."""
        try:
            level = self.level
            if level.recording:
                self.done = done = self.done + size
                if self._total is not None and done > self._total:
                    self._clear_total()
                add_units(level, size)
        except Exception as error:
            self._report_error(error)

    def set_done(self, done: Any) -> None:
        """Set the number of transferred bytes. An invalid number is ignored."""
        try:
            if not self.level.recording or not _is_size(done):
                return
            self.done = done
            if self._total is not None and done > self._total:
                self._clear_total()
            write_figures(self.level, done, self._total)
        except Exception as error:
            self._report_error(error)

    def set_total(self, total: Any) -> None:
        """Set the number of bytes in all.

        An invalid number, or one that is exceeded, makes it unknown.
        """
        try:
            number = int(total) if isinstance(total, float) and total >= 1.0 else total
            known = number if _is_size(number) and number >= self.done else None
            if known != self._total and self.level.recording:
                self._total = known
                write_figures(self.level, None, known)
        except Exception as error:
            self._report_error(error)

    def resume_from(self, done: int) -> None:
        """Set the number of bytes that an earlier transfer received."""
        try:
            if self.level.recording:
                self.done = done
                self.level.resume_from(done)
        except Exception as error:
            self._report_error(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the level as completed, or by the kind of the exception."""
        try:
            if self.level.recording:
                self.level.__exit__(None if error is None else type(error), error, None)
        except Exception as failure:
            self._report_error(failure)

    def fail(self, reason: str) -> None:
        """End the level as failed."""
        try:
            if self.level.recording:
                self.level.fail(reason)
        except Exception as error:
            self._report_error(error)

    def cancel(self, reason: str = STOPPED_EARLY) -> None:
        """End the level as cancelled."""
        try:
            if self.level.recording:
                self.level.cancel(reason)
        except Exception as error:
            self._report_error(error)

    def _clear_total(self) -> None:
        self._total = None
        write_figures(self.level, None, None)

    def _report_error(self, error: Exception) -> None:
        if is_interrupt(error):
            raise error
        if isinstance(error, RejectedValueError) and not self.level.recording:
            return  # another thread ended the level during the change
        report_internal_error("integration", "Counting a transfer failed. The work continues.", error=error)


def find_parent() -> Level | None:
    """Return the current level, for levels that other threads start. None without one."""
    parent = current_level()
    return parent if parent.recording else None


def get_path_name(path: object) -> str | None:
    """Return the last part of a path. None if it is empty, or not a path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return None
    text = os.fsdecode(path)
    return os.path.basename(text.rstrip("/\\")) or None  # noqa: PTH119 - any text


def get_url_name(url: object) -> str | None:
    """Return the file name of a URL, or its host.

    The query is left out, because it may contain a secret.
    """
    try:
        parts = urlsplit(str(url))
        return unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.hostname
    except ValueError:
        return None


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
