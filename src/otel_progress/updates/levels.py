"""Levels of one operation that other processes start, change and end by path."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

from otel_progress.model import Failure, Status
from otel_progress.propagation.environment import TRACE_VARIABLES
from otel_progress.propagation.parent_link import VARIABLE, parse_parent_link
from otel_progress.text import escape_controls, truncate
from otel_progress.updates.requests import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_progress.model import LevelSnapshot, Number
    from otel_progress.updates.requests import UpdateRequest


MAX_LEVELS: Final = 10_000
"""Levels that run at the same time. Further levels are rejected."""


MAX_REPLIES: Final = 10_000
"""Replies that are stored for repeated requests. Beyond it the oldest is dropped."""


class UpdatableLevel(Protocol):
    """Members of ``Level`` that requests use."""

    @property
    def recording(self) -> bool:
        """True while the level is running and recorded."""

    @property
    def path(self) -> str:
        """Path in the tree, empty for the operation."""

    def snapshot(self) -> LevelSnapshot:
        """Return the current state."""

    def level(
        self,
        type: str,
        id: object = None,
        name: str | None = None,
        *,
        total: Number | None = None,
        unit: str | None = None,
        weight: Number | None = None,
    ) -> UpdatableLevel:
        """Return a child."""

    def start(self) -> UpdatableLevel:
        """Start the level."""

    def environment(self) -> AbstractContextManager[dict[str, str]]:
        """Return the environment of a child process."""

    def update(
        self, *, current: Number | None = None, total: Number | None = None, message: str | None = None
    ) -> None:
        """Set values."""

    def increment(self, n: Number = 1) -> None:
        """Count units."""

    def complete(self) -> None:
        """End the level as completed."""

    def fail(self, error: Failure) -> None:
        """End the level as failed."""

    def cancel(self, reason: str = ...) -> None:
        """End the level as cancelled."""

    def skip(self, reason: str = ...) -> None:
        """End the level as skipped."""


class RemoteLevels:
    """Applies requests to a level and those below it, in the thread of the server.

    A repeated request has the reply of the first one and changes nothing. ``on_update`` is called
    before each change of the level itself.
    """

    def __init__(self, level: UpdatableLevel, on_update: Callable[[], None] = lambda: None) -> None:
        self._on_update = on_update
        self._run = level.snapshot().info.run
        self._path = level.path
        self._levels: dict[str, UpdatableLevel] = {self._path: level}
        self._replies: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def apply(self, request: UpdateRequest) -> dict[str, Any]:
        """Apply a request and return the reply. Raises InvalidRequestError."""
        reply = self._replies.get(request.id)
        if reply is not None:
            return reply
        if request.action == "update":
            reply = self._update(request)
        elif request.action == "start":
            reply = self._start(request)
        else:
            reply = self._end(request)
        self._replies[request.id] = reply
        if len(self._replies) > MAX_REPLIES:
            self._replies.popitem(last=False)
        return reply

    def end_abandoned(self, path: str) -> None:
        """End a level whose process has gone. A level that has ended is ignored."""
        level = self._levels.pop(path, None)
        if level is not None:
            level.fail(Failure("ProcessExited", "its process exited without an end"))

    def end_remaining(self) -> None:
        """Cancel the levels that no request has ended. Called after the last request."""
        levels = [level for path, level in self._levels.items() if path != self._path]
        # Why reversed: a level starts after its parent.
        for level in reversed(levels):
            if level.recording:
                level.cancel("no update ended it")
        self._levels.clear()

    def _find_level(self, request: UpdateRequest) -> tuple[str, UpdatableLevel]:
        path = self._get_path(request)
        level = self._levels.get(path)
        if level is None or not level.recording:
            raise InvalidRequestError(
                f"Invalid level {_quote(path)}: expected a running level. "
                "Start it with: otel-progress level TYPE ID --start."
            )
        return path, level

    def _get_path(self, request: UpdateRequest) -> str:
        """Return the path of a request, which is relative to the level of its environment."""
        base = self._path
        if request.parent:
            link = parse_parent_link(request.parent)
            if link is None or link.run != self._run:
                raise InvalidRequestError(
                    f"Invalid {VARIABLE}: expected a level of the operation that receives the update. "
                    "Do not change the variable."
                )
            base = link.path
        return f"{base}/{request.path}" if base and request.path else base or request.path

    def _update(self, request: UpdateRequest) -> dict[str, Any]:
        path, level = self._find_level(request)
        snapshot = level.snapshot()
        current = snapshot.current if request.current is None else request.current
        total = snapshot.total if request.total is None else request.total
        new_current = current + (request.increment or 0)
        if total is not None and new_current > total:
            raise InvalidRequestError(
                f"Invalid count {new_current:g}: expected at most the total {total:g}. "
                "Correct the count, or set a larger --total."
            )
        if path == self._path:
            self._on_update()
        level.update(current=request.current, total=request.total, message=request.message)
        if request.increment:
            level.increment(request.increment)
        return {"ok": True, "path": path, "current": new_current, "total": total}

    def _start(self, request: UpdateRequest) -> dict[str, Any]:
        _, parent = self._find_level(request)
        if len(self._levels) > MAX_LEVELS:
            raise InvalidRequestError(
                f"Invalid level: expected at most {MAX_LEVELS} running levels. End some of them."
            )
        level = parent.level(
            request.type or "level",
            request.level_id,
            request.name,
            total=request.total,
            unit=request.unit,
            weight=request.weight,
        ).start()
        if request.message is not None:
            level.update(message=request.message)
        path = level.path
        self._levels[path] = level
        with level.environment() as environment:
            variables = {
                name: environment[name] for name in (*TRACE_VARIABLES, VARIABLE) if name in environment
            }
        return {"ok": True, "path": path, "environment": variables}

    def _end(self, request: UpdateRequest) -> dict[str, Any]:
        path, level = self._find_level(request)
        if path == self._path:
            raise InvalidRequestError(
                f"Invalid level {_quote(path)}: expected a level that an update started. "
                "This one ends with its command."
            )
        del self._levels[path]
        if request.status is Status.FAILED:
            level.fail(Failure("Error", truncate(request.message or "failed"), request.details))
        elif request.status is Status.CANCELLED:
            level.cancel(request.message or "cancelled")
        elif request.status is Status.SKIPPED:
            level.skip(request.message or "skipped")
        else:
            if request.message is not None:
                level.update(message=request.message)
            level.complete()
        return {"ok": True, "path": path}


def _quote(text: str) -> str:
    return repr(escape_controls(truncate(text, 200)))
