"""Preview service: captures, renders, stores and retains previews of a process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from otel_progress.diagnostics import log_warning
from otel_progress.errors import MissingExtraError, PreviewError
from otel_progress.previews.arrays import allocate_buffer, is_array, is_numpy_loaded
from otel_progress.previews.capture import CapturedValue, capture_value
from otel_progress.previews.images import load_pillow
from otel_progress.previews.media import RenderedPreview, build_preview_url
from otel_progress.previews.render import render_preview
from otel_progress.previews.retention import Bounds, PreviewRetention
from otel_progress.previews.schedule import At
from otel_progress.previews.stores.base import Store
from otel_progress.previews.worker import Worker
from otel_progress.records import Preview
from otel_progress.semconv import PreviewOutcome
from otel_progress.settings.defaults import DEFAULT_PREVIEW_EDGE_PIXELS, DEFAULT_PREVIEW_RATIOS
from otel_progress.text import escape_controls, truncate

MAX_RUNS: Final = 1_000
"""Maximum number of runs whose previews are thinned out. Older runs keep what they have."""


MAX_NAMES: Final = 100
"""Maximum number of preview names per level."""


TOUCH_EVERY_S: Final = 3_600.0
"""Time between two marks on the content of active runs, in seconds."""


_MAX_LOGGED: Final = 20
"""Maximum number of kinds of failures that are logged."""


class LevelPreviewState:
    """Preview state of one level.

    ``busy`` is held while a preview is being rendered. ``marks`` are those of the last previews by
    name.
    """

    __slots__ = ("busy", "marks")

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.marks: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class PreviewContext:
    """Origin of a preview. ``last`` is the number of the run's previous preview."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    name: str
    at: float
    ratio: float | None
    last: int


@dataclass(frozen=True, slots=True)
class PreviewSettings:
    """Schedule (``at``), size, format and retention.

    ``edge`` is the longer side in pixels.
    """

    at: At = DEFAULT_PREVIEW_RATIOS
    edge: int = DEFAULT_PREVIEW_EDGE_PIXELS
    media_type: str = "image/png"
    bounds: Bounds = field(default_factory=Bounds)


class PreviewService:
    """The previews of one process.

    No method raises. Only :meth:`flush` and :meth:`close` wait.

    ``count(outcome)`` is called for each preview. ``base()`` returns the base URL of the server,
    or None. ``notice`` is a warning that is logged once, at the first stored preview.
    """

    def __init__(
        self,
        store: Store,
        settings: PreviewSettings | None = None,
        *,
        count: Callable[[PreviewOutcome], None] = lambda outcome: None,
        base: Callable[[], str | None] = lambda: None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        notice: str | None = None,
    ) -> None:
        self.store = store
        self._notice = notice
        self.settings = settings or PreviewSettings()
        self._count = count
        self._base = base
        self._now = now
        self._clock = clock
        self._logged: set[str] = set()
        self._worker = Worker()
        self.restart()

    def restart(self) -> None:
        """Drop the thread and all state, in a forked child."""
        self._worker.restart()
        self._levels: dict[Hashable, LevelPreviewState] = {}
        self._retentions: OrderedDict[str, PreviewRetention] = OrderedDict()
        self._touch_at: float | None = None
        self._buffers: list[bytearray] = []
        self._warm = False

    # --- the caller's thread ---

    def get_level_state(self, level: Hashable) -> LevelPreviewState:
        """Return the state of a level. Call :meth:`drop_level` at the level's end."""
        state = self._levels.get(level)
        if state is not None:
            return state
        # Why at the first offer: it is hardly ever due, so the first due one need not wait.
        if not self._warm:
            self._warm = True
            self._worker.submit_background(self._warm_up)
        return self._levels.setdefault(level, LevelPreviewState())

    def drop_level(self, level: Hashable) -> None:
        """Drop the state of a level that has ended."""
        self._levels.pop(level, None)

    def offer(
        self,
        state: LevelPreviewState,
        mark: float,
        context: PreviewContext,
        value: object,
        deliver: Callable[[Preview, Sequence[Preview]], None],
    ) -> None:
        """Capture a preview that is due. It is rendered later.

        ``deliver`` is called with the preview and with those that are removed for it.
        """
        if not state.busy.acquire(blocking=False):
            self._count("dropped")
            return
        queued, into = False, None
        # Why: a signal handler may raise after the preview was queued. Only the thread that removes
        # the element releases the level and the buffer.
        unowned = [True]
        try:
            if len(state.marks) >= MAX_NAMES and context.name not in state.marks:
                msg = f"invalid preview name: expected at most {MAX_NAMES} names per level"
                raise PreviewError(msg)
            into = self._buffers.pop() if self._buffers and is_array(value) else None
            captured = capture_value(value, self.settings.edge, into=into)
            queued = self._worker.offer(
                partial(self._process, state, context, captured, deliver, into, unowned)
            )
            if queued:
                state.marks[context.name] = mark
            else:
                self._count("dropped")
        except PreviewError as error:
            state.marks[context.name] = mark  # retry when the next one is due, not at once
            self._report("refused", error)
        except Exception as error:
            state.marks[context.name] = mark
            self._report("failed", error)
        finally:
            if not queued and _take_ownership(unowned):
                self._release(state, into)

    def count_refused(self, error: Exception) -> None:
        """Count and log a preview that could not be captured."""
        self._report("refused" if isinstance(error, (PreviewError, ValueError)) else "failed", error)

    def operation_ended(self, run: str) -> None:
        """Mark the content of a run that has ended. Its retention period starts now."""
        if run in self._retentions:
            self._worker.submit_background(lambda: self.store.touch([run]))

    def run_due_work(self, active: Callable[[], Sequence[str]]) -> None:
        """Mark the content of active runs from time to time. Called at every tick."""
        if self._touch_at is None or self._clock() < self._touch_at:
            return
        self._touch_at = self._clock() + self._touch_interval()
        runs = [run for run in active() if run in self._retentions]
        if runs:
            self._worker.submit_background(lambda: self.store.touch(runs))

    def discard(self, locations: Sequence[str]) -> None:
        """Delete content without a record, in the background."""
        if locations:
            self._worker.submit_background(lambda: self._delete(locations))

    def address(self, operation_id: str, number: int) -> str:
        """Return the URL of a preview, or an empty string while it is unknown."""
        return build_preview_url(self._base(), operation_id, number)

    def flush(self, timeout: float) -> bool:
        """Wait until all previews are stored. Return False after ``timeout`` seconds."""
        return self._worker.flush(timeout)

    def close(self, timeout: float) -> bool:
        """Accept no further previews, and wait like :meth:`flush`."""
        return self._worker.close(timeout)

    # --- the worker's thread ---

    def _warm_up(self) -> None:
        """Allocate a buffer and import PIL, which takes long."""
        if is_numpy_loaded():
            self._buffers.append(allocate_buffer())
        with suppress(MissingExtraError):
            load_pillow()

    def _release(self, state: LevelPreviewState, into: bytearray | None) -> None:
        if into is not None:
            self._buffers.append(into)
        state.busy.release()

    def _process(
        self,
        state: LevelPreviewState,
        context: PreviewContext,
        captured: CapturedValue,
        deliver: Callable[[Preview, Sequence[Preview]], None],
        into: bytearray | None,
        unowned: list[bool],
    ) -> None:
        if not _take_ownership(unowned):
            return
        try:
            if self._touch_at is None:
                self._touch_at = self._clock() + self._touch_interval()
                self._worker.submit_background(self._sweep)
            rendered = render_preview(captured, self.settings.media_type, self.settings.edge)
            self._count(self._store(context, rendered, deliver))
        except (PreviewError, MissingExtraError) as error:
            self._report("refused", error)
        except Exception as error:
            self._report("failed", error)
        finally:
            self._release(state, into)

    def _store(
        self,
        context: PreviewContext,
        rendered: RenderedPreview,
        deliver: Callable[[Preview, Sequence[Preview]], None],
    ) -> PreviewOutcome:
        retention, digest = self._get_retention(context.run), rendered.digest
        if retention.is_unchanged(context.path, context.name, digest):
            return "unchanged"
        location = retention.location_of(digest, rendered.media_type)
        if location is None:
            location = self.store.write(context.run, digest, rendered.media_type, rendered.content)
        preview = Preview(
            context.operation_id,
            context.operation_type,
            context.run,
            context.path,
            max(retention.number, context.last) + 1,
            context.at,
            context.name,
            rendered.media_type,
            len(rendered.content),
            digest,
            location,
            rendered.width,
            rendered.height,
            context.ratio,
        )
        removed = retention.add(preview, self.settings.bounds)
        notice, self._notice = self._notice, None
        if notice is not None:
            log_warning("%s", notice)
        deliver(preview, [without_content(old) for old in removed])
        self._delete(retention.unused_locations(removed))
        return "stored"

    def _get_retention(self, run: str) -> PreviewRetention:
        retention = self._retentions.get(run)
        if retention is None:
            retention = self._retentions[run] = PreviewRetention()
            if len(self._retentions) > MAX_RUNS:
                self._retentions.popitem(last=False)
        self._retentions.move_to_end(run)
        return retention

    def _delete(self, locations: Sequence[str]) -> None:
        try:
            self.store.delete(locations)
        except Exception as error:
            self._log("previews that are no longer stored could not be deleted", error)

    def _sweep(self) -> None:
        try:
            self.store.sweep(self._now() - self.settings.bounds.age)
        except OSError as error:
            self._log("old previews could not be deleted", error)

    def _touch_interval(self) -> float:
        return min(TOUCH_EVERY_S, self.settings.bounds.age / 4)

    def _report(self, outcome: PreviewOutcome, error: Exception) -> None:
        self._count(outcome)
        self._log(f"a preview was {outcome}" if outcome == "refused" else "a preview failed", error)

    def _log(self, event: str, error: Exception) -> None:
        """Log each kind of failure once. Unknown errors are logged with their traceback."""
        known = isinstance(error, (PreviewError, MissingExtraError))
        text = error if known else f"{type(error).__name__}: {truncate(error, 200)}"
        reason = escape_controls(truncate(text, 400))
        key = reason if known else type(error).__name__
        if key not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(key)
            log_warning(
                "%s: %s (further ones of the kind are only counted)",
                event,
                reason,
                error=None if known else error,
            )


def without_content(preview: Preview) -> Preview:
    """Return the record of a preview whose content was deleted: without a location."""
    return replace(preview, location="", size_bytes=0)


def _take_ownership(unowned: list[bool]) -> bool:
    """Remove the element of a list. Return False if another thread has removed it."""
    try:
        return unowned.pop()
    except IndexError:
        return False
