"""Translation of OTLP metrics to Prometheus series, after the specification.

See "Prometheus and OpenMetrics compatibility". The Collector's ``prometheus`` exporter and
Prometheus' own OTLP endpoint do this with the strategy ``UnderscoreEscapingWithSuffixes``: an
invalid character becomes ``_``; the unit is appended in words; a gauge of unit ``1`` gets
``_ratio``; a monotonic sum gets ``_total``. A suffix that the name already has is not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

from tests.support.otlp_receiver import attributes

UNITS: Final = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "By": "bytes",
    "%": "percent",
    "Cel": "celsius",
}
"""Words of the units that may occur."""
Kind = Literal["gauge", "sum", "histogram"]
Series = tuple[str, tuple[tuple[str, str], ...]]
"""A name and its sorted labels."""


def prometheus_name(name: str, unit: str, kind: Kind) -> str:
    """Return the name of a metric in Prometheus. ``sum`` means a monotonic sum."""
    tokens = [token for token in re.split(r"[^A-Za-z0-9]+", name) if token]
    plain = re.sub(r"\{[^}]*\}", "", unit).strip()
    if plain == "1" and kind == "gauge":
        tokens = [*(token for token in tokens if token != "ratio"), "ratio"]
    elif plain not in {"", "1"} and UNITS.get(plain, plain) not in tokens:
        tokens.append(UNITS.get(plain, plain))
    if kind == "sum":
        tokens = [*(token for token in tokens if token != "total"), "total"]
    return "_".join(tokens)


def prometheus_label(name: str) -> str:
    """Return the label name of an attribute."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def series(metric: Any) -> Iterator[tuple[Series, float]]:
    """Yield the series of an OTLP metric with their values.

    A histogram has cumulative buckets, count and sum.
    """
    kind: Kind = metric.WhichOneof("data")
    name = prometheus_name(metric.name, metric.unit, kind)
    for point in getattr(metric, kind).data_points:
        labels = {prometheus_label(key): str(value) for key, value in attributes(point).items()}
        if kind != "histogram":
            yield (
                _series(name, labels),
                float(point.as_int if point.WhichOneof("value") == "as_int" else point.as_double),
            )
            continue
        below = 0
        for bound, count in zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True):
            below += count
            yield (
                _series(
                    f"{name}_bucket",
                    {**labels, "le": "+Inf" if bound == float("inf") else repr(float(bound))},
                ),
                float(below),
            )
        yield _series(f"{name}_count", labels), float(point.count)
        yield _series(f"{name}_sum", labels), float(point.sum)


def _series(name: str, labels: dict[str, str]) -> Series:
    return name, tuple(sorted(labels.items()))
