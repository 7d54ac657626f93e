"""Makes and keeps the previews of this process: from what a level offers to content in a store and a record of it, within bounds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal, TypeAlias

from otel_progress.diagnostics import log_warning
from otel_progress.errors import MissingExtraError, PreviewError
from otel_progress.previews.arrays import is_array, is_array_possible, memory
from otel_progress.previews.capture import CapturedValue, capture_value
from otel_progress.previews.images import need_pillow
from otel_progress.previews.media import RenderedPreview, address_of
from otel_progress.previews.render import render_preview
from otel_progress.previews.retention import Bounds, PreviewRetention
from otel_progress.previews.schedule import At
from otel_progress.previews.stores.base import Store
from otel_progress.previews.worker import Worker
from otel_progress.records import Preview
from otel_progress.settings.defaults import DEFAULT_PREVIEW_EDGE_PIXELS, DEFAULT_PREVIEW_RATIOS
from otel_progress.text import escape_controls, truncate

Outcome: TypeAlias = Literal["stored", "unchanged", "dropped", "refused", "failed"]
"""What becomes of a preview: nothing is stored of one that is unchanged; busy ones are dropped, unusable ones refused."""


MAX_BOOKS: Final = 1_000
"""Runs whose previews are remembered to be thinned out."""


MAX_NAMES: Final = 100
"""Names of previews a level may have."""


TOUCH_EVERY_S: Final = 3_600.0
"""Time between two marks on the content of runs that go on, in seconds."""


_MAX_TOLD: Final = 20


class LevelPreviewState:
    """What one level has had. ``busy`` is held while a preview is being made; ``taken`` is by name what the last one was taken for."""

    __slots__ = ("busy", "taken")

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.taken: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class PreviewContext:
    """Where and when a preview was offered. ``last`` is the number of the run's last preview."""

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
    """How previews are made, when (``at``), and how many are kept. ``edge`` is the longer side in pixels."""

    at: At = DEFAULT_PREVIEW_RATIOS
    edge: int = DEFAULT_PREVIEW_EDGE_PIXELS
    media_type: str = "image/png"
    bounds: Bounds = field(default_factory=Bounds)


class PreviewService:
    """The previews of one process. No method raises, and only :meth:`flush` and :meth:`close` wait.

    ``count(outcome)`` hears what became of each; ``base()`` returns the address under which people reach the server, if anybody knows.
    """

    def __init__(
        self,
        store: Store,
        style: PreviewSettings | None = None,
        *,
        count: Callable[[Outcome], None] = lambda outcome: None,
        base: Callable[[], str | None] = lambda: None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.style = style or PreviewSettings()
        self._count = count
        self._base = base
        self._now = now
        self._clock = clock
        self._told: set[str] = set()
        self._worker = Worker()
        self.restart()

    def restart(self) -> None:
        """Start over without a thread: what a forked child does."""
        self._worker.restart()
        self._turns: dict[Hashable, LevelPreviewState] = {}
        self._books: OrderedDict[str, PreviewRetention] = OrderedDict()
        self._touch_at: float | None = None
        self._memory: list[bytearray] = []
        self._warm = False

    # --- the caller's thread -----------------------------------------------------------------------------------

    def turn(self, level: Hashable) -> LevelPreviewState:
        """Return what a level has had; it has to be forgotten at the level's end."""
        turn = self._turns.get(level)
        if turn is not None:
            return turn
        if (
            not self._warm
        ):  # at the first offer, which is hardly ever due: the first one that is need not wait for anything
            self._warm = True
            self._worker.submit_background(self._warm_up)
        return self._turns.setdefault(level, LevelPreviewState())

    def forget(self, level: Hashable) -> None:
        """Forget a level that has ended."""
        self._turns.pop(level, None)

    def offer(
        self,
        turn: LevelPreviewState,
        mark: float,
        place: PreviewContext,
        value: object,
        deliver: Callable[[Preview, Sequence[Preview]], None],
    ) -> None:
        """Take a preview that is due, to be made later; ``deliver`` is called with it and with those that make room for it."""
        if not turn.busy.acquire(blocking=False):
            self._count("dropped")
            return
        begun, into = False, None
        try:
            if len(turn.taken) >= MAX_NAMES and place.name not in turn.taken:
                msg = f"a level has previews of at most {MAX_NAMES} names"
                raise PreviewError(msg)
            into = self._memory.pop() if self._memory and is_array(value) else None
            taken = capture_value(value, self.style.edge, into=into)
            begun = self._worker.offer(partial(self._do, turn, place, taken, deliver, into))
            if begun:
                turn.taken[place.name] = mark
            else:
                self._count("dropped")
        except PreviewError as error:
            turn.taken[place.name] = mark  # the next one is offered when it is due, not at once
            self._tell("refused", error)
        except Exception as error:
            turn.taken[place.name] = mark
            self._tell("failed", error)
        finally:
            if not begun:
                self._release(turn, into)

    def refuse(self, error: Exception) -> None:
        """Count a preview that could not be taken, and say why."""
        self._tell("refused" if isinstance(error, (PreviewError, ValueError)) else "failed", error)

    def operation_ended(self, run: str) -> None:
        """Take the end of an operation: its previews are kept from now on as long as it is."""
        if run in self._books:
            self._worker.submit_background(lambda: self.store.touch([run]))

    def run_due_work(self, active: Callable[[], Sequence[str]]) -> None:
        """Once in a while, mark the content of the runs that go on; costs nothing otherwise. Called at every tick."""
        if self._touch_at is None or self._clock() < self._touch_at:
            return
        self._touch_at = self._clock() + self._touch_every()
        runs = [run for run in active() if run in self._books]
        if runs:
            self._worker.submit_background(lambda: self.store.touch(runs))

    def discard(self, locations: Sequence[str]) -> None:
        """Delete content that no record tells of any more, soon."""
        if locations:
            self._worker.submit_background(lambda: self._delete(locations))

    def address(self, operation_id: str, number: int) -> str:
        """Return where a preview can be looked at; empty while that is not known."""
        return address_of(self._base(), operation_id, number)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was offered is stored; False when it is not within ``timeout`` seconds."""
        return self._worker.flush(timeout)

    def close(self, timeout: float) -> bool:
        """Take nothing more, and wait for what was offered."""
        return self._worker.close(timeout)

    # --- the worker's thread -----------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Do what takes long and is needed once."""
        if is_array_possible():
            self._memory.append(memory())
        with suppress(MissingExtraError):
            need_pillow()

    def _release(self, turn: LevelPreviewState, into: bytearray | None) -> None:
        if into is not None:
            self._memory.append(into)
        turn.busy.release()

    def _do(
        self,
        turn: LevelPreviewState,
        place: PreviewContext,
        taken: CapturedValue,
        deliver: Callable[[Preview, Sequence[Preview]], None],
        into: bytearray | None,
    ) -> None:
        try:
            if self._touch_at is None:
                self._touch_at = self._clock() + self._touch_every()
                self._worker.submit_background(self._sweep)
            made = render_preview(taken, self.style.media_type, self.style.edge)
            self._count(self._keep(place, made, deliver))
        except (PreviewError, MissingExtraError) as error:
            self._tell("refused", error)
        except Exception as error:
            self._tell("failed", error)
        finally:
            self._release(turn, into)

    def _keep(
        self,
        place: PreviewContext,
        made: RenderedPreview,
        deliver: Callable[[Preview, Sequence[Preview]], None],
    ) -> Outcome:
        book, digest = self._book(place.run), made.digest
        if book.is_unchanged(place.path, place.name, digest):
            return "unchanged"
        location = book.location_of(digest, made.media_type)
        if location is None:
            location = self.store.write(place.run, digest, made.media_type, made.content)
        preview = Preview(
            place.operation_id,
            place.operation_type,
            place.run,
            place.path,
            max(book.number, place.last) + 1,
            place.at,
            place.name,
            made.media_type,
            len(made.content),
            digest,
            location,
            made.width,
            made.height,
            place.ratio,
        )
        gone = book.add(preview, self.style.bounds)
        deliver(preview, [gone_one(one) for one in gone])
        self._delete(book.unused(gone))
        return "stored"

    def _book(self, run: str) -> PreviewRetention:
        book = self._books.get(run)
        if book is None:
            book = self._books[run] = PreviewRetention()
            if len(self._books) > MAX_BOOKS:
                self._books.popitem(last=False)
        self._books.move_to_end(run)
        return book

    def _delete(self, locations: Sequence[str]) -> None:
        try:
            self.store.delete(locations)
        except Exception as error:
            self._say("previews that are no longer kept could not be deleted", error)

    def _sweep(self) -> None:
        try:
            self.store.sweep(self._now() - self.style.bounds.age)
        except OSError as error:
            self._say("old previews could not be deleted", error)

    def _touch_every(self) -> float:
        return min(TOUCH_EVERY_S, self.style.bounds.age / 4)

    def _tell(self, outcome: Outcome, error: Exception) -> None:
        self._count(outcome)
        self._say(f"a preview was {outcome}" if outcome == "refused" else "a preview failed", error)

    def _say(self, what: str, error: Exception) -> None:
        """Log a failure of each kind once: a reason we know in words, anything else with its traceback."""
        known = isinstance(error, (PreviewError, MissingExtraError))
        why = escape_controls(
            truncate(error if known else f"{type(error).__name__}: {truncate(error, 200)}", 400)
        )
        key = why if known else type(error).__name__
        if key not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(key)
            log_warning(
                "%s: %s (further ones of the kind are only counted)",
                what,
                why,
                error=None if known else error,
            )


def gone_one(preview: Preview) -> Preview:
    """Return the record of a preview that is no longer kept: the same one without a location."""
    return replace(preview, location="", size_bytes=0)
