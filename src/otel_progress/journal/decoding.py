"""The JSON columns of the journal, decoded.

What is read was written by other processes, perhaps by another version: NaN and infinities become None, lone surrogates "?", and
what is no such record raises one of UNREADABLE. Decoded texts are remembered, since the same ones are read over and over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeVar

from otel_progress import codec
from otel_progress.model import NO_METADATA, Eta, Failure, LevelInfo, MetadataValue, Number
from otel_progress.records import ResourceSample, ResourceUse

DECODE_ERRORS: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
"""What decoding a row that nobody of ours wrote may raise."""


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
"""The order of an estimate in its array; before the third version of the journal the last two were not there."""


EXTRA: Final = ("estimated", "paused_clock", "paused_s", "previews", "overdue_after_s", "resumed_from")
"""The order of what most levels do not have in its array, which may lack the last ones: they are as in ``NO_EXTRA`` then."""


NO_EXTRA: Final = (False, None, 0.0, 0, None, 0)
"""Its defaults: nothing is kept then."""


SAMPLE: Final = ("at", "clock", "cpu_ratio", "memory_bytes", "gpu_ratio", "gpu_memory_bytes")
"""The order of a sample, as columns and in an array."""


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
"""The order of what an operation used, after its last sample."""


NUMBER: Final = frozenset({int, float})


NUMBER_OR_NONE: Final = NUMBER | {type(None)}


TEXT_OR_NONE: Final = frozenset({str, type(None)})


_REMEMBERED: Final = 8192


_LONGEST: Final = 4096
"""Texts that are longer are decoded each time, so that what is remembered stays within some tens of MiB."""


_Value = TypeVar("_Value")


def _real(text: str) -> float | None:
    return codec.finite(float(text))  # 1e999 is valid JSON, and infinite


def _unknown(constant: str) -> None:
    """Stand for ``NaN``, ``Infinity`` and ``-Infinity``."""


# One decoder for all: json.loads builds a new one on every call that names an option.
_decode: Final = json.JSONDecoder(parse_float=_real, parse_constant=_unknown).decode


def _cached(decode: Callable[[str], _Value]) -> Callable[[str], _Value]:
    remembered = lru_cache(maxsize=_REMEMBERED)(decode)

    def recall(text: str) -> _Value:
        return remembered(text) if len(text) <= _LONGEST else decode(text)

    return recall


def _info(text: str) -> LevelInfo:
    info = codec.decode_info(_object(text))
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
    texts = {type(info.unit), type(info.trace_id), type(info.span_id), type(info.batch)}
    if {type(value) for value in strings} != {str} or type(info.declared) is not bool:
        raise TypeError(text)
    if not (numbers <= NUMBER and maybe <= NUMBER_OR_NONE and texts <= TEXT_OR_NONE):
        raise TypeError(text)
    return info


def _metadata(text: str) -> Mapping[str, MetadataValue]:
    known = {key: value for key, value in codec.decode_metadata(_object(text)).items() if _is_known(value)}
    return MappingProxyType(known) if known else NO_METADATA


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, tuple) and None in value)


def _failure(text: str) -> Failure:
    failure = codec.decode_failure(_object(text))
    if (
        failure is None
        or {type(failure.type), type(failure.message)} != {str}
        or type(failure.details) not in TEXT_OR_NONE
    ):
        raise TypeError(text)
    return failure


def _eta(text: str) -> Eta:
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


def _extra(text: str) -> tuple[bool, float | None, float, int, float | None, Number]:
    values: list[Any] = list(_decode(text)[: len(EXTRA)])
    values += NO_EXTRA[len(values) :]
    estimated, paused_clock, paused_s, previews, overdue_after_s, resumed_from = values
    if type(estimated) is not bool or type(previews) is not int:
        raise TypeError(text)
    if (
        not {type(paused_clock), type(paused_s), type(overdue_after_s)} <= NUMBER_OR_NONE
        or type(resumed_from) not in NUMBER
    ):
        raise TypeError(text)
    return (
        estimated,
        paused_clock,
        0.0 if paused_s is None else paused_s,
        max(0, previews),
        overdue_after_s,
        max(0, resumed_from),
    )


def _use(text: str) -> ResourceUse:
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


def _object(text: str) -> dict[str, Any]:
    """Decode JSON that must be an object. Escaped lone surrogates, which nothing of ours writes, become "?"."""
    document = _decode(text)
    if not isinstance(document, dict):
        raise TypeError(text)
    if "\\u" in text:
        valid: dict[str, Any] = _decode(
            json.dumps(document, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
        )
        return valid
    return document


decode_info_column: Final = _cached(_info)
"""Decode the unchanging part of a level."""


decode_metadata_column: Final = _cached(_metadata)
"""Decode metadata; a value that is not known (a NaN) is left out."""


decode_failure_column: Final = _cached(_failure)
"""Decode an error."""


decode_eta_column: Final = _cached(_eta)
"""Decode an estimate."""


decode_extra_column: Final = _cached(_extra)
"""Decode what most levels do not have; values in the order of EXTRA."""


decode_use_column: Final = _cached(_use)
"""Decode what the process of an operation used."""
