"""From whatever a caller passes to clean values: numbers, metadata, deadlines, errors. Nothing here raises.

Each function returns the clean value, or a :class:`Bad` that says what was wrong, what was expected, and the fix.
"""

from __future__ import annotations

import math
import operator
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast

from opentelemetry import context as context_api

from otel_progress import redaction, semconv
from otel_progress.errors import ProgressError
from otel_progress.instrument.backend import BATCH_KEY, RecordingBackend
from otel_progress.live.node import Node, Spec
from otel_progress.model import NO_METADATA, Failure, MetadataValue, Number, Outcome
from otel_progress.stages import Stages, as_stages
from otel_progress.text import MAX_DETAILS, normalize_id, truncate

MAX_METADATA: Final = 128
"""Metadata keys a level can have; more are refused."""


_MAX_SEQUENCE: Final = 64


_MAX_INT: Final = 2**63 - 1


ErrorLike: TypeAlias = "BaseException | Failure | str"
"""What can say why something failed."""


DeadlineLike: TypeAlias = "float | int | timedelta | datetime"
"""Seconds from now, a duration from now, or a moment (naive ones are local time)."""


EtaKey: TypeAlias = "str | list[str] | tuple[str, ...]"
"""A bucket of runs that learn from each other: its name, or the keys of the metadata whose values make it."""


class Rejection(NamedTuple):
    """A refused value: the reason for the counter, the text for people, and whether its type was wrong."""

    reason: str
    text: str
    wrong_type: bool = False


def parse_number(value: object, what: str) -> Number | Rejection:
    """Return a finite number of at least 0; integers of other libraries become int, other numbers float."""
    kind = type(value)
    if kind is int or kind is float:
        plain: Number = value  # type: ignore[assignment]
    elif isinstance(value, (bool, str, bytes)) or value is None:
        return Rejection(
            "type", f"{what} must be a number of at least 0, not {_quoted(value)}", wrong_type=True
        )
    else:
        try:
            plain = operator.index(value)  # type: ignore[arg-type]
        except Exception:  # foreign __index__ and __float__ may do anything
            try:
                plain = float(value)  # type: ignore[arg-type]
            except Exception:
                return Rejection(
                    "type", f"{what} must be a number of at least 0, not {_quoted(value)}", wrong_type=True
                )
    if plain < 0:
        return Rejection("negative", f"{what} must be at least 0, not {_quoted(plain)}")
    if plain > _MAX_INT or plain != plain:
        return Rejection("not_finite", f"{what} must be a finite number below 2**63, not {_quoted(plain)}")
    return plain


def normalize_metadata(raw: Mapping[str, object]) -> dict[str, MetadataValue]:
    """Return metadata as OpenTelemetry attribute values, redacted; what is no such value becomes its text, cut."""
    clean = {truncate(key, 128): _shielded(value) for key, value in raw.items()}
    rules = redaction.redactor_slot.current
    return clean if rules is None else rules.metadata(clean)


def _shielded(value: object) -> MetadataValue:
    try:
        return _attribute(value)
    except Exception:  # foreign values may do anything when they are looked at
        return f"<{type(value).__name__}>"


def _attribute(value: object) -> MetadataValue:
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
        return _sequence(value)
    scalar = getattr(value, "item", None)  # numpy scalars and zero-dimensional tensors
    if callable(scalar):
        try:
            plain = scalar()
        except Exception:
            return truncate(value)
        if type(plain) in (bool, int, float, str):
            return _attribute(plain)
    return truncate(value)


def _sequence(values: list[object] | tuple[object, ...]) -> MetadataValue:
    """Attribute sequences are of one type; anything else becomes texts."""
    clean = [_attribute(value) for value in values[:_MAX_SEQUENCE]]
    kinds = {type(value) for value in clean}
    if len(kinds) == 1 and kinds <= {str, bool, int, float}:
        return tuple(clean)  # type: ignore[return-value]
    return tuple(truncate(value) for value in clean)


def resolve_eta_key(value: object, metadata: Mapping[str, MetadataValue]) -> str | Rejection:
    """Return the name of a bucket of runs: a text as it is, or the values of the metadata keys given, as ``key=value,…``.

    A key that the metadata does not have counts as one without a value.
    """
    if isinstance(value, str):
        return normalize_id(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(key, str) for key in value):
        return normalize_id(",".join(f"{key}={metadata.get(key, '')}" for key in value))
    return Rejection(
        "eta_key", f"eta_key must be a text or a list of metadata keys, not {_quoted(value)}", wrong_type=True
    )


def parse_deadline(value: object, now: float) -> float | Rejection | None:
    """Return the moment (Unix seconds) of a deadline given as seconds from now, timedelta or datetime."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return _moment(value)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    clean = parse_number(seconds, "deadline (seconds from now, timedelta or datetime)")
    return clean if isinstance(clean, Rejection) else now + clean


def _moment(value: datetime) -> float | Rejection:
    try:
        return value.timestamp()
    except Exception:  # before or beyond what the system's clock can say, or a foreign time zone
        return Rejection(
            "type", f"deadline must be a moment this system can tell, not {_quoted(value)}", wrong_type=True
        )


def parse_outcome(value: object) -> Outcome | Rejection:
    """Return how an item ended, from an Outcome or its text."""
    try:
        return Outcome(value)
    except Exception:  # no outcome, or something that cannot even be compared with one
        return Rejection(
            "outcome", f"outcome must be 'completed', 'failed' or 'skipped', not {_quoted(value)}"
        )


def to_failure(error: object) -> Failure:
    """Return why something failed, redacted, from an exception (with its traceback, the end of it), a Failure or a text."""
    if isinstance(error, Failure):
        return _failure(
            error.type, error.message, None if error.details is None else truncate(error.details, MAX_DETAILS)
        )
    if isinstance(error, BaseException):
        return _failure(qualified_type_name(error), error, format_traceback(error))
    return _failure("error", "" if error is None else error, None)


def _failure(kind: str, message: object, details: str | None) -> Failure:
    clean = None if details is None else redaction.redact_value("details", details, MAX_DETAILS)
    return Failure(normalize_id(kind), redaction.redact_value("error", truncate(message)), clean)


def qualified_type_name(error: BaseException) -> str:
    """Return the qualified class name of an exception, without ``builtins``: the value of ``error.type``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def format_traceback(error: BaseException) -> str | None:
    """Return the end of an exception's traceback, None when it cannot be told."""
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-16))
    except Exception:  # foreign __str__ and __repr__ are called in there
        return None
    return truncate(text[-MAX_DETAILS:], MAX_DETAILS)


def total_exceeded(node: Node, current: Number) -> Rejection:
    """Say that ``current`` is more than the node's total."""
    return Rejection(
        "beyond_total",
        f"current must be at most the total {node.total}, not {current}; raise it with set_total()",
    )


def _quoted(value: object) -> str:
    try:
        return truncate(repr(value), 64)
    except Exception:
        return f"a {type(value).__name__}"


SCOPE: Final = "otel_progress"
"""Instrumentation scope of the module-level helpers."""


class LevelArguments(NamedTuple):
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


make_level_arguments: Final = cast(
    "Callable[[tuple[object, ...]], LevelArguments]", partial(tuple.__new__, LevelArguments)
)
"""Make a Request from a tuple of all its fields: half the time of calling the class, at the start of every level."""


_NOTHING_GIVEN: Final = (None,) * 7
"""What a level was given that has a type and nothing else: no id, name, total, unit, weight, deadline or stages."""


_make_spec: Final = cast("Callable[[tuple[object, ...]], Spec]", partial(tuple.__new__, Spec))


def normalize_arguments(
    recording: RecordingBackend, request: LevelArguments, parent: Node | None = None
) -> Spec:
    """Return the request with every value cleaned; what cannot be used is refused and left out."""
    what, type_, id_, name, total, unit, weight, deadline, stages, metadata, batch, eta_key, _ = request
    if parent is not None and what == "level" and not metadata and request[2:9] == _NOTHING_GIVEN:
        return _make_spec(
            (normalize_id(type_) or "level", None, None, None, None, 1, None, None, NO_METADATA, None, None)
        )
    kept = normalize_metadata(metadata) if metadata else NO_METADATA
    if deadline is not None:
        deadline = _value_or_none(recording, parse_deadline(deadline, recording.store.now()))
    return _make_spec(
        (
            semconv.STAGE if what == "stage" else normalize_id(type_) or "level",
            None if id_ is None else normalize_id(id_),
            None if name is None else truncate(name, 256),
            None if total is None else _number_or_none(recording, total, "the total"),
            truncate(unit, 64)
            if unit is not None
            else (semconv.STAGE if stages is not None and total is None else None),
            1 if weight is None else _weight(recording, weight),
            deadline,
            None if stages is None else _stages(recording, stages),
            kept,
            None if parent is not None else _resolve_batch(recording, batch),
            None if eta_key is None else _eta_key_or_none(recording, eta_key, kept),
        )
    )


def _resolve_batch(recording: RecordingBackend, given: object) -> str | None:
    """Return the id of the batch an operation belongs to: the one it names, else the one whose context it begins in."""
    if given is None:
        return cast("str | None", context_api.get_value(BATCH_KEY))
    if callable(given):
        return cast("str | None", given())
    clean = parse_batch_id(given)
    if isinstance(clean, Rejection):
        recording.reject_value(clean.reason, clean.text)
        return None
    return clean


def parse_batch_id(value: object) -> str | Rejection:
    """Return the id of a batch."""
    return normalize_id(value) or Rejection(
        "batch", "the id of a batch must not be empty; leave it out to have one made"
    )


def _eta_key_or_none(
    recording: RecordingBackend, eta_key: object, metadata: Mapping[str, MetadataValue]
) -> str | None:
    """Return the bucket of runs that an operation learns from."""
    clean = resolve_eta_key(eta_key, metadata)
    if isinstance(clean, Rejection):
        recording.reject_value(clean.reason, clean.text, of_type=clean.wrong_type)
        return None
    return clean


def _stages(recording: RecordingBackend, stages: Any) -> Stages | None:
    try:
        return as_stages(stages)
    except (ProgressError, TypeError) as error:
        recording.reject_value("stages", str(error), of_type=isinstance(error, TypeError))
        return None


def _weight(recording: RecordingBackend, weight: object) -> Number:
    clean = _number_or_none(recording, weight, "weight")
    return 1 if clean is None else clean


def _number_or_none(recording: RecordingBackend, value: object, what: str) -> Number | None:
    if type(value) is int and 0 <= value < 2**63:
        return value
    return _value_or_none(recording, parse_number(value, what))


def _value_or_none(recording: RecordingBackend, value: Number | Rejection | None) -> Number | None:
    if isinstance(value, Rejection):
        recording.reject_value(value.reason, value.text, of_type=value.wrong_type)
        return None
    return value


def parse_expected_seconds(expected: object) -> float | Rejection | None:
    """Return how long an opaque step is expected to take: a number of seconds above 0, or a timedelta."""
    if expected is None:
        return None
    given = expected.total_seconds() if isinstance(expected, timedelta) else expected
    clean = parse_number(given, "the expected time of an opaque step (seconds or timedelta)")
    if isinstance(clean, Rejection):
        return clean
    if clean == 0:
        return Rejection(
            "expected",
            "the expected time of an opaque step must be more than 0 s; leave it out when nothing is known",
        )
    return float(clean)
