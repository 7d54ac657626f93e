"""Protocol of a level handle, for the modules that ``instrument.level`` imports."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, TypeVar

from opentelemetry.trace import Span

from otel_progress.instrument.backend import RecordingBackend
from otel_progress.live.node import HandleReference, Node

Self = TypeVar("Self", bound="LevelHandle")


class LevelHandle(Protocol):
    """Members of ``Level`` that starting, context, decorators and iteration use."""

    _arguments: Any
    _node: Node
    _backend: RecordingBackend | None
    _entries: list[Any] | None
    _guard: HandleReference | None
    _parent: LevelHandle | None
    _span: Span

    @property
    def recording(self) -> bool:
        """True while the level is running and recorded."""

    @property
    def span(self) -> Span:
        """Span of the level. The property starts the level."""

    def start(self: Self) -> Self:
        """Start the level unless it was started before."""

    def cancel(self, reason: str = ...) -> None:
        """End the level as cancelled."""

    def __enter__(self: Self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
