"""Decoders of the JSON columns of a journal, with caches.

Other processes, perhaps of another version, wrote these values. So NaN and infinities become None,
and lone surrogates become "?". An invalid record raises one of DECODE_ERRORS. Decoded texts are
cached, because the same ones are read repeatedly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_args, get_type_hints

from otel_progress import codec
from otel_progress.model import (
    NO_METADATA,
    Eta,
    Failure,
    LevelCounts,
    LevelInfo,
    LevelSnapshot,
    MetadataValue,
)
from otel_progress.records import ResourceSample, ResourceUse

DECODE_ERRORS: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""Exceptions that decoding an invalid row may raise."""


ETA: Final = (
    "remaining_s",
    "low_s",
    "high_s",
    "state",
    "basis",
    "runs",
    "clock",
    "counts_down_s",
    "stalls_after_s",
)
"""Order of an estimate in its array. Schema versions before 3 do not have the last two."""


_OPTIONAL_FIELDS: Final = tuple(field for field in fields(LevelSnapshot) if field.default is not MISSING)


EXTRA: Final = tuple(field.name for field in _OPTIONAL_FIELDS)
"""Order of a snapshot's optional fields in its array.

An array of an older version is shorter. The missing values are the defaults.
"""


NO_EXTRA: Final[tuple[Any, ...]] = tuple(field.default for field in _OPTIONAL_FIELDS)
"""Defaults of the optional fields. A level that has only defaults has no array."""


SAMPLE: Final = ("at", "clock", "cpu_ratio", "memory_bytes", "gpu_ratio", "gpu_memory_bytes")
"""Order of a sample in columns and in an array."""


USE: Final = (
    "samples",
    "cpu_mean",
    "cpu_peak",
    "memory_mean",
    "memory_peak",
    "gpu_mean",
    "gpu_peak",
    "gpu_memory_peak",
)
"""Order of the resource use of an operation, after its last sample."""


NUMBER: Final = frozenset({int, float})


NUMBER_OR_NONE: Final = NUMBER | {type(None)}


TEXT_OR_NONE: Final = frozenset({str, type(None)})


_MAX_CACHED_TEXTS: Final = 8192
"""Texts per decoder. The least recently used ones are evicted."""


_MAX_CACHED_CHARS: Final = 4096
"""Longer texts are decoded each time, which limits the cache to some tens of MiB."""


_Value = TypeVar("_Value")


def _parse_float(text: str) -> float | None:
    # 1e999 is valid JSON, and infinite.
    return codec.finite(float(text))


def _parse_constant(constant: str) -> None:
    """Return None for ``NaN``, ``Infinity`` and ``-Infinity``."""


# Why one decoder: json.loads creates a new one for each call with an option.
_decode: Final = json.JSONDecoder(parse_float=_parse_float, parse_constant=_parse_constant).decode


def _cached(decode: Callable[[str], _Value]) -> Callable[[str], _Value]:
    decode_cached = lru_cache(maxsize=_MAX_CACHED_TEXTS)(decode)

    def decode_column(text: str) -> _Value:
        return decode_cached(text) if len(text) <= _MAX_CACHED_CHARS else decode(text)

    return decode_column


def _decode_info(text: str) -> LevelInfo:
    info = codec.decode_info(_decode_object(text))
    strings = (
        info.operation_id,
        info.operation_type,
        info.run,
        info.path,
        info.type,
        info.id,
        info.name,
        info.instance,
    )
    numbers = {type(info.weight), type(info.attempt), type(info.order)}
    maybe = {type(info.started_at), type(info.started_clock), type(info.deadline_at)}
    texts = {
        type(info.unit),
        type(info.unit_plural),
        type(info.trace_id),
        type(info.span_id),
        type(info.batch),
    }
    if {type(value) for value in strings} != {str} or type(info.declared) is not bool:
        raise TypeError(text)
    if not (numbers <= NUMBER and maybe <= NUMBER_OR_NONE and texts <= TEXT_OR_NONE):
        raise TypeError(text)
    return info


def _decode_metadata(text: str) -> Mapping[str, MetadataValue]:
    known = {
        key: value
        for key, value in codec.decode_metadata(_decode_object(text)).items()
        if _is_valid_value(value)
    }
    return MappingProxyType(known) if known else NO_METADATA


def _is_valid_value(value: object) -> bool:
    return value is not None and not (isinstance(value, tuple) and None in value)


def _decode_failure(text: str) -> Failure:
    failure = codec.decode_failure(_decode_object(text))
    if (
        failure is None
        or {type(failure.type), type(failure.message)} != {str}
        or type(failure.details) not in TEXT_OR_NONE
    ):
        raise TypeError(text)
    return failure


def _decode_eta(text: str) -> Eta:
    eta = Eta(*_decode(text)[: len(ETA)])
    if (
        not {type(eta.remaining_s), type(eta.low_s), type(eta.high_s)} <= NUMBER_OR_NONE
        or type(eta.clock) not in NUMBER
    ):
        raise TypeError(text)
    if {type(eta.state), type(eta.basis)} != {str} or type(eta.runs) is not int:
        raise TypeError(text)
    if not {type(eta.counts_down_s), type(eta.stalls_after_s)} <= NUMBER_OR_NONE:
        raise TypeError(text)
    return eta


def _get_optional_field_types() -> tuple[frozenset[type], ...]:
    hints = get_type_hints(LevelSnapshot)
    return tuple(frozenset(get_args(hints[name]) or (hints[name],)) for name in EXTRA)


_EXTRA_TYPES: Final = _get_optional_field_types()


def _decode_extra(text: str) -> tuple[Any, ...]:
    values: list[Any] = list(_decode(text)[: len(EXTRA)])
    values += NO_EXTRA[len(values) :]
    return tuple(map(_check_extra_value, values, _EXTRA_TYPES, NO_EXTRA))


def _check_extra_value(value: Any, types: frozenset[type], default: Any) -> Any:
    """Return a value of an optional field.

    Unknown numbers become the default, and numbers are at least 0. Raises TypeError or ValueError
    for other values.
    """
    if value is None:
        return default
    if LevelCounts in types:
        return codec.check_level_counts(LevelCounts(*value))
    if type(value) not in types and not (float in types and type(value) is int):
        raise TypeError(value)
    return max(0, value) if int in types else value


def _decode_use(text: str) -> ResourceUse:
    values = _decode(text)
    use = ResourceUse(
        decode_sample_values(values[: len(SAMPLE)]), *values[len(SAMPLE) : len(SAMPLE) + len(USE)]
    )
    maybe = {type(use.gpu_mean), type(use.gpu_peak), type(use.gpu_memory_peak)}
    if not {type(getattr(use, name)) for name in USE[:5]} <= NUMBER or not maybe <= NUMBER_OR_NONE:
        raise TypeError(text)
    return use


def decode_sample_values(values: Any) -> ResourceSample:
    """Return the sample of values in the order of SAMPLE."""
    sample = ResourceSample(*values)
    known = (sample.at, sample.clock, sample.cpu_ratio, sample.memory_bytes)
    if not {type(value) for value in known} <= NUMBER or not all(map(math.isfinite, known)):
        raise TypeError(values)
    if not {type(sample.gpu_ratio), type(sample.gpu_memory_bytes)} <= NUMBER_OR_NONE:
        raise TypeError(values)
    if sample.gpu_ratio is not None and not math.isfinite(sample.gpu_ratio):
        return ResourceSample(*known, None, sample.gpu_memory_bytes)
    return sample


def _decode_object(text: str) -> dict[str, Any]:
    """Decode a JSON object. Escaped lone surrogates of other programs become "?"."""
    document = _decode(text)
    if not isinstance(document, dict):
        raise TypeError(text)
    if "\\u" in text:
        valid: dict[str, Any] = _decode(
            json.dumps(document, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
        )
        return valid
    return document


decode_info_column: Final = _cached(_decode_info)
"""Decodes the column ``info``, which is constant for a level."""


decode_metadata_column: Final = _cached(_decode_metadata)
"""Decodes metadata without unknown values (NaN)."""


decode_failure_column: Final = _cached(_decode_failure)
"""Decodes an error."""


decode_eta_column: Final = _cached(_decode_eta)
"""Decodes an estimate."""


decode_extra_column: Final = _cached(_decode_extra)
"""Decodes the column ``extra`` to values in the order of EXTRA."""


decode_use_column: Final = _cached(_decode_use)
"""Decodes the resource use of an operation."""
