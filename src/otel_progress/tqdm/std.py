"""Recorded bar as text: the class that all bars of this package inherit from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar, Final

# isort: off
from otel_progress.integrations.tqdm import (  # first: it reports that tqdm is missing
    collect_arguments,
    collect_bar,
    end_bar,
    enter_bar,
    exit_bar,
    iterate_bar,
    record_bar,
    reset_bar,
)

from tqdm import std as _std  # type: ignore[import-untyped]
# isort: on

from otel_progress.instrument.backend import backend_slot

_Base: Final[Any] = _std.tqdm
"""The class of tqdm, also if the name in its module is replaced later."""


__all__ = ["tqdm", "trange"]


class tqdm(_Base):  # type: ignore[misc]  # noqa: N801 - the name of the original
    """Recorded progress bar with the arguments and methods of ``tqdm.tqdm``."""

    _draws_on_terminal: ClassVar[bool] = True
    _is_hidden = False
    """True if the live display of the console shows the bar instead of tqdm."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        if self._draws_on_terminal and not keywords.get("gui"):
            file = collect_arguments(("file",), arguments, keywords).get("file")
            if _has_live_display(file):
                keywords["gui"] = self._is_hidden = True
        super().__init__(*arguments, **keywords)
        record_bar(self, arguments, keywords)

    @classmethod
    def get_lock(cls) -> Any:
        """Return the lock of all bars of this class.

        Why its own attribute: callers may delete it, which an inherited one does not permit.
        """
        if "_lock" not in tqdm.__dict__:
            tqdm._lock = _Base.get_lock()
        return cls._lock

    def __iter__(self) -> Iterator[Any]:
        return iterate_bar(self, super().__iter__.__func__)

    def __enter__(self) -> Any:
        enter_bar(self)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        try:
            return super().__exit__(kind, error, traceback)
        finally:
            exit_bar(self, error)

    def __del__(self) -> None:
        collect_bar(self)
        super().__del__()

    def close(self) -> None:
        """Close the bar, and end its level."""
        error = sys.exc_info()[1]
        try:
            super().close()
        finally:
            end_bar(self, error)

    def reset(self, total: Any = None) -> None:
        """Start again from 0, optionally with another total."""
        super().reset(total)
        reset_bar(self)

    def display(self, *arguments: Any, **keywords: Any) -> Any:
        """Draw the bar, unless the live display of the console shows it."""
        return True if self._is_hidden else super().display(*arguments, **keywords)

    def clear(self, *arguments: Any, **keywords: Any) -> None:
        """Clear the bar on the terminal."""
        if not self._is_hidden:
            super().clear(*arguments, **keywords)


def trange(*arguments: Any, **keywords: Any) -> tqdm:
    """Return ``tqdm(range(*arguments), **keywords)``."""
    return tqdm(range(*arguments), **keywords)


def _has_live_display(file: Any) -> bool:
    """Return whether a bar would be drawn on the terminal of the live display."""
    backend = backend_slot.current
    if backend is None or not backend.has_live_display:
        return False
    target = sys.stderr if file is None else file
    try:
        return (target is sys.stderr or target is sys.stdout) and bool(target.isatty())
    except (AttributeError, ValueError):  # it is closed, or not a file
        return False
