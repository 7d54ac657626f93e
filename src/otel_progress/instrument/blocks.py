"""What a block of the work can be beside a level: an opaque step, which cannot report, or a pause."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from otel_progress import values
from otel_progress.instrument import begin
from otel_progress.text import cut
from otel_progress.values import Bad

if TYPE_CHECKING:
    from otel_progress.instrument.handle import Level
    from otel_progress.live.node import Node
    from otel_progress.recording import Recording


class Block:
    """A block for ``with`` and ``async with`` that gives the level it was made from."""

    __slots__ = ("_level",)

    def __init__(self, level: Level) -> None:
        self._level = level

    def __enter__(self) -> Level:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Level:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


class OpaqueStep(Block):
    """A step that shows estimated progress. A level that has not begun begins and ends with it; see :meth:`Level.opaque`."""

    __slots__ = ("_entered", "_expected")

    def __init__(self, level: Level, expected: float | None) -> None:
        super().__init__(level)
        self._expected = expected
        self._entered: list[tuple[bool, tuple[Recording, Node] | None]] = []
        """For each time it was entered and not left: whether it began the level, and what it marked."""

    def __enter__(self) -> Level:
        level, marked = self._level, None
        owns = level._node is begin.UNSTARTED
        if owns:
            level.__enter__()
        if level._recording is not None and level._recording.store.interruptions.begin_opaque(
            level._node, self._expected, whole=owns
        ):
            marked = (level._recording, level._node)
        self._entered.append((owns, marked))
        return level

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        owns, marked = self._entered.pop()
        if owns:  # the mark goes with the level: between the two there is no moment at which nothing is known of it
            self._level.__exit__(kind, error, traceback)
        if marked is not None:
            marked[0].store.interruptions.end_opaque(marked[1])


class Pause(Block):
    """A block during which the work of the whole operation is paused; see :meth:`Level.paused`."""

    __slots__ = ("_entered", "_reason")

    def __init__(self, level: Level, reason: object) -> None:
        super().__init__(level)
        self._reason = None if reason is None else cut(reason)
        self._entered: list[tuple[Recording, Node, str | None] | None] = []
        """For each time it was entered and not left: what it paused, and the message before."""

    def __enter__(self) -> Level:
        level = self._level.start()
        recording, node = level._recording, level._node
        if recording is None:
            self._entered.append(None)
        else:
            self._entered.append((recording, node, recording.store.interruptions.pause(node.operation, self._reason)))
        return level

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        paused = self._entered.pop()
        if paused is not None:
            recording, node, before = paused
            recording.store.interruptions.go_on(node.operation, self._reason, before)


def seconds(expected: object) -> float | Bad | None:
    """Return how long an opaque step is expected to take: a number of seconds above 0, or a timedelta."""
    if expected is None:
        return None
    given = expected.total_seconds() if isinstance(expected, timedelta) else expected
    clean = values.number(given, "the expected time of an opaque step (seconds or timedelta)")
    if isinstance(clean, Bad):
        return clean
    if clean == 0:
        return Bad("expected", "the expected time of an opaque step must be more than 0 s; leave it out when nothing is known")
    return float(clean)
