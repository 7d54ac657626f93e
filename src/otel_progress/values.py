"""From whatever a caller passes to clean values: numbers, metadata, deadlines, errors. Nothing here raises.

Each function returns the clean value, or a :class:`Bad` that says what was wrong, what was expected, and the fix.
"""

from __future__ import annotations

import math
import operator
import traceback
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from otel_progress import redaction
from otel_progress.model import Failure, MetadataValue, Number, Outcome
from otel_progress.text import MAX_DETAILS, cut, identifier

if TYPE_CHECKING:
    from otel_progress.live.node import Node

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


class Bad(NamedTuple):
    """A refused value: the reason for the counter, the text for people, and whether its type was wrong."""

    reason: str
    text: str
    of_type: bool = False


def number(value: object, what: str) -> Number | Bad:
    """Return a finite number of at least 0; integers of other libraries become int, other numbers float."""
    kind = type(value)
    if kind is int or kind is float:
        plain: Number = value  # type: ignore[assignment]
    elif isinstance(value, (bool, str, bytes)) or value is None:
        return Bad("type", f"{what} must be a number of at least 0, not {_show(value)}", of_type=True)
    else:
        try:
            plain = operator.index(value)  # type: ignore[arg-type]
        except Exception:  # foreign __index__ and __float__ may do anything
            try:
                plain = float(value)  # type: ignore[arg-type]
            except Exception:
                return Bad("type", f"{what} must be a number of at least 0, not {_show(value)}", of_type=True)
    if plain < 0:
        return Bad("negative", f"{what} must be at least 0, not {_show(plain)}")
    if plain > _MAX_INT or plain != plain:
        return Bad("not_finite", f"{what} must be a finite number below 2**63, not {_show(plain)}")
    return plain


def metadata(raw: Mapping[str, object]) -> dict[str, MetadataValue]:
    """Return metadata as OpenTelemetry attribute values, redacted; what is no such value becomes its text, cut."""
    clean = {cut(key, 128): _shielded(value) for key, value in raw.items()}
    rules = redaction.slot.active
    return clean if rules is None else rules.metadata(clean)


def _shielded(value: object) -> MetadataValue:
    try:
        return _attribute(value)
    except Exception:  # foreign values may do anything when they are looked at
        return f"<{type(value).__name__}>"


def _attribute(value: object) -> MetadataValue:
    kind = type(value)
    if kind is str:
        return cut(value)
    if kind is bool:
        return value  # type: ignore[return-value]
    if kind is int:
        return value if -_MAX_INT <= value <= _MAX_INT else cut(value, 64)  # type: ignore[operator, return-value]
    if kind is float:
        return value if math.isfinite(value) else str(value)  # type: ignore[arg-type, return-value]
    if isinstance(value, Enum):
        return cut(value.value)
    if isinstance(value, (list, tuple)):
        return _sequence(value)
    scalar = getattr(value, "item", None)  # numpy scalars and zero-dimensional tensors
    if callable(scalar):
        try:
            plain = scalar()
        except Exception:
            return cut(value)
        if type(plain) in (bool, int, float, str):
            return _attribute(plain)
    return cut(value)


def _sequence(values: list[object] | tuple[object, ...]) -> MetadataValue:
    """Attribute sequences are of one type; anything else becomes texts."""
    clean = [_attribute(value) for value in values[:_MAX_SEQUENCE]]
    kinds = {type(value) for value in clean}
    if len(kinds) == 1 and kinds <= {str, bool, int, float}:
        return tuple(clean)  # type: ignore[return-value]
    return tuple(cut(value) for value in clean)


def bucket(value: object, metadata: Mapping[str, MetadataValue]) -> str | Bad:
    """Return the name of a bucket of runs: a text as it is, or the values of the metadata keys given, as ``key=value,…``.

    A key that the metadata does not have counts as one without a value.
    """
    if isinstance(value, str):
        return identifier(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(key, str) for key in value):
        return identifier(",".join(f"{key}={metadata.get(key, '')}" for key in value))
    return Bad("eta_key", f"eta_key must be a text or a list of metadata keys, not {_show(value)}", of_type=True)


def deadline(value: object, now: float) -> float | Bad | None:
    """Return the moment (Unix seconds) of a deadline given as seconds from now, timedelta or datetime."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return _moment(value)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    clean = number(seconds, "deadline (seconds from now, timedelta or datetime)")
    return clean if isinstance(clean, Bad) else now + clean


def _moment(value: datetime) -> float | Bad:
    try:
        return value.timestamp()
    except Exception:  # before or beyond what the system's clock can say, or a foreign time zone
        return Bad("type", f"deadline must be a moment this system can tell, not {_show(value)}", of_type=True)


def outcome(value: object) -> Outcome | Bad:
    """Return how an item ended, from an Outcome or its text."""
    try:
        return Outcome(value)
    except Exception:  # no outcome, or something that cannot even be compared with one
        return Bad("outcome", f"outcome must be 'completed', 'failed' or 'skipped', not {_show(value)}")


def failure(error: object) -> Failure:
    """Return why something failed, redacted, from an exception (with its traceback, the end of it), a Failure or a text."""
    if isinstance(error, Failure):
        return _failure(error.type, error.message, None if error.details is None else cut(error.details, MAX_DETAILS))
    if isinstance(error, BaseException):
        return _failure(exception_type(error), error, details(error))
    return _failure("error", "" if error is None else error, None)


def _failure(kind: str, message: object, details: str | None) -> Failure:
    clean = None if details is None else redaction.text("details", details, MAX_DETAILS)
    return Failure(identifier(kind), redaction.text("error", cut(message)), clean)


def exception_type(error: BaseException) -> str:
    """Return the qualified class name of an exception, without ``builtins``: the value of ``error.type``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def details(error: BaseException) -> str | None:
    """Return the end of an exception's traceback, None when it cannot be told."""
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-16))
    except Exception:  # foreign __str__ and __repr__ are called in there
        return None
    return cut(text[-MAX_DETAILS:], MAX_DETAILS)


def beyond(node: Node, current: Number) -> Bad:
    """Say that ``current`` is more than the node's total."""
    return Bad("beyond_total", f"current must be at most the total {node.total}, not {current}; raise it with set_total()")


def _show(value: object) -> str:
    try:
        return cut(repr(value), 64)
    except Exception:
        return f"a {type(value).__name__}"
