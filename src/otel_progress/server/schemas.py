"""The documents of the API as types, for its OpenAPI document: what :mod:`otel_progress.codec` writes, field by field.

Nothing is validated against them at run time; the tests hold the two together.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from otel_progress.codec import SCHEMA
from otel_progress.model import EtaBasis, EtaState, Outcome, Status
from otel_progress.operations import Condition

Scalar: TypeAlias = str | bool | int | float


Metadata: TypeAlias = dict[str, Scalar | list[Scalar]]


Unix: TypeAlias = Annotated[float, Field(description="Unix seconds.")]


Seconds: TypeAlias = Annotated[float, Field(description="Seconds.")]


Clock: TypeAlias = Annotated[float, Field(description="Seconds on the worker's monotonic clock.")]


Ratio: TypeAlias = Annotated[float, Field(description="0 to 1.")]


Next: TypeAlias = Annotated[str | None, Field(description="Cursor of the next page; null on the last one.")]


Schema: TypeAlias = Annotated[
    Literal["otel-progress/1"], Field(description="Name and version of the documents.")
]


assert SCHEMA == "otel-progress/1"


class _Document(BaseModel):
    model_config = ConfigDict(title=None)


class Failure(_Document):
    """Why something failed."""

    type: str = Field(description="Class of the error.")
    message: str
    details: str | None = Field(description="A traceback, where there is one.")


class Eta(_Document):
    """An estimate of the remaining time, made at `clock`; `remaining_seconds` of the operation is what is left of it when it is read."""

    remaining_s: Seconds | None = Field(description="Null while unknown, and while stalled.")
    low_s: Seconds | None = Field(
        description="Lower end of the interval; null below three past runs. While stalled: at least this."
    )
    high_s: Seconds | None
    state: EtaState
    basis: EtaBasis = Field(description="What it mostly rests on.")
    runs: int = Field(description="Past runs it rests on.")
    clock: Clock
    counts_down_s: Seconds | None = Field(
        description="It counts down for so long without an advance, then holds; null: to 0."
    )
    stalls_after_s: Seconds | None = Field(
        description="Without an advance it is stalled so long after `clock`; null: never."
    )


class Level(_Document):
    """One level of an operation. What is unknown is null."""

    operation_id: str
    operation_type: str
    run: str = Field(description="Unique id of this execution; the same operation can run again.")
    path: str = Field(
        description="`type:id` of each step down, joined by `/`; empty for the operation itself."
    )
    type: str
    id: str
    name: str
    unit: str | None
    weight: float
    declared: bool = Field(description="Whether it is a stage that was announced up front.")
    attempt: int
    order: int
    started_at: Unix | None
    started_clock: Clock | None
    deadline_at: Unix | None
    trace_id: str | None
    span_id: str | None
    instance: str = Field(description="Id of the process that works.")
    sequence: int = Field(description="Grows with each change.")
    status: Status
    current: float = Field(description="Units of work done, failed and skipped ones included.")
    total: float | None
    completed: float = Field(description="Units that succeeded.")
    failed: int
    skipped: int
    ratio: Ratio | None
    percentage: float | None
    message: str | None
    stage: str | None = Field(description="Id of the running stage.")
    observed_at: Unix
    observed_clock: Clock
    advanced_at: Unix | None
    advanced_clock: Clock | None
    stall_after_s: Seconds
    ended_at: Unix | None
    duration_s: Seconds | None
    estimated: bool = Field(
        description="True where the ratio rests on an estimate, because an opaque step runs."
    )
    paused_clock: Clock | None = Field(description="Since when the operation is paused; null when it is not.")
    paused_s: Seconds = Field(description="Seconds of earlier pauses.")
    previews: int = Field(description="Number of the last preview; 0 without any.")
    overdue_after_s: Seconds | None = Field(
        description="Seconds of work that the first interval allowed for the whole run."
    )
    resumed_from: float = Field(
        description="Units of `current` that an earlier session had done: no part of the pace."
    )
    elapsed_seconds: Seconds
    metadata: Metadata
    error: Failure | None
    eta: Eta | None


class Sample(_Document):
    """What a process used at one moment."""

    at: Unix
    clock: Clock
    cpu_ratio: float = Field(description="1 for one core that is busy.")
    memory_bytes: int
    gpu_ratio: Ratio | None
    gpu_memory_bytes: int | None


class ResourceUse(_Document):
    """What a process used while an operation ran."""

    last: Sample
    samples: int
    cpu_mean: float
    cpu_peak: float
    memory_mean: float
    memory_peak: int
    gpu_mean: Ratio | None
    gpu_peak: Ratio | None
    gpu_memory_peak: int | None


class Worker(_Document):
    """A process that works."""

    id: str
    pid: int
    host: str
    service: str
    started_at: Unix
    start: int | None


class Operation(Level):
    """An operation without the levels below it."""

    schema_: Schema = Field(alias="schema")
    batch: str | None = Field(description="Id of its batch.")
    condition: Condition
    remaining_seconds: Seconds | None
    alive: bool
    read_at: Unix
    clock: Clock
    cancel_requested_at: Unix | None
    resources: ResourceUse | None
    worker: Worker | None


class OperationTree(Operation):
    """An operation with the levels kept below it, parents before children."""

    levels: list[Level]


class Event(_Document):
    """Something that happened to a level."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    level_type: str
    kind: str
    number: int = Field(description="Orders the events of a run.")
    at: Unix
    name: str | None
    outcome: Outcome | None
    error: Failure | None
    metadata: Metadata


class Log(_Document):
    """One record of the worker's logging."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: int = Field(description="Orders the records of a run.")
    at: Unix
    severity: int = Field(description="10 debug, 20 info, 30 warning, 40 error, 50 critical.")
    severity_text: str
    logger: str
    message: str
    details: str | None
    trace_id: str | None
    span_id: str | None
    attributes: Metadata


class Counts(_Document):
    """Operations by status."""

    pending: int
    running: int
    completed: int
    failed: int
    cancelled: int
    skipped: int


class BatchSummary(_Document):
    """Many operations as one."""

    schema_: Schema = Field(alias="schema")
    id: str
    name: str
    type: str
    total: int | None
    started_at: Unix
    ended_at: Unix | None
    read_at: Unix
    ratio: Ratio | None
    throughput: float | None = Field(description="Operations ended a second, of late.")
    status: Status
    counts: Counts
    finished: int
    percentage: float | None
    elapsed_seconds: Seconds
    remaining_seconds: Seconds | None


class Batch(BatchSummary):
    """A batch with its active and failed operations, the newest first, at most 100 each."""

    active: list[Operation]
    failed: list[Operation]


class Progress(_Document):
    """An operation in a few figures."""

    schema_: Schema = Field(alias="schema")
    operation_id: str
    run: str
    sequence: int
    status: Status
    condition: Condition
    percentage: float | None
    ratio: Ratio | None
    current: float
    total: float | None
    failed: int
    unit: str | None
    message: str | None
    stage: str | None
    elapsed_seconds: Seconds
    remaining_seconds: Seconds | None
    estimated: bool
    clock: Clock
    eta: Eta | None


class Stage(_Document):
    """One stage: its share of the whole and where it begins, both 0 to 1."""

    name: str
    weight: Ratio
    start: Ratio


class Category(_Document):
    """The stages of one kind of work, in their order."""

    category: str
    stages: list[Stage]


class CancelAccepted(_Document):
    """A request to stop that the worker will hear of."""

    schema_: Schema = Field(alias="schema")
    operation_id: str
    run: str
    reason: str


class _Page(_Document):
    schema_: Schema = Field(alias="schema")
    next: Next


class Operations(_Page):
    """A page of operations."""

    operations: list[Operation]


class Levels(_Page):
    """Levels, parents before children."""

    levels: list[Level]


class Events(_Page):
    """Events, oldest first."""

    events: list[Event]


class Logs(_Page):
    """Log records, oldest first."""

    logs: list[Log]


class Preview(_Document):
    """What work looked like half done."""

    operation_id: str
    operation_type: str
    run: str
    path: str
    number: int = Field(
        description="Orders the previews of a run, from 1; some in between may have made room for others."
    )
    at: Unix
    name: str
    media_type: str
    size_bytes: int
    digest: str = Field(description="SHA-256 of the content, in hexadecimal.")
    width: int | None = Field(description="Pixels; null for texts.")
    height: int | None
    ratio: Ratio | None = Field(description="How far the operation was.")
    url: str | None = Field(description="Where the content is, below the address of the server.")


class Previews(_Page):
    """Previews, oldest first."""

    previews: list[Preview]


class Samples(_Page):
    """Samples, oldest first."""

    samples: list[Sample]


class Batches(_Page):
    """Batches: those that are not over first, then the newest first."""

    batches: list[BatchSummary]


class StageCategories(_Page):
    """All categories of stages."""

    stages: list[Category]


class Exported(OperationTree):
    """An operation with its levels and events."""

    events: list[Event]


class Health(_Document):
    """How the server is."""

    status: Literal["ok"]


class CancelReason(BaseModel):
    """Why an operation should stop."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(default="", max_length=1024, description="For people; kept with the operation.")
