"""Components of a runtime, assembled by :mod:`otel_progress.runtime.builder`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from otel_progress.instrument.backend import RecordingBackend
    from otel_progress.live.store import LiveStore
    from otel_progress.metrics.counters import Totals
    from otel_progress.previews.service import PreviewService
    from otel_progress.runtime.composite_reader import CompositeReader
    from otel_progress.runtime.providers import TracerProviders
    from otel_progress.runtime.resource_sampler import ResourceSampler
    from otel_progress.runtime.sink_worker import SinkWorker
    from otel_progress.settings.fields import Settings


@dataclass(frozen=True, slots=True)
class ClockAndIds:
    """Clocks (monotonic and Unix seconds) and unique ids of a runtime. Tests replace them."""

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    ids: Callable[[], str] = lambda: secrets.token_hex(8)


@dataclass(slots=True)
class ServerUrls:
    """URLs of the API: the configured public one, and that of the server in this process."""

    configured: str | None = None
    own: str | None = None

    def read_public_url(self) -> str | None:
        """Return the URL for clients: the configured one, else that of the own server."""
        return self.configured or self.own


class CloseCallback(Protocol):
    """Function that closes a component within a time limit."""

    def __call__(self, timeout: float) -> object:
        """Close the component within ``timeout`` seconds."""


@dataclass(frozen=True, slots=True)
class RuntimeComponents:
    """Parts of a runtime. The runtime owns them from its construction on and closes them.

    ``flush_callbacks`` return False after a timeout. ``close_callbacks`` run in their order at
    the end of a shutdown. Without ``has_ticker``, changes are only collected by a flush.
    """

    settings: Settings
    store: LiveStore
    recording: RecordingBackend
    totals: Totals
    providers: TracerProviders
    reader: CompositeReader
    urls: ServerUrls
    sink_workers: tuple[SinkWorker, ...] = ()
    flush_callbacks: tuple[Callable[[float], bool], ...] = ()
    close_callbacks: tuple[CloseCallback, ...] = ()
    previews: PreviewService | None = None
    sampler: ResourceSampler | None = None
    metrics_url: str | None = None
    has_ticker: bool = True
