"""Normalisation of arguments: numbers, metadata, deadlines and outcomes.

A parse function returns the normalised value, or a :class:`Rejection` if the value is invalid.
No function raises.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from otel_progress import redaction, semconv
from otel_progress.errors import ProgressError
from otel_progress.instrument.backend import RecordingBackend
from otel_progress.instrument.callers import Caller, describe_caller
from otel_progress.instrument.context import get_current_batch
from otel_progress.instrument.rejections import Rejection
from otel_progress.interrupts import is_interrupt
from otel_progress.live.node import Node, Spec
from otel_progress.model import NO_METADATA, MetadataValue, Number, Outcome
from otel_progress.resumption import MAX_CHECKPOINT_BYTES
from otel_progress.stages import Stages, to_stages
from otel_progress.text import MAX_NAME, normalize_id, pluralize, truncate

MAX_METADATA: Final = 128
"""Metadata keys per level. Further keys are rejected."""


MAX_METADATA_KEY_CHARACTERS: Final = 128
"""Characters of a metadata key. Longer keys are truncated."""


MAX_SEQUENCE_ELEMENTS: Final = 64
"""Elements of a metadata value that is a list or tuple. Further elements are dropped."""


MAX_UNIT_CHARACTERS: Final = 64
"""Characters of a unit. Longer units are truncated."""


_MAX_INT: Final = 2**63 - 1


_MAX_QUOTED_CHARACTERS: Final = 64


SCOPE: Final = "otel_progress"
"""Instrumentation scope of the module-level helpers."""


DeadlineLike: TypeAlias = "float | int | timedelta | datetime"
"""Seconds from now, a duration from now, or a moment. A naive datetime is local time."""


UnitLike: TypeAlias = "str | tuple[str, str]"
"""Name of one unit of work, or its singular and plural: ``"file"``, ``("child", "children")``."""


EtaKey: TypeAlias = "str | list[str] | tuple[str, ...]"
"""Group of runs that share a history: its name, or the metadata keys whose values name it."""


# --- numbers -------------------------------------------------------------------------------------


def parse_number(
    value: object, quantity: str, expected: str = "a number of at least 0"
) -> Number | Rejection:
    """Return a finite number of at least 0.

    Integers of other libraries become int, other numbers float. ``quantity`` and ``expected``
    are parts of the message of a rejection.
    """
    kind = type(value)
    if kind is int or kind is float:
        number: Number = value  # type: ignore[assignment]
    else:
        converted = _convert_number(value)
        if converted is None:
            return _reject_type(quantity, value, expected)
        number = converted
    if number < 0:
        return Rejection("negative", f"Invalid {quantity} {_quote(number)}: expected {expected}.")
    if number > _MAX_INT or number != number:
        text = f"Invalid {quantity} {_quote(number)}: expected a finite number below 2**63."
        return Rejection("not_finite", text)
    return number


def _convert_number(value: object) -> Number | None:
    """Return a number of another library as int or float, or None for any other value."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception as failure:  # A foreign __index__ may raise any exception.
        if is_interrupt(failure):
            raise
    try:
        return float(value)  # type: ignore[arg-type]
    except Exception as failure:  # A foreign __float__ may raise any exception.
        if is_interrupt(failure):
            raise
        return None


def parse_deadline(value: object, now: float) -> float | Rejection | None:
    """Return a deadline in Unix seconds, or None for None. ``now`` is in Unix seconds."""
    if value is None:
        return None
    expected = "0 or more seconds from now, a timedelta or a datetime"
    if isinstance(value, datetime):
        try:
            return value.timestamp()
        except (
            Exception
        ) as failure:  # The moment is outside the system's range, or a foreign time zone raised.
            if is_interrupt(failure):
                raise
            return _reject_type("deadline", value, expected)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    number = parse_number(seconds, "deadline", expected)
    return number if isinstance(number, Rejection) else now + number


def parse_expected_seconds(expected: object) -> float | Rejection | None:
    """Return the expected duration of an opaque step in seconds, or None for None."""
    if expected is None:
        return None
    seconds = expected.total_seconds() if isinstance(expected, timedelta) else expected
    number = parse_number(seconds, "expected time", "more than 0 seconds, or a timedelta")
    if isinstance(number, Rejection):
        return number
    if number == 0:
        text = "Invalid expected time 0: expected more than 0 seconds. Leave it out if it is unknown."
        return Rejection("expected", text)
    return float(number)


# --- units ---------------------------------------------------------------------------------------


def parse_unit(value: object) -> tuple[str, str] | Rejection:
    """Return the redacted singular and plural of a unit.

    The plural of a text is the regular one, or the text itself.
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 2 or not all(isinstance(form, str) and form for form in value):
            return _reject_type("unit", value, 'a text, or its singular and plural: ("child", "children")')
        singular, plural = (_redact_unit(form) for form in value)
        return singular, plural
    unit = _redact_unit(value)
    return unit, pluralize(unit)


def _redact_unit(unit: object) -> str:
    return redaction.redact_name(truncate(unit, MAX_UNIT_CHARACTERS))


# --- metadata ------------------------------------------------------------------------------------


def normalize_metadata(raw: Mapping[str, object]) -> dict[str, MetadataValue]:
    """Return redacted metadata with values of OpenTelemetry attribute types.

    Values of other types are converted with ``str()`` and truncated.
    """
    metadata = {
        truncate(key, MAX_METADATA_KEY_CHARACTERS): _normalize_value(value) for key, value in raw.items()
    }
    redactor = redaction.redactor_slot.current
    return metadata if redactor is None else redactor.redact_metadata(metadata)


def _normalize_value(value: object) -> MetadataValue:
    try:
        return _to_attribute(value)
    except Exception as failure:  # A foreign value may raise any exception when it is read.
        if is_interrupt(failure):
            raise
        return f"<{type(value).__name__}>"


def _to_attribute(value: object) -> MetadataValue:
    kind = type(value)
    if kind is str:
        return truncate(value)
    if kind is bool:
        return value  # type: ignore[return-value]
    if kind is int:
        return value if -_MAX_INT <= value <= _MAX_INT else truncate(value, 64)  # type: ignore[operator, return-value]
    if kind is float:
        return value if math.isfinite(value) else str(value)  # type: ignore[arg-type, return-value]
    if isinstance(value, Enum):
        return truncate(value.value)
    if isinstance(value, (list, tuple)):
        return _to_sequence(value)
    scalar = getattr(value, "item", None)  # of numpy scalars and zero-dimensional tensors
    if callable(scalar):
        try:
            plain = scalar()
        except Exception as failure:
            if is_interrupt(failure):
                raise
            return truncate(value)
        if type(plain) in (bool, int, float, str):
            return _to_attribute(plain)
    return truncate(value)


def _to_sequence(values: list[object] | tuple[object, ...]) -> MetadataValue:
    """Return elements of one attribute type.

    Elements of several types are converted to text.
    """
    elements = [_to_attribute(value) for value in values[:MAX_SEQUENCE_ELEMENTS]]
    kinds = {type(element) for element in elements}
    if len(kinds) == 1 and kinds <= {str, bool, int, float}:
        return tuple(elements)  # type: ignore[return-value]
    return tuple(truncate(element) for element in elements)


# --- outcomes ------------------------------------------------------------------------------------


def parse_outcome(value: object) -> Outcome | Rejection:
    """Return an outcome from an Outcome or its text."""
    try:
        return Outcome(value)
    except Exception as failure:  # The value is not an outcome, or its comparison raised.
        if is_interrupt(failure):
            raise
        text = f"Invalid outcome {_quote(value)}: expected 'completed', 'failed' or 'skipped'."
        return Rejection("outcome", text)


# --- checkpoints ---------------------------------------------------------------------------------


def parse_checkpoint(value: object) -> str | Rejection:
    """Return the JSON text of a checkpoint."""
    expected = f"expected JSON of at most {MAX_CHECKPOINT_BYTES} bytes"
    fix = "Store the data in a file, and its name in the checkpoint."
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except Exception as failure:  # Not JSON, too deep, a lone surrogate, or a foreign value raised.
        if is_interrupt(failure):
            raise
        message = f"Invalid checkpoint {_quote(value)}: {expected} ({type(failure).__name__}). {fix}"
        return Rejection("checkpoint", message, isinstance(failure, TypeError))
    if size > MAX_CHECKPOINT_BYTES:
        return Rejection("checkpoint", f"Invalid checkpoint of {size} bytes: {expected}. {fix}")
    return text


# --- arguments of a level ------------------------------------------------------------------------


class LevelArguments(NamedTuple):
    """Arguments of a level as the caller passed them.

    They are normalised when the level starts. The kind ``remote`` is a level of another process,
    whose :class:`~otel_progress.propagation.remote.RemoteReference` is the ``id``. Its ``name`` is
    the reference of the pickled handle.

    ``batch`` is the id of a batch, or a function that returns it. ``eta_key`` is a text, metadata
    keys, or the caller of ``track``.
    """

    kind: Literal["operation", "level", "stage", "remote"]
    type: object
    id: object = None
    name: object = None
    total: object = None
    unit: object = None
    weight: object = None
    deadline: object = None
    stages: Any = None
    metadata: Mapping[str, object] = NO_METADATA
    batch: object = None
    eta_key: object = None
    scope: str = SCOPE


make_level_arguments: Final = cast(
    "Callable[[tuple[object, ...]], LevelArguments]", partial(tuple.__new__, LevelArguments)
)
"""Make LevelArguments from a tuple of all fields, in half the time of calling the class."""


class ResumingArguments(LevelArguments):
    """Arguments of an operation that continues its newest run.

    Why a type and not a field: all other starts of levels do not need to check it.
    """

    __slots__ = ()


make_resuming_arguments: Final = cast(
    "Callable[[tuple[object, ...]], ResumingArguments]", partial(tuple.__new__, ResumingArguments)
)
"""Make ResumingArguments from a tuple of all fields."""


class RelayedArguments(LevelArguments):
    """Arguments of an operation whose run another process has announced or repeats.

    ``run`` is the run. ``sequence`` is lower than all sequence numbers of this process, and
    ``attempt`` is the number of the attempt, from 1.
    """

    run: str
    sequence: int
    attempt: int


_NO_ARGUMENTS: Final = (None,) * 7
"""Arguments from ``id`` to ``stages`` of a level that has only a type."""


_make_spec: Final = cast("Callable[[tuple[object, ...]], Spec]", partial(tuple.__new__, Spec))


def normalize_arguments(
    backend: RecordingBackend, arguments: LevelArguments, parent: Node | None = None
) -> Spec:
    """Return the normalised arguments. Invalid values are rejected and left out."""
    kind, type_, id_, name, total, unit, weight, deadline, stages, metadata, batch, eta_key, _ = arguments
    level_type = semconv.STAGE if kind == "stage" else redaction.redact_id(normalize_id(type_)) or "level"
    if parent is not None and kind == "level" and not metadata and arguments[2:9] == _NO_ARGUMENTS:
        # Why: the most common case, in a third of the time.
        return _make_spec(
            (level_type, None, None, None, None, 1, None, None, NO_METADATA, None, None, None, None)
        )
    normalized_metadata = normalize_metadata(metadata) if metadata else NO_METADATA
    counted_unit, unit_plural = _accept_unit(
        backend, unit, counts_stages=stages is not None and total is None
    )
    return _make_spec(
        (
            level_type,
            None if id_ is None else _accept_id(backend, id_),
            None if name is None else redaction.redact_name(truncate(name, MAX_NAME)),
            None if total is None else _accept_number(backend, total, "total"),
            counted_unit,
            1 if weight is None else _accept_weight(backend, weight),
            None if deadline is None else _accept_deadline(backend, deadline),
            None if stages is None else _accept_stages(backend, stages),
            normalized_metadata,
            None if parent is not None else _resolve_batch(backend, batch),
            None
            if eta_key is None or parent is not None
            else _accept_eta_key(backend, eta_key, normalized_metadata),
            unit_plural,
            None,
        )
    )


def _accept_id(backend: RecordingBackend, id_: object) -> str | None:
    """Return a normalised id. Reject an empty one, which a generated id replaces."""
    if type(id_) is int and -_MAX_INT < id_ < _MAX_INT:
        return str(id_)
    normalized_id = normalize_id(id_)
    if not normalized_id:
        text = "Invalid id '': expected at least one character. A generated id is used."
        backend.reject(Rejection("id", text))
    return redaction.redact_id(normalized_id) or None


def _accept_unit(
    backend: RecordingBackend, unit: object, *, counts_stages: bool
) -> tuple[str | None, str | None]:
    """Return the singular and plural of a unit, None without a unit."""
    if unit is None:
        return (semconv.STAGE, pluralize(semconv.STAGE)) if counts_stages else (None, None)
    parsed = parse_unit(unit)
    if isinstance(parsed, Rejection):
        backend.reject(parsed)
        return None, None
    return parsed


def _accept_number(backend: RecordingBackend, value: object, quantity: str) -> Number | None:
    if type(value) is int and 0 <= value < 2**63:
        return value
    return _accept_or_reject(backend, parse_number(value, quantity))


def _accept_weight(backend: RecordingBackend, weight: object) -> Number:
    number = _accept_number(backend, weight, "weight")
    return 1 if number is None else number


def _accept_deadline(backend: RecordingBackend, deadline: object) -> Number | None:
    return _accept_or_reject(backend, parse_deadline(deadline, backend.store.now()))


def _accept_or_reject(backend: RecordingBackend, value: Number | Rejection | None) -> Number | None:
    if isinstance(value, Rejection):
        backend.reject(value)
        return None
    return value


def _accept_stages(backend: RecordingBackend, stages: Any) -> Stages | None:
    try:
        return to_stages(stages)
    except (ProgressError, TypeError) as error:
        backend.reject(Rejection("stages", str(error), isinstance(error, TypeError)))
        return None


def _resolve_batch(backend: RecordingBackend, batch: object) -> str | None:
    """Return the batch id of an operation: the given one, else that of the context."""
    if batch is None:
        return get_current_batch()
    if callable(batch):
        return cast("str | None", batch())
    batch_id = parse_batch_id(batch)
    if isinstance(batch_id, Rejection):
        backend.reject(batch_id)
        return None
    return batch_id


def parse_batch_id(value: object) -> str | Rejection:
    """Return the id of a batch."""
    return redaction.redact_id(normalize_id(value)) or Rejection(
        "batch", "Invalid batch id '': expected a text that is not empty. Leave it out to generate an id."
    )


def _accept_eta_key(
    backend: RecordingBackend, eta_key: object, metadata: Mapping[str, MetadataValue]
) -> str | None:
    if isinstance(eta_key, Caller):
        return normalize_id(f"{backend.store.get_history_scope()},caller={describe_caller(eta_key)}")
    resolved = resolve_eta_key(eta_key, metadata)
    if isinstance(resolved, Rejection):
        backend.reject(resolved)
        return None
    if isinstance(eta_key, str):
        return resolved
    # Why: metadata keys such as "size" are common, so another program may use them as well.
    return normalize_id(f"{backend.store.get_history_scope()},{resolved}")


def resolve_eta_key(value: object, metadata: Mapping[str, MetadataValue]) -> str | Rejection:
    """Return the name of a group of runs.

    A text is the name. For metadata keys the name is ``key=value,…``, with an empty value for a
    key that the metadata does not have.
    """
    if isinstance(value, str):
        return redaction.redact_id(normalize_id(value))
    if isinstance(value, (list, tuple)) and value and all(isinstance(key, str) for key in value):
        return normalize_id(",".join(f"{key}={metadata.get(key, '')}" for key in value))
    text = f"Invalid eta_key {_quote(value)}: expected a text or a list of metadata keys."
    return Rejection("eta_key", text, is_wrong_type=True)


def _reject_type(quantity: str, value: object, expected: str) -> Rejection:
    return Rejection("type", f"Invalid {quantity} {_quote(value)}: expected {expected}.", is_wrong_type=True)


def _quote(value: object) -> str:
    try:
        return truncate(repr(value), _MAX_QUOTED_CHARACTERS)
    except Exception as failure:  # A foreign __repr__ may raise any exception.
        if is_interrupt(failure):
            raise
        return f"a {type(value).__name__}"
