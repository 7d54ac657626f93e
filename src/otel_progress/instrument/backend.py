"""The slot that joins the helpers to what ``configure`` put together; empty until then, so libraries cost nothing.

Also the place where bad values end up: counted, warned about once a call site, raised only when strict.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from os.path import dirname, sep
from typing import TYPE_CHECKING, Final

from opentelemetry.context import create_key

from otel_progress.diagnostics import log_warning
from otel_progress.errors import RejectedTypeError, RejectedValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from otel_progress.live.store import LiveStore
    from otel_progress.previews.service import PreviewService


LEVEL_KEY: Final = create_key("otel-progress-level")
"""Context key of the current level."""


BATCH_KEY: Final = create_key("otel-progress-batch")
"""Context key of the id of the batch that operations begun there belong to."""


span_start_guard: Final = threading.local()
"""``own.starting`` is true in a thread while it starts the span of a level, so the processor knows it for one of ours."""


_PACKAGE_PATH: Final = dirname(dirname(__file__)) + sep  # noqa: PTH120 - pathlib would be a third of the time this package takes to import


_MAX_SITES: Final = 1_000


@dataclass(slots=True)
class CallSiteWarnings:
    """Which call sites have been warned about bad values; bounded."""

    _sites: set[tuple[str, int, str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def warn_once(self, reason: str, text: str) -> None:
        """Log a bad value once a call site (the first frame outside this package)."""
        site = _call_site()
        with self._lock:
            known = (*site, reason) in self._sites or len(self._sites) >= _MAX_SITES
            self._sites.add((*site, reason)) if not known else None
        if not known:
            log_warning("%s (%s:%d; further ones from there are only counted)", text, *site)


def _call_site() -> tuple[str, int]:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_PATH):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


@dataclass(slots=True)
class RecordingBackend:
    """What helpers need of a running configuration: the live store, the tracer (asked for each time), how to treat bad values."""

    store: LiveStore
    tracer: Callable[[str], Tracer]
    strict: bool = False
    count_rejection: Callable[[str], None] = lambda reason: None
    warnings: CallSiteWarnings = field(default_factory=CallSiteWarnings)
    previewer: PreviewService | None = None

    def reject_value(self, reason: str, text: str, *, of_type: bool = False) -> None:
        """Refuse a bad value. Raises RejectedValueError or RejectedTypeError when strict."""
        if self.strict:
            self.count_rejection(reason)
            raise RejectedTypeError(text) if of_type else RejectedValueError(text)
        self.report_rejection(reason, text)

    def report_rejection(self, reason: str, text: str) -> None:
        """Refuse a bad value that was found when nobody can be told by an exception any more."""
        self.count_rejection(reason)
        self.warnings.warn_once(reason, text)


class _BackendSlot:
    """Holds the active recording, None until configured."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current: RecordingBackend | None = None


backend_slot: Final = _BackendSlot()
"""The one slot of the process."""
