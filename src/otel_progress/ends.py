"""Codec of ended operations in the form in which they wait in queues and files.

A record is one line of ASCII JSON: the values of LevelInfo, and those of LevelSnapshot without an
estimate. Values are stored by position, and defaults at the end are left out. Both dataclasses only
append fields, so records of older and newer versions can be decoded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from otel_progress.construction import compile_constructor
from otel_progress.model import (
    NO_METADATA,
    Failure,
    LevelCounts,
    LevelInfo,
    LevelSnapshot,
    MetadataValue,
    ParentLink,
    Status,
)

DECODE_ERRORS: Final = (ValueError, KeyError, TypeError, RecursionError)
"""Exceptions that decoding an invalid record may raise."""


_INFO: Final = fields(LevelInfo)


_STATE: Final = fields(LevelSnapshot)[1:]


_get_info: Final[Callable[[LevelInfo], tuple[Any, ...]]] = attrgetter(*(field.name for field in _INFO))


_get_state: Final[Callable[[LevelSnapshot], tuple[Any, ...]]] = attrgetter(*(field.name for field in _STATE))


_PARENT: Final = [field.name for field in _INFO].index("parent")


_IS_ID_GIVEN: Final = [field.name for field in _INFO].index("is_id_given")


_INFO_DEFAULTS: Final = tuple(field.default for field in _INFO)


_STATE_DEFAULTS: Final = tuple(field.default for field in _STATE)


_STATUS: Final = [field.name for field in _STATE].index("status")


_METADATA: Final = [field.name for field in _STATE].index("metadata")


_ERROR: Final = [field.name for field in _STATE].index("error")


_ETA: Final = [field.name for field in _STATE].index("eta")


_ENDED_LEVELS: Final = [field.name for field in _STATE].index("ended_levels")


_construct_info: Final = compile_constructor(LevelInfo)


_construct_snapshot: Final = compile_constructor(LevelSnapshot)


# Why ASCII: escapes keep lone surrogates. NaN and infinities are kept as well.
_encode: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode


_decode: Final = json.JSONDecoder().decode


def encode_end(snapshot: LevelSnapshot) -> bytes:
    """Return the record of an ended operation."""
    info = list(_get_info(snapshot.info))
    # Why: only the start of an operation uses it.
    info[_IS_ID_GIVEN] = False
    state = list(_get_state(snapshot))
    state[_STATUS] = snapshot.status.value
    state[_METADATA] = dict(snapshot.metadata) if snapshot.metadata else None
    error = snapshot.error
    state[_ERROR] = None if error is None else (error.type, error.message, error.details)
    state[_ETA] = None
    _drop_defaults(info, _INFO_DEFAULTS)
    _drop_defaults(state, _STATE_DEFAULTS)
    return _encode((info, state)).encode("ascii")


def decode_end(record: bytes) -> LevelSnapshot:
    """Return the ended operation of a record. Raises one of DECODE_ERRORS."""
    info, state = _decode(record.decode("ascii"))
    infos = [*info[: len(_INFO)], *_INFO_DEFAULTS[len(info) :]]
    values = [*state[: len(_STATE)], *_STATE_DEFAULTS[len(state) :]]
    if MISSING in infos or MISSING in values:
        raise ValueError(record)
    infos[_PARENT] = None if infos[_PARENT] is None else ParentLink(*infos[_PARENT])
    values[_STATUS] = Status(values[_STATUS])
    values[_METADATA] = _decode_metadata(values[_METADATA])
    values[_ERROR] = None if values[_ERROR] is None else Failure(*values[_ERROR])
    values[_ENDED_LEVELS] = LevelCounts(*values[_ENDED_LEVELS])
    return _construct_snapshot(_construct_info(*infos), *values)


def is_end(snapshot: LevelSnapshot) -> bool:
    """Return True for the snapshot of an operation that has ended."""
    return not snapshot.info.path and snapshot.status.finished


def _drop_defaults(values: list[Any], defaults: tuple[Any, ...]) -> None:
    while values and defaults[len(values) - 1] is not MISSING and values[-1] == defaults[len(values) - 1]:
        values.pop()


def _decode_metadata(values: dict[str, Any] | None) -> Mapping[str, MetadataValue]:
    if not values:
        return NO_METADATA
    return MappingProxyType(
        {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )
