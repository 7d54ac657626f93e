"""Small parts of PromQL over the metrics of semconv.

A label that a metric does not have is an error when the dashboards are generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grafana.names import ID, INSTANCE, JOB, LEVEL, TYPE
from otel_progress import semconv
from otel_progress.semconv import Metric

OPERATION: Final = ("operation_id", "operation_type")
"""Labels that identify an operation.

A worker and a server over the same journal export the same operations. ``max by`` these labels
counts each once.
"""
_TARGET: Final = ("job", "instance")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label."""

    label: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f'{self.label}{self.operator}"{self.value}"'


@dataclass(frozen=True, slots=True)
class Chosen(Matcher):
    """The condition that a label has the value of a variable with free text.

    By default Grafana does not quote ``"`` in a value, and it changes ``'``. The variable is
    therefore formatted as a regular expression in backquotes, where no other character has a
    meaning. A backquote in an id is already escaped in the label. Other formats of Grafana do not
    work. ``json`` does not change a single text, and ``doublequote`` and ``singlequote`` do not
    escape backslashes. ``lucene`` escapes characters that PromQL rejects. PromQL cannot decode
    ``percentencode`` and ``html``.
    """

    def __str__(self) -> str:
        return f"{self.label}{self.operator}`${{{self.value}:regex}}`"


def is_(label: str, value: str) -> Matcher:
    """Return the condition that a label has this value."""
    return Matcher(label, "=", value)


def not_(label: str, value: str) -> Matcher:
    """Return the condition that a label has another value."""
    return Matcher(label, "!=", value)


def among(label: str, *values: str) -> Matcher:
    """Return the condition that a label has one of these values or expressions."""
    return Matcher(label, "=~", "|".join(values))


SCOPE: Final = (among("job", f"${JOB}"), among("instance", f"${INSTANCE}"))
"""The selected jobs and instances. Grafana's linter requires them in every query."""
CHOSEN_TYPE: Final = among("operation_type", f"${TYPE}")
CHOSEN: Final = Chosen("operation_id", "=~", ID)
CHOSEN_LEVEL: Final = Chosen("level", "=~", LEVEL)


def series(metric: Metric, *matchers: Matcher, suffix: str = "") -> str:
    """Return a selector of a metric for the selected jobs, instances and types.

    ``suffix`` is ``_bucket``, ``_sum`` or ``_count`` of a histogram. Raises ValueError for a label
    that the metric does not have.
    """
    for matcher in matchers:
        if matcher.label not in (*metric.labels, "le"):
            known = ", ".join(metric.labels) or "none"
            msg = f"Invalid label {matcher.label!r} of {metric.prometheus}: expected one of {known}"
            raise ValueError(msg)
    # One operation is selected by its id, independent of the selected types.
    typed = "operation_type" in metric.labels and CHOSEN not in matchers
    everything = (*SCOPE, *((CHOSEN_TYPE,) if typed else ()), *matchers)
    return f"{metric.prometheus}{suffix}{{{','.join(map(str, everything))}}}"


def once(expression: str, *labels: str) -> str:
    """Return the expression with one series per value of ``labels``.

    An operation that two processes export counts once.
    """
    return f"max by ({', '.join(labels)}) ({expression})" if labels else f"max({expression})"


def each(metric: Metric, *matchers: Matcher) -> str:
    """Return a gauge of operations, one series per operation."""
    return once(series(metric, *matchers), *OPERATION)


def total(expression: str, *labels: str) -> str:
    """Return a sum by labels."""
    return f"sum by ({', '.join(labels)}) ({expression})" if labels else f"sum({expression})"


def increase(metric: Metric, window: str, *matchers: Matcher, suffix: str = "", ahead: bool = False) -> str:
    """Return the increase of a counter in each window.

    The window ends at each point, or starts there with ``ahead``.
    """
    offset = f" offset -{window}" if ahead else ""
    return f"increase({series(metric, *matchers, suffix=suffix)}[{window}]{offset})"


def rate(metric: Metric, *matchers: Matcher, suffix: str = "") -> str:
    """Return the rate of a counter per second."""
    return f"rate({series(metric, *matchers, suffix=suffix)}[$__rate_interval])"


def grown(metric: Metric, *labels: str) -> str:
    """Return the increase of a counter in each interval.

    The sum of the columns is the count. An ``increase`` over ``$__rate_interval`` would cover more
    than the interval, and count an event in several columns.
    """
    return f"{total(rate(metric), *labels)} * $__interval_ms / 1000"


def quantile(q: float, metric: Metric, window: str, *labels: str, matchers: tuple[Matcher, ...] = ()) -> str:
    """Return a quantile of a histogram in each window, absent instead of NaN if empty."""
    buckets = total(increase(metric, window, *matchers, suffix="_bucket"), "le", *labels)
    return f"histogram_quantile({q:g}, {buckets}) >= 0"


def label(expression: str, name: str, value: str) -> str:
    """Return the expression with an additional label, equal for all series."""
    return f'label_replace({expression}, "{name}", "{value}", "", "")'


def known_zero() -> str:
    """Return 0 while an exporter responds, else nothing.

    No operation is a fact. Without an exporter the number is unknown.
    """
    return f"0 * max({series(semconv.SERIES_LIMIT)})"


def counted(expression: str) -> str:
    """Return the number of series: 0 for none, absent without an exporter."""
    return f"count({expression}) or {known_zero()}"


def last_known(selector: str) -> str:
    """Return the last value within the time range.

    It is for facts that stay true after the series of an operation are gone.
    """
    return f"last_over_time({selector}[$__range])"
