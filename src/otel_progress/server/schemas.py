"""Schemas of the API, generated from the TypedDicts of the JSON codec.

Documents that only the server sends are declared here. Nothing is validated against the models at
run time. Tests compare them with the documents of the endpoints.
"""

from __future__ import annotations

from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    TypeAlias,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import BaseModel, ConfigDict, Field, create_model

from otel_progress.codec import (
    BatchSummaryDocument,
    Clock,
    EtaDocument,
    EventDocument,
    LogDocument,
    OperationDocument,
    OperationTreeDocument,
    PreviewDocument,
    Ratio,
    SampleDocument,
    SchemaName,
    Seconds,
    TreeLevelDocument,
)
from otel_progress.model import Status
from otel_progress.operations import Condition

NextCursor: TypeAlias = Annotated[str | None, "Cursor of the next page. Null on the last page."]


class ProgressDocument(TypedDict):
    """Main figures of an operation."""

    schema: SchemaName
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
    eta: EtaDocument | None


class StageDocument(TypedDict):
    """One stage: its share of the whole, and the ratio at its start, both 0 to 1."""

    name: str
    weight: Ratio
    start: Ratio


class CategoryDocument(TypedDict):
    """Stages of one category of work, in order."""

    category: str
    stages: list[StageDocument]


class CancelAcceptedDocument(TypedDict):
    """Accepted request to cancel an operation."""

    schema: SchemaName
    operation_id: str
    run: str
    reason: str


class BatchCancelAcceptedDocument(TypedDict):
    """Accepted request to cancel the active operations of a batch."""

    schema: SchemaName
    batch_id: str
    operations: Annotated[int, "Active operations of the batch."]
    reason: str


class BatchClosedDocument(TypedDict):
    """Batch that was closed."""

    schema: SchemaName
    batch_id: str


class FailedDocument(TypedDict):
    """Abandoned operation that was marked as failed."""

    schema: SchemaName
    operation_id: str
    run: str
    reason: str


class _PageDocument(TypedDict):
    schema: SchemaName
    next: NextCursor


class OperationsDocument(_PageDocument):
    """Page of operations."""

    operations: list[OperationDocument]


class LevelsDocument(_PageDocument):
    """Levels, parents before children."""

    levels: list[TreeLevelDocument]


class EventsDocument(_PageDocument):
    """Events, oldest first."""

    events: list[EventDocument]


class LogsDocument(_PageDocument):
    """Log records, oldest first."""

    logs: list[LogDocument]


class ListedPreviewDocument(PreviewDocument):
    """Preview of the unfinished work of an operation."""

    url: Annotated[str | None, "URL of the content, relative to the address of the server."]


class PreviewsDocument(_PageDocument):
    """Previews, oldest first."""

    previews: list[ListedPreviewDocument]


class SamplesDocument(_PageDocument):
    """Samples, oldest first."""

    samples: list[SampleDocument]


class BatchesDocument(_PageDocument):
    """Batches: running ones first, then the newest first."""

    batches: list[BatchSummaryDocument]


class StageCategoriesDocument(_PageDocument):
    """Categories of stages."""

    stages: list[CategoryDocument]


class ExportedDocument(OperationTreeDocument):
    """Operation with its levels and events."""

    events: list[EventDocument]


class HealthDocument(TypedDict):
    """Health of the server."""

    status: Literal["ok"]


class CancelReason(BaseModel):
    """Reason to cancel an operation."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(
        default="", max_length=1024, description="Text for users. It is stored with the operation."
    )


class FailReason(BaseModel):
    """Reason to mark an abandoned operation as failed."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(
        default="", max_length=1024, description="Text for users. It is the error of the operation."
    )


class _Model(BaseModel):
    model_config = ConfigDict(title=None)


_NAMES: Final = {ListedPreviewDocument: "Preview", TreeLevelDocument: "Level"}
"""Schemas that are not named like their class without ``Document``."""


def build_model(document: Any) -> Any:
    """Return the Pydantic model of a TypedDict.

    TypedDicts inside it become models, too.

    Other types, such as a union of TypedDicts, are returned with their parts converted. A text in
    ``Annotated`` becomes the description.
    """
    if is_typeddict(document):
        return _build_model(document)
    origin, arguments = get_origin(document), get_args(document)
    if origin is Annotated:
        return Annotated[build_model(arguments[0]), Field(description=arguments[-1])]
    if origin is Union or origin is UnionType:
        return reduce(or_, map(build_model, arguments))
    if origin is list:
        return list[build_model(arguments[0])]  # type: ignore[misc]
    return document


@cache
def _build_model(document: Any) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(document, include_extras=True).items():
        # BaseModel has a method ``schema``.
        fields[f"{name}_" if name == "schema" else name] = (
            build_model(hint),
            Field(alias="schema") if name == "schema" else ...,
        )
    name = _NAMES.get(document, document.__name__.removesuffix("Document"))
    model = create_model(name, __base__=_Model, **fields)
    model.__doc__ = document.__doc__
    return model
