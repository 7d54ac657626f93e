"""Slot of the active recording backend.

The slot is empty until ``configure()`` is called, so instrumented libraries add no overhead. With
``opentelemetry-instrument`` the first use of a helper fills it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry.context import Context, create_key

from otel_progress.errors import RejectedTypeError, RejectedValueError
from otel_progress.instrument.rejections import CallSiteWarnings, capture_call_site, format_call_site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Tracer

    from otel_progress.instrument.rejections import Rejection
    from otel_progress.live.node import CallSite, Node
    from otel_progress.live.store import LiveStore
    from otel_progress.previews.service import PreviewService
    from otel_progress.propagation.environment import RemoteParent
    from otel_progress.semconv import RejectionReason


class RunResumer(Protocol):
    """Continues runs of earlier sessions, and waits for the journal."""

    def resume(self, node: Node) -> str | None:
        """Continue the newest run of an operation as the pending ``node``.

        Return another id if the operation has to start under it, because the journal cannot be
        read. Raises OperationRunningError if a live process runs the operation, and
        UnavailableError in strict mode if the journal cannot be read.
        """

    def commit(self, timeout_s: float) -> bool:
        """Wait until all changes so far are in the journal. Return False if they are not."""


LINK_KEY: Final = create_key("otel-progress-link")
"""Context key of the level of another process that operations of the context are part of."""


LEVEL_KEY: Final = create_key("otel-progress-level")
"""Context key of the current level."""


BATCH_KEY: Final = create_key("otel-progress-batch")
"""Context key of the id of the current batch. Operations started in the context belong to it."""


class SpanStartContext(Context):
    """Context with which the span of a level starts.

    The span processor ignores such spans. Why the type of the context: a flag of the thread would
    stay set if a signal handler raised before it is reset.
    """


@dataclass(slots=True)
class RecordingBackend:
    """Parts of a running configuration that the helpers use.

    ``tracer`` is called for each span, because the provider may change. With ``strict`` invalid
    values raise.
    """

    store: LiveStore
    tracer: Callable[[str], Tracer]
    strict: bool = False
    count_rejection: Callable[[RejectionReason], None] = lambda reason: None
    warnings: CallSiteWarnings = field(default_factory=CallSiteWarnings)
    previewer: PreviewService | None = None
    resumer: RunResumer | None = None
    """Continues runs of earlier sessions, and waits for the journal."""
    remote_parent: RemoteParent | None = None
    """Level of the process that started this one. None without one."""
    child_settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that pass the store and the export to a child process."""
    handle_settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that pass all settings to a process that loads a pickled handle."""
    store_name: str = ""
    """Name of the journal without credentials, empty without one."""
    configure: Callable[[Mapping[str, str]], object] | None = None
    """Starts the recording in a process that loads a pickled handle. It can be pickled."""
    on_shared: Callable[[], object] = lambda: None
    """Called when other processes may work on an operation of this process."""
    deliver_shares: Callable[[], object] = lambda: None
    """Called at the end of a call that worked on an operation of another process."""
    has_live_display: bool = False
    """True if the console of this process draws a live display on the terminal of stderr."""
    has_warned_unshared: bool = False
    """True after the warning about a store that is not shared."""

    def reject(self, rejection: Rejection) -> None:
        """Reject an invalid value.

        Raises RejectedValueError or RejectedTypeError in strict mode.
        """
        self.reject_value(rejection.reason, rejection.text, is_wrong_type=rejection.is_wrong_type)

    def reject_value(self, reason: RejectionReason, text: str, *, is_wrong_type: bool = False) -> None:
        """Reject an invalid value.

        Raises RejectedValueError or RejectedTypeError in strict mode.
        """
        if self.strict:
            self.count_rejection(reason)
            if reason == "beyond_total":
                # Why: the count may be far from the total, and `track` counts within this package.
                call_site = capture_call_site()
                text += "" if call_site is None else f" The caller is {format_call_site(call_site)}."
            raise RejectedTypeError(text) if is_wrong_type else RejectedValueError(text)
        self.report_rejection(reason, text)

    def report_rejection(self, reason: RejectionReason, text: str) -> None:
        """Count and log an invalid value of the caller.

        It never raises, also in strict mode.
        """
        self.report_late_rejection(reason, text, capture_call_site())

    def report_late_rejection(self, reason: RejectionReason, text: str, call_site: CallSite | None) -> None:
        """Count and log a value that was found to be invalid after the call returned.

        It never raises. ``call_site`` is that of the level. None if no call caused it.
        """
        self.count_rejection(reason)
        self.warnings.warn_once(reason, text, call_site)


class _BackendSlot:
    """Holds the active backend. None until ``configure()`` is called.

    After :meth:`defer` the first read of ``current`` starts the recording.
    """

    # Why a slot without a value: a read of ``current`` costs nothing more while it has one.
    __slots__ = ("_start", "current")

    def __init__(self) -> None:
        self.current: RecordingBackend | None = None
        self._start: Callable[[], RecordingBackend | None] | None = None

    def __getattr__(self, name: str) -> RecordingBackend | None:
        if name != "current" or self._start is None:
            raise AttributeError(name)
        return self._start()

    def defer(self, start: Callable[[], RecordingBackend | None]) -> None:
        """Call ``start`` at the first read of ``current``, which gets its result.

        It is called again at each read until ``current`` is set. It must not raise.
        """
        self._start = start
        del self.current

    @property
    def is_deferred(self) -> bool:
        """True until the first use, after :meth:`defer`."""
        try:
            object.__getattribute__(self, "current")
        except AttributeError:
            return True
        return False

    def peek(self) -> RecordingBackend | None:
        """Return the active backend without starting the recording."""
        return None if self.is_deferred else self.current

    def cancel_deferral(self) -> None:
        """Make the slot empty if it is deferred."""
        if self.is_deferred:
            self.current = None


backend_slot: Final = _BackendSlot()
"""Slot of this process."""
