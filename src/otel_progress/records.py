"""What is observed beside the levels: log records, what a process uses, requests to cancel, batches of operations. All immutable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

Attribute: TypeAlias = (
    "str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]"
)
"""The attribute types of OpenTelemetry."""


NO_ATTRIBUTES: Final[Mapping[str, Attribute]] = MappingProxyType({})


SEVERITIES: Final[Mapping[str, int]] = MappingProxyType(
    {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
)
"""The names of Python's ``logging`` and their numbers; records may have numbers in between."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of ``logging`` made while a level was in force.

    ``number`` orders the records of a run and grows; ``severity`` is the number of ``logging`` (10 debug to 50 critical) and
    ``severity_text`` its name. ``details`` is a traceback. ``path`` is the level's, empty for the operation itself.
    """

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: int
    at: float
    severity: int
    severity_text: str
    logger: str
    message: str
    details: str | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: NO_ATTRIBUTES)
    trace_id: str | None = None
    span_id: str | None = None


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """What one process used at one moment: ``at`` in Unix seconds, ``clock`` monotonic.

    ``cpu_ratio`` is processor time over wall time since the sample before, 1.0 for one core that is busy; ``memory_bytes`` the
    resident set; ``gpu_ratio`` (0 to 1, mean of the devices in use) and ``gpu_memory_bytes`` are None without NVIDIA's library.
    """

    at: float
    clock: float
    cpu_ratio: float
    memory_bytes: int
    gpu_ratio: float | None = None
    gpu_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """What the process of an operation used while it ran: the last sample, and mean and peak over ``samples`` of them."""

    last: ResourceSample
    samples: int
    cpu_mean: float
    cpu_peak: float
    memory_mean: float
    memory_peak: int
    gpu_mean: float | None = None
    gpu_peak: float | None = None
    gpu_memory_peak: int | None = None


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Somebody asked for an operation to stop. ``at`` is in Unix seconds."""

    run: str
    operation_id: str
    reason: str
    at: float


MAX_TRAJECTORIES_PER_KEY: Final = 20
"""Maximum number of past runs per key that are stored and used by an estimate."""


MAX_TRAJECTORY_POINTS: Final = 64
"""Maximum number of points of a stored run."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A run that succeeded, as a curve: what later runs of the same kind learn from. Times are in seconds, paused time left out.

    ``points`` are (elapsed, fraction done 0 to 1), ascending, at most 64. ``stages`` has the duration of each stage by its id.
    """

    duration_s: float
    points: Sequence[tuple[float, float]] = ()
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrajectoryKey:
    """What runs have in common that learn from each other.

    ``level`` is the shape of the place in the tree: the types of the path's segments joined by ``/``, with the id for stages
    (``album/song``, ``stage:render/frame``), empty for the operation. ``host_class`` says what kind of machine works
    (``linux-x86_64-2``); ``eta_key`` is the caller's own bucket, empty when there is none.
    """

    operation_type: str
    level: str
    host_class: str
    eta_key: str = ""


@dataclass(frozen=True, slots=True)
class TrajectoryEntry:
    """A trajectory under its key, with the run it came from and its end in Unix seconds."""

    key: TrajectoryKey
    run: str
    at: float
    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Preview:
    """What work looked like half done, as it was stored.

    ``number`` orders the previews of a run, from 1. An empty ``location`` tells that the one of this number is no longer kept, because a
    bound was reached: readers leave it out. ``ratio`` is the operation's at that moment. ``location`` is the URL of the content in
    its store, ``digest`` the SHA-256 of it in hexadecimal, ``width`` and ``height`` are pixels (None for texts).
    """

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: int
    at: float
    name: str
    media_type: str
    size_bytes: int
    digest: str
    location: str
    width: int | None = None
    height: int | None = None
    ratio: float | None = None
