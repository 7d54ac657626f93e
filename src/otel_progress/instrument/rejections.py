"""Invalid values: the rejection, warnings per call site, and strict counting.

An invalid value never raises by default. It is counted, logged once per call site, and ignored.
In strict mode it raises.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from os.path import dirname, sep
from types import FrameType
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_progress.diagnostics import log_warning
from otel_progress.interrupts import is_interrupt

if TYPE_CHECKING:
    from otel_progress.live.node import CallSite, Node
    from otel_progress.model import Number
    from otel_progress.semconv import RejectionReason


# Why os.path: importing pathlib takes a third of the import time of this package.
_PACKAGE_PATH: Final = dirname(dirname(__file__)) + sep  # noqa: PTH120


MAX_CALL_SITES: Final = 1_000
"""Call sites whose invalid values are logged. Values of further call sites are only counted."""


class Rejection(NamedTuple):
    """A rejected value: label of the counter, message, and whether the type was wrong."""

    reason: RejectionReason
    text: str
    is_wrong_type: bool = False


def reject_excess(node: Node, current: Number) -> Rejection:
    """Return the rejection of a ``current`` that exceeds the node's total."""
    text = f"Invalid current {current}: expected at most the total {node.total}."
    return Rejection("beyond_total", f"{text} Raise the total with set_total().")


@dataclass(slots=True)
class CallSiteWarnings:
    """Warnings about rejected values, logged once per call site and reason.

    Thread-safe.
    """

    max_call_sites: int = MAX_CALL_SITES
    _logged: dict[tuple[str, str], object] = field(default_factory=dict)

    def warn_once(self, reason: str, text: str, call_site: CallSite | None) -> None:
        """Log a rejected value unless its call site and reason were logged before."""
        place = "" if call_site is None else format_call_site(call_site)
        key = (place, reason)
        mark = object()
        # Why without a lock: the insertion is one call of a C function, so one caller is first.
        if (
            key in self._logged
            or len(self._logged) >= self.max_call_sites
            or self._logged.setdefault(key, mark) is not mark
        ):
            return
        if place:
            log_warning("%s (%s; further invalid values there are only counted)", text, place)
        else:
            log_warning("%s (further ones are only counted)", text)


def get_frame(depth: int) -> FrameType | None:
    """Return the frame of a caller.

    ``depth`` is 0 for the function that calls this, and 1 for its caller. None if an audit hook of
    the program forbids it.
    """
    try:
        return sys._getframe(depth + 1)
    except Exception as error:  # An audit hook of the program may raise any exception.
        if is_interrupt(error):
            raise
        return None


def find_outer_frame() -> FrameType | None:
    """Return the first frame outside this package, or the outermost frame.

    None if an audit hook of the program forbids it.
    """
    frame = get_frame(1)
    if frame is None:
        return None
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_PATH):
        frame = frame.f_back
    return frame


def capture_call_site() -> CallSite | None:
    """Return the call site: the first frame outside this package.

    None if an audit hook of the program forbids it.

    It takes a fraction of a microsecond, because the line is not computed.
    """
    frame = find_outer_frame()
    return None if frame is None else (frame.f_code, frame.f_lasti)


def format_call_site(call_site: CallSite) -> str:
    """Return a call site as ``file:line``."""
    code, instruction = call_site
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return f"{code.co_filename}:{line}"
    return f"{code.co_filename}:{code.co_firstlineno}"


class StrictCounter:
    """Counter that rejects a unit above the total.

    The default counts it and clamps the value later.
    """

    __slots__ = ("_node", "_reject")

    def __init__(self, node: Node, reject: Callable[[Rejection], None]) -> None:
        self._node = node
        self._reject = reject

    def count_one(self) -> None:
        """Count one unit. Raises RejectedValueError if the total would be exceeded."""
        node = self._node
        next_value = node.ensure_counter().value() + 1
        if node.total is not None and next_value > node.total:
            self._reject(reject_excess(node, next_value))
        node.ensure_counter().count_one()
