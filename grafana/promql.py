"""Small pieces of PromQL over the metrics of semconv. A label that a metric does not have is refused when the dashboards are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grafana.names import ID, INSTANCE, JOB, LEVEL, TYPE
from otel_progress import semconv
from otel_progress.semconv import Metric

OPERATION: Final = ("operation_id", "operation_type")
"""What tells operations apart. A worker and a server over the same journal export the same ones: ``max by`` these is each of them once."""
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
    """The condition that a label has the value of a variable that holds free text.

    Left to itself Grafana does not quote ``"`` in a value, and spoils ``'``. So it is told to make a regular expression of the value, in
    backquotes, between which nothing else has a meaning; a backquote in an id is an escape in the label already. None of Grafana's formats
    does better: ``json`` leaves a single text as it is, ``doublequote`` and ``singlequote`` leave backslashes, ``lucene`` escapes what
    PromQL does not know, and what ``percentencode`` and ``html`` make PromQL cannot read back.
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
    """Return the condition that a label has one of these values, which may be regular expressions."""
    return Matcher(label, "=~", "|".join(values))


SCOPE: Final = (among("job", f"${JOB}"), among("instance", f"${INSTANCE}"))
"""The chosen jobs and instances: on every query, as Grafana's linter asks for."""
CHOSEN_TYPE: Final = among("operation_type", f"${TYPE}")
CHOSEN: Final = Chosen("operation_id", "=~", ID)
CHOSEN_LEVEL: Final = Chosen("level", "=~", LEVEL)


def series(metric: Metric, *matchers: Matcher, suffix: str = "") -> str:
    """Return a selector of a metric within the chosen jobs, instances and operation types.

    ``suffix`` is ``_bucket``, ``_sum`` or ``_count`` of a histogram. Raises ValueError for a label that the metric does not have.
    """
    for matcher in matchers:
        if matcher.label not in (*metric.labels, "le"):
            msg = f"{metric.prometheus} has no label {matcher.label!r}; it has: {', '.join(metric.labels) or 'none'}"
            raise ValueError(msg)
    # One operation is found by its id, whatever types happen to be chosen.
    typed = "operation_type" in metric.labels and CHOSEN not in matchers
    everything = (*SCOPE, *((CHOSEN_TYPE,) if typed else ()), *matchers)
    return f"{metric.prometheus}{suffix}{{{','.join(map(str, everything))}}}"


def once(expression: str, *labels: str) -> str:
    """Return the expression with one series for each value of ``labels``: an operation that two processes export counts once."""
    return f"max by ({', '.join(labels)}) ({expression})" if labels else f"max({expression})"


def each(metric: Metric, *matchers: Matcher) -> str:
    """Return a gauge of operations, one series an operation."""
    return once(series(metric, *matchers), *OPERATION)


def total(expression: str, *labels: str) -> str:
    """Return a sum by labels."""
    return f"sum by ({', '.join(labels)}) ({expression})" if labels else f"sum({expression})"


def increase(metric: Metric, window: str, *matchers: Matcher, suffix: str = "", ahead: bool = False) -> str:
    """Return by how much a counter grew in each window: the one that ends at each point, or that begins there (``ahead``)."""
    return f"increase({series(metric, *matchers, suffix=suffix)}[{window}]{f' offset -{window}' if ahead else ''})"


def rate(metric: Metric, *matchers: Matcher, suffix: str = "") -> str:
    """Return how fast a counter grows, a second."""
    return f"rate({series(metric, *matchers, suffix=suffix)}[$__rate_interval])"


def grown(metric: Metric, *labels: str) -> str:
    """Return by how much a counter grew in each interval: as columns that stand side by side, and whose sum is what was counted.

    An ``increase`` over ``$__rate_interval`` would take in more than the interval, and count the same event in several columns.
    """
    return f"{total(rate(metric), *labels)} * $__interval_ms / 1000"


def quantile(q: float, metric: Metric, window: str, *labels: str, matchers: tuple[Matcher, ...] = ()) -> str:
    """Return a quantile of what a histogram observed in each window; absent, not NaN, where it observed nothing."""
    buckets = total(increase(metric, window, *matchers, suffix="_bucket"), "le", *labels)
    return f"histogram_quantile({q:g}, {buckets}) >= 0"


def label(expression: str, name: str, value: str) -> str:
    """Return the expression with one more label, the same for all series."""
    return f'label_replace({expression}, "{name}", "{value}", "", "")'


def known_zero() -> str:
    """Return 0 while an exporter of ours answers, and nothing when none does: no operations is a fact, no exporter is not."""
    return f"0 * max({series(semconv.SERIES_LIMIT)})"


def counted(expression: str) -> str:
    """Return how many series there are: 0 when none and an exporter answers, absent when nobody can know."""
    return f"count({expression}) or {known_zero()}"


def last_known(selector: str) -> str:
    """Return the last value within the shown time: for facts that stay true when an operation has ended and its series are gone."""
    return f"last_over_time({selector}[$__range])"
