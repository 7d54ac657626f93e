"""Registry of running ``track`` loops, for loops in the body of another one.

An iterator never changes the context of its caller. So a loop is not the current level of its body.
Instead, a loop is registered for the frame that requested its iterator. Another loop searches the
frames of its callers when it starts. An element costs nothing.

The registry keeps no frame and no loop alive. It stores identities of frames, which are reused. A
``for`` statement references its loop only while its own frame exists. For the iterators of other
code, the code object and the position in it are compared in addition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import count
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast
from weakref import ref

from otel_progress.diagnostics import report_internal_error
from otel_progress.instrument.context import get_current_level
from otel_progress.instrument.iteration import FOR, LoopGuard
from otel_progress.interrupts import is_interrupt

if TYPE_CHECKING:
    from otel_progress.instrument.handle import LevelHandle


MAX_FRAMES: Final = 1_000
"""Number of frames that are searched. A loop further above is not found. It is the default limit of
recursion.
"""


MAX_LOOPS_PER_FRAME: Final = 32
"""Number of loops of one frame in the registry. Beyond it the oldest are dropped."""


_MIN_SWEEP: Final = 64
"""Number of frames in the registry below which ended loops are not searched for."""


next_number: Final = count(1).__next__
"""Return the next number in the order of tracks and registered loops.

Threads need no lock.
"""


class _RunningLoop(NamedTuple):
    """A loop that was running when it was registered."""

    guard: ref[LoopGuard]
    number: int
    code: CodeType
    instruction: int

    def get_level(self, frame: FrameType, *, is_first: bool) -> LevelHandle | None:
        """Return the level of the loop if a frame is running its body.

        The body may be in a function that the frame calls. The identity of the frame is that of the
        registered one. ``is_first`` is True for the frame that starts another loop.
        """
        guard = self.guard()
        if guard is None or not guard.level.recording:
            return None
        if guard.kind is FOR:
            return guard.level
        position = frame.f_lasti
        # Why: a function that returns its iterator may run again in a frame with the same identity.
        # It has not passed the request for the iterator then. A call such as ``max(track(a),
        # key=f)`` both requests the iterator and calls another function.
        if frame.f_code is not self.code or position < self.instruction:
            return None
        if is_first and position == self.instruction:
            return None
        has_started = guard.level._node.tracked if guard.has_started is None else guard.has_started()
        return guard.level if has_started else None

    def is_running(self) -> bool:
        """Return whether the loop has not ended."""
        guard = self.guard()
        return guard is not None and guard.level.recording


_make_running_loop: Final = cast(
    "Callable[[tuple[object, ...]], _RunningLoop]", partial(tuple.__new__, _RunningLoop)
)
"""Make a _RunningLoop from a tuple, in half the time of calling the class."""


class EnclosingBar(Protocol):
    """Progress bar of another library whose loop the caller is in."""

    entry_number: int
    """Number of its loop or block, in the order of :data:`next_number`."""

    def start_level(self) -> LevelHandle | None:
        """Start the level of the bar. Return it, or None if it cannot have one."""


_find_bar: Callable[[int], EnclosingBar | None] | None = None


def set_bar_finder(find: Callable[[int], EnclosingBar | None]) -> None:
    """Set the function that returns the innermost bar of the caller, for nested loops.

    Its argument is the number of the nested loop. The bar must have been entered before it.
    """
    global _find_bar
    _find_bar = find


class _Registry(threading.local):
    """Loops of one thread, by the identity of their frame, the newest last."""

    def __init__(self) -> None:
        self.loops: dict[int, list[_RunningLoop]] = {}
        self.sweep_at = _MIN_SWEEP


_registry: Final = _Registry()


def register_loop(frame: FrameType | None, guard: LoopGuard) -> None:
    """Register a loop that starts for the frame that requested its iterator."""
    if frame is None:
        return
    loops, key, instruction = _registry.loops, id(frame), frame.f_lasti
    loop = _make_running_loop((ref(guard), next_number(), frame.f_code, instruction))
    others = loops.get(key)
    if others is None:
        loops[key] = [loop]
        if len(loops) > _MIN_SWEEP:
            _sweep(_registry)
    else:
        # Why not those of the same instruction: the program has replaced their iterators.
        running = [other for other in others if other.instruction != instruction and other.is_running()]
        loops[key] = [*running[1 - MAX_LOOPS_PER_FRAME :], loop]


def find_enclosing_loop(frame: FrameType | None, number: int) -> LevelHandle | None:
    """Return the level of the loop whose body starts another loop. None without one.

    ``frame`` requests the iterator of the other loop. ``number`` is that of its track, which must
    have been created while the enclosing loop was running. The loop over a progress bar of another
    library counts as well. A current level that was started in the body of the enclosing loop has
    precedence. Never raises.
    """
    try:
        bar = None if _find_bar is None else _find_bar(number)
        if bar is None:
            return find_loop(frame, number)
        level = find_loop(frame, number, after=bar.entry_number) or bar.start_level()
        return None if level is None or not _is_below_current(level) else level
    except Exception as error:
        if is_interrupt(error):
            raise
        report_internal_error("start", "The loop around a loop could not be found.", error=error)
        return None


def find_loop(frame: FrameType | None, number: int, *, after: int = 0) -> LevelHandle | None:
    """Return the level of the ``track`` loop around ``frame``, or None.

    The frame runs the body of the loop. The loop was registered before ``number`` and after
    ``after``. May raise an error.
    """
    loops = _registry.loops
    if not loops:
        return None
    level = _search_frames(loops, frame, number, after)
    return None if level is None or not _is_below_current(level) else level


def _search_frames(
    loops: dict[int, list[_RunningLoop]], first: FrameType | None, number: int, after: int
) -> LevelHandle | None:
    frame = first
    _drop_newest_ended(loops)
    if not loops:
        return None
    for _ in range(MAX_FRAMES):
        if frame is None:
            return None
        for loop in reversed(loops.get(id(frame), ())):
            if after < loop.number < number:
                level = loop.get_level(frame, is_first=frame is first)
                if level is not None:
                    return level
        frame = frame.f_back
    return None


def _is_below_current(level: LevelHandle) -> bool:
    """Return whether a level is below the current level, or no level is current."""
    current = get_current_level()
    if current is None:
        return True
    node, above = current._node, level._node
    while above is not node:
        if above.parent is None:
            return False
        above = above.parent
    return True


def _drop_newest_ended(loops: dict[int, list[_RunningLoop]]) -> None:
    """Drop the newest loops until one is running.

    So a program without running loops searches no frames.
    """
    while loops:
        # Why: it is atomic, and a signal handler may register a loop at any time.
        try:
            key, newest = loops.popitem()
        except KeyError:
            return
        if _has_running(newest):
            loops.setdefault(key, newest)
            return


def _has_running(loops: list[_RunningLoop]) -> bool:
    # Why not is_running: each start of a loop calls this.
    for loop in loops:
        guard = loop[0]()
        if guard is not None and guard.level.recording:
            return True
    return False


def _sweep(registry: _Registry) -> None:
    """Drop all ended loops when their number may have doubled.

    It takes constant time per registered loop on average.
    """
    if len(registry.loops) <= registry.sweep_at:
        return
    for key, loops in list(registry.loops.items()):
        if not _has_running(loops) and registry.loops.get(key) is loops:
            registry.loops.pop(key, None)
    registry.sweep_at = max(_MIN_SWEEP, 2 * len(registry.loops))
