"""Samplers for ``OTEL_TRACES_SAMPLER`` that keep progress spans.

Each is the sampler of OpenTelemetry with the rest of its name, within a ``ProgressSampler``. The
SDK calls the factories with the text of ``OTEL_TRACES_SAMPLER_ARG`` or None. A configuration file
cannot pass a value, so the variable is read there as well.
"""

from __future__ import annotations

import os
from typing import Final

from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)

from otel_progress.diagnostics import log_warning
from otel_progress.sampling import ProgressSampler

_ARGUMENT: Final = "OTEL_TRACES_SAMPLER_ARG"


def build_always_on(argument: object = None) -> Sampler:  # noqa: ARG001 - the SDK passes it
    """Return a sampler that exports all spans."""
    return ProgressSampler(ALWAYS_ON)


def build_always_off(argument: object = None) -> Sampler:  # noqa: ARG001 - the SDK passes it
    """Return a sampler that exports no span. Progress is recorded."""
    return ProgressSampler(ALWAYS_OFF)


def build_traceidratio(argument: object = None) -> Sampler:
    """Return a sampler that exports a ratio of all traces."""
    return ProgressSampler(TraceIdRatioBased(_parse_ratio(argument)))


def build_parentbased_always_on(argument: object = None) -> Sampler:  # noqa: ARG001 - the SDK passes it
    """Return a sampler that exports all traces that the caller exports."""
    return ProgressSampler(ParentBased(ALWAYS_ON))


def build_parentbased_always_off(argument: object = None) -> Sampler:  # noqa: ARG001 - the SDK passes it
    """Return a sampler that exports only spans whose parent is exported."""
    return ProgressSampler(ParentBased(ALWAYS_OFF))


def build_parentbased_traceidratio(argument: object = None) -> Sampler:
    """Return a sampler that exports a ratio of the new traces."""
    return ProgressSampler(ParentBased(TraceIdRatioBased(_parse_ratio(argument))))


def _parse_ratio(argument: object) -> float:
    """Return a ratio from 0 to 1. An invalid one is logged and becomes 1."""
    given = os.environ.get(_ARGUMENT, "") if argument is None else argument
    text = str(given).strip()
    if not text:
        return 1.0
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if 0.0 <= ratio <= 1.0:
        return ratio
    log_warning(
        "Invalid %s %r: expected a number from 0 to 1. All traces are sampled.", _ARGUMENT, text[:100]
    )
    return 1.0
