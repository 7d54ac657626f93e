"""Immutable records: logs, resource use, requests, history, previews and totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from otel_progress.model import LevelSnapshot

Attribute: TypeAlias = (
    "str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]"
)
"""Attribute types of OpenTelemetry."""


NO_ATTRIBUTES: Final[Mapping[str, Attribute]] = MappingProxyType({})


SEVERITIES: Final[Mapping[str, int]] = MappingProxyType(
    {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
)
"""Numbers of the severity names of ``logging``. Records may have other numbers."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """Record of ``logging`` that was made while a level was the current one.

    ``number`` increases within a run. ``at`` is in Unix seconds. ``severity`` is the number of
    ``logging`` (10 debug to 50 critical), and ``severity_text`` its name. ``details`` is a
    traceback. ``path`` is the path of the level, which is empty for the operation itself.
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
    """Resource use of a process (``at`` in Unix seconds, ``clock`` monotonic).

    ``cpu_ratio`` is the processor time per wall time since the previous sample. It is 1.0 for one
    busy core. ``memory_bytes`` is the resident set. ``gpu_ratio`` (0 to 1) is the mean of the
    devices in use. It and ``gpu_memory_bytes`` are None without NVIDIA's library.
    """

    at: float
    clock: float
    cpu_ratio: float
    memory_bytes: int
    gpu_ratio: float | None = None
    gpu_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """Resource use of a process during an operation: last, mean and peak values.

    ``samples`` is the number of samples.
    """

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
    """Request to stop an operation. ``at`` is in Unix seconds."""

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
    """Progress curve of a successful run, for the estimates of later runs.

    Times are in seconds without paused time. ``points`` are at most 64 ascending pairs (elapsed,
    fraction done from 0 to 1). ``stages`` has the duration of each stage by its id.
    """

    duration_s: float
    points: Sequence[tuple[float, float]] = ()
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrajectoryKey:
    """Key of comparable runs, which share their history.

    ``level`` is the type of the path: the types of its segments joined by ``/``, for stages with
    the id (``album/song``, ``stage:render/frame``). It is empty for the operation. ``host_class``
    is the class of host (``linux-x86_64-2``). ``eta_key`` is the group of the run: a text of the
    caller, or a text that starts with the service or the program. It was empty in earlier versions.
    """

    operation_type: str
    level: str
    host_class: str
    eta_key: str = ""


@dataclass(frozen=True, slots=True)
class TrajectoryEntry:
    """History entry: a trajectory with its key, its run and its end in Unix seconds."""

    key: TrajectoryKey
    run: str
    at: float
    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Preview:
    """Stored preview of unfinished work.

    ``number`` increases within a run, starting with 1. ``at`` is in Unix seconds. ``location`` is
    the URL of the content in its store. An empty one reports that this preview has expired because
    of a limit, and readers omit it. ``digest`` is the hexadecimal SHA-256 of the content. ``ratio``
    is the ratio of the operation at that time. ``width`` and ``height`` are in pixels, and None for
    texts.
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


@dataclass(frozen=True, slots=True)
class Contribution:
    """Figures of one level that a process reports to the owner of the operation.

    The figures are totals since the start of ``writer``, so a repeated or delayed report is
    harmless. ``level`` has the values of the level itself, without those of the levels below it:
    ``current``, ``failed`` and ``skipped`` are the units that this process counted on it.

    ``writer`` is ``INSTANCE/NUMBER``. A process has a new number when it uses a level again after a
    long time. ``is_share`` is True for units that are added to a level of another process, and
    False for a level that this process started. ``is_counted`` is True if the level counted units.
    ``is_tracked`` marks the level of a loop.
    """

    level: LevelSnapshot
    writer: str
    is_share: bool
    is_counted: bool
    is_tracked: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """Run, writer and path, of which the newest contribution replaces the others."""
        return self.level.info.run, self.writer, self.level.info.path

    @property
    def instance(self) -> str:
        """Id of the process."""
        return self.writer.rpartition("/")[0]


TotalsTable: TypeAlias = "Mapping[str, Mapping[str, str]]"
"""Totals of a group: process to series to value, as texts. See :class:`TotalsUpdate`."""


MERGED_PROCESS: Final = ""
"""Process of a :data:`TotalsTable` with the sums of processes that have ended."""


IDENTITY_SERIES: Final = ""
"""Series of a :data:`TotalsTable` with the identity of the process. Of the sums it is a version."""


@dataclass(frozen=True, slots=True)
class TotalsUpdate:
    """Changed totals of one process.

    ``group`` are the processes whose metrics are served at one address. ``process`` is unique in
    the group. ``series`` maps names to values, both as text that the journal does not interpret.
    """

    group: str
    process: str
    series: Mapping[str, str]
