"""How a level begins: from what the caller asked for to a running node with its span, and where it stands in the context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from opentelemetry import context as context_api
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_progress import semconv, values
from otel_progress.errors import ProgressError
from otel_progress.instrument import spans
from otel_progress.live.node import Node, Operation, Spec
from otel_progress.live.observe import picture
from otel_progress.model import NO_METADATA, MetadataValue, Number, Snapshot, Status
from otel_progress.recording import BATCH_KEY, LEVEL_KEY, Recording, slot
from otel_progress.stages import Stages, as_stages, stage_name
from otel_progress.text import cut, identifier
from otel_progress.trouble import trouble
from otel_progress.values import Bad

if TYPE_CHECKING:
    from otel_progress.instrument.handle import Level

SCOPE: Final = "otel_progress"
"""Instrumentation scope of the module-level helpers."""


_SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, context_api.Context())))
"""Where a context keeps its span: with it, a level's context is one copy of the one around it and not two."""


class Request(NamedTuple):
    """What a caller asked for, as it was given; cleaned when the level begins. ``what`` is operation, level or stage.

    ``batch`` is the id of one, or a function that gives it.
    """

    what: str
    type: object
    id: object
    name: object
    total: object
    unit: object
    weight: object
    deadline: object
    stages: Any
    metadata: Mapping[str, object]
    batch: object
    eta_key: object
    scope: str


request: Final = cast("Callable[[tuple[object, ...]], Request]", partial(tuple.__new__, Request))
"""Make a Request from a tuple of all its fields: half the time of calling the class, at the start of every level."""
_PLAIN: Final = (None,) * 7
"""What a level was given that has a type and nothing else: no id, name, total, unit, weight, deadline or stages."""
_spec: Final = cast("Callable[[tuple[object, ...]], Spec]", partial(tuple.__new__, Spec))


def _node_of_nothing() -> Node:
    operation = Operation("", "", "", "")
    return Node(operation, None, "", "", Spec("", "", "", None, None, 1, None, None, NO_METADATA))


def _inert() -> Node:
    node = _node_of_nothing()
    node.one = cast(Callable[[], object], repeat(None).__next__)
    picture(node)
    return node


UNSTARTED: Final = _node_of_nothing()
"""Stands for the node of every handle that has not begun."""
INERT: Final = _inert()
"""The node of every handle that records nothing."""


def begin(request: Request, above: Level | None) -> tuple[Node, Recording | None]:
    """Begin a level; the inert node when nothing is configured, or when it was refused. Never raises unless strict."""
    recording = slot.active
    if recording is None:
        return INERT, None
    node: Node | None = None
    try:
        parent = None if above is None else above._node
        if parent is UNSTARTED:
            parent = above.start()._node  # type: ignore[union-attr]
        if parent is INERT:
            return INERT, None
        if request[0] == "stage":
            node = _open_stage(recording, request, parent)
        else:
            node = recording.store.open(parent, clean(recording, request, parent))
        if node is None:
            return INERT, None
        if recording.strict:
            node.counting()
            node.one = _Checked(recording, node).one
        span = spans.start(recording.tracer, request[-1], node, parent_context(above))
        context = span.get_span_context()
        if context.is_valid:
            node.trace = (context.trace_id, context.span_id)
        node.span, node.info, node.dirty = span, None, True
        if node.status is not Status.RUNNING:  # ended by another thread meanwhile, before its span was there to be ended
            spans.finish(node)
    except ProgressError:
        raise
    except Exception:
        trouble("begin", "a level could not be begun with its span; the work goes on without")
        return (INERT, None) if node is None else (node, recording)
    except BaseException as error:  # an interrupt: no handle will end what began here
        if node is not None:
            recording.store.close(node, Status.CANCELLED, message=type(error).__name__)
        raise
    return node, recording


def _open_stage(recording: Recording, request: Request, parent: Node | None) -> Node | None:
    """Begin a declared stage; where none are declared, a stage is a level like any other."""
    try:
        name = stage_name(cast(Any, request.type))
    except ProgressError as error:
        recording.reject("stage", str(error))
        return None
    spec = clean(recording, request._replace(id=name, name=name), parent)
    return recording.store.open(None, spec) if parent is None else recording.store.open_stage(parent, spec)


def clean(recording: Recording, request: Request, parent: Node | None = None) -> Spec:
    """Return the request with every value cleaned; what cannot be used is refused and left out."""
    what, type_, id_, name, total, unit, weight, deadline, stages, metadata, batch, eta_key, _ = request
    if parent is not None and what == "level" and not metadata and request[2:9] == _PLAIN:
        return _spec((identifier(type_) or "level", None, None, None, None, 1, None, None, NO_METADATA, None, None))
    kept = values.metadata(metadata) if metadata else NO_METADATA
    if deadline is not None:
        deadline = _accepted(recording, values.deadline(deadline, recording.store.now()))
    return _spec(
        (
            semconv.STAGE if what == "stage" else identifier(type_) or "level",
            None if id_ is None else identifier(id_),
            None if name is None else cut(name, 256),
            None if total is None else _good(recording, total, "the total"),
            cut(unit, 64) if unit is not None else (semconv.STAGE if stages is not None and total is None else None),
            1 if weight is None else _weight(recording, weight),
            deadline,
            None if stages is None else _stages(recording, stages),
            kept,
            None if parent is not None else _batch(recording, batch),
            None if eta_key is None else _bucket(recording, eta_key, kept),
        )
    )


def _batch(recording: Recording, given: object) -> str | None:
    """Return the id of the batch an operation belongs to: the one it names, else the one whose context it begins in."""
    if given is None:
        return cast("str | None", context_api.get_value(BATCH_KEY))
    if callable(given):
        return cast("str | None", given())
    clean = batch_id(given)
    if isinstance(clean, Bad):
        recording.reject(clean.reason, clean.text)
        return None
    return clean


def batch_id(value: object) -> str | Bad:
    """Return the id of a batch."""
    return identifier(value) or Bad("batch", "the id of a batch must not be empty; leave it out to have one made")


def _bucket(recording: Recording, eta_key: object, metadata: Mapping[str, MetadataValue]) -> str | None:
    """Return the bucket of runs that an operation learns from."""
    clean = values.bucket(eta_key, metadata)
    if isinstance(clean, Bad):
        recording.reject(clean.reason, clean.text, of_type=clean.of_type)
        return None
    return clean


def _stages(recording: Recording, stages: Any) -> Stages | None:
    try:
        return as_stages(stages)
    except (ProgressError, TypeError) as error:
        recording.reject("stages", str(error), of_type=isinstance(error, TypeError))
        return None


def _weight(recording: Recording, weight: object) -> Number:
    clean = _good(recording, weight, "weight")
    return 1 if clean is None else clean


def _good(recording: Recording, value: object, what: str) -> Number | None:
    if type(value) is int and 0 <= value < 2**63:
        return value
    return _accepted(recording, values.number(value, what))


def _accepted(recording: Recording, value: Number | Bad | None) -> Number | None:
    if isinstance(value, Bad):
        recording.reject(value.reason, value.text, of_type=value.of_type)
        return None
    return value


class _Checked:
    """Strict counting: refuses the unit that goes beyond the total, where the default counts first and clamps later."""

    __slots__ = ("_node", "_recording")

    def __init__(self, recording: Recording, node: Node) -> None:
        self._recording = recording
        self._node = node

    def one(self) -> None:
        """Count one unit. Raises RejectedValueError beyond the total."""
        node = self._node
        after = node.counting().value() + 1
        if node.total is not None and after > node.total:
            bad = values.beyond(node, after)
            self._recording.reject(bad.reason, bad.text)
        node.counting().one()


def snapshot(node: Node, recording: Recording | None) -> Snapshot:
    """Return the level as it is now; an empty, pending one when nothing is recorded."""
    return picture(INERT) if recording is None else recording.store.snapshot(node)


# --- context -------------------------------------------------------------------------------------------------------


def current_level() -> Level | None:
    """Return the handle in force in this context, or the nearest one above it that still runs; None when there is none."""
    level = cast("Level | None", context_api.get_value(LEVEL_KEY))
    while level is not None and not level.recording:
        level = level._above
    return level


def parent_context(above: Level | None) -> context_api.Context:
    """Return the context a level's span starts in: the current one, with the level above as parent where it is not in force."""
    here = context_api.get_current()
    if above is None or here.get(LEVEL_KEY) is above:
        return here
    return spans.in_context(above.span)


def current_context(level: Level) -> context_api.Context:
    """Return the current context with the level and its span in force."""
    node, entries = level._node, {**context_api.get_current(), LEVEL_KEY: level}
    if node.spec.batch is not None:  # an operation of a batch is one unit of it: those that begin in it are their own affair
        entries[BATCH_KEY] = None
    if node.trace is not None:
        entries[_SPAN_KEY] = level.span
    return context_api.Context(entries)


def leave(token: object, key: str, value: object) -> None:
    """Undo the attach of a block that is left, unless it is no longer what is in force.

    Blocks of generators and threads are left in any order, those the garbage collector finds at any moment: whatever the context is
    then belongs to others.
    """
    if context_api.get_current().get(key) is value:
        detach(token)


def detach(token: object) -> None:
    """Undo an attach; in another task or thread than it was made in there is nothing to undo."""
    reset: Callable[[object], None] | None = getattr(getattr(token, "var", None), "reset", None)
    if reset is None:
        context_api.detach(cast(Any, token))
        return
    try:
        reset(token)
    except (ValueError, RuntimeError):  # made in another context, or undone already: the caller's context is as it should be
        return
