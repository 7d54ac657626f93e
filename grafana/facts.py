"""PromQL that several dashboards share: state and progress of operations."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from grafana.promql import CHOSEN, OPERATION, Matcher, among, each, is_, label, not_, once, series
from grafana.states import GREY, PURPLE, UNKNOWN, words
from otel_progress import semconv
from otel_progress.model import Status
from otel_progress.operations import Condition

BASIS: Final = "basis"
"""Label that queries add: whether a ratio is counted or estimated."""
COUNTED: Final = "counted"
ESTIMATED: Final = "~ estimated"
UNCOUNTED: Final = "no total"
UNKNOWABLE: Final = -1
"""Value for the ratio of a level that exists without a ratio. It is displayed as unknown."""
ENDED: Final = -1
"""Value for a fact that ended operations do not have. It is displayed as a dash."""
UNFINISHED: Final = among("status", *(status.value for status in Status if not status.finished))
"""Operations that have not ended."""
ALERTS: Final = "ALERTS"
"""Series of Prometheus itself for its alerting rules."""
OUR_ALERTS: Final = 'alertname=~"Progress.+"'
"""The alerts of this project."""
WATCHDOG: Final = "ProgressWatchdog"
"""The alert that always fires. It shows that rules are loaded."""

ON_OPERATION: Final = f"on ({', '.join(OPERATION)})"


def in_status(*statuses: Status) -> str:
    """Return the operations that are in one of these statuses."""
    wanted = among("status", *(status.value for status in statuses))
    return f"{each(semconv.OPERATION_STATUS, wanted)} == 1"


def in_condition(*conditions: Condition) -> str:
    """Return the operations that are in one of these conditions."""
    wanted = among("condition", *(condition.value for condition in conditions))
    return f"{each(semconv.OPERATION_CONDITION, wanted)} == 1"


def unfinished(*matchers: Matcher) -> str:
    """Return the operations that have not ended."""
    return f"{each(semconv.OPERATION_STATUS, UNFINISHED, *matchers)} == 1"


def speed(*matchers: Matcher, window: str = "5m") -> str:
    """Return the units of work per second of each operation.

    The gauge decreases if an id is run again. This is not negative work.
    """
    current = series(semconv.OPERATION_CURRENT, *matchers)
    return f"clamp_min({once(f'deriv({current}[{window}])', *OPERATION)}, 0)"


def quiet(*matchers: Matcher) -> str:
    """Return the seconds since each operation that has not ended last advanced."""
    last_advance = each(semconv.OPERATION_LAST_ADVANCE, *matchers)
    return f"(time() - {last_advance}) and {ON_OPERATION} ({unfinished(*matchers)})"


def unless_ended(expression: str, *matchers: Matcher) -> str:
    """Return the expression for operations that have not ended, else ``ENDED``."""
    finished = among("status", *(status.value for status in Status if status.finished))
    marker = f"0 * ({each(semconv.OPERATION_STATUS, finished, *matchers)} == 1) + ({ENDED})"
    return f"({expression}) and {ON_OPERATION} ({unfinished(*matchers)}) or {marker}"


def dash() -> list[model.ValueMapping]:
    """Return the mapping of ``ENDED`` to a dash."""
    return words((str(ENDED), "–", GREY))


def milliseconds(expression: str) -> str:
    """Return a Unix time in milliseconds for Grafana."""
    return f"1000 * {expression}"


def names(*labels: str) -> str:
    """Return the labels that describe operations, one series per operation."""
    described = once(series(semconv.OPERATION_INFO), *OPERATION, *labels)
    return f"topk by ({', '.join(OPERATION)}) (1, {described})"


def past_deadline() -> str:
    """Return the operations that have not ended after their deadline."""
    return f"({each(semconv.OPERATION_DEADLINE)} < time()) and {ON_OPERATION} ({unfinished()})"


def split_by_basis(ratio: str, estimated: str, on: str) -> str:
    """Return a ratio with a label that says whether it is counted or estimated."""
    counted = label(f"{ratio} unless on ({on}) ({estimated} == 1)", BASIS, COUNTED)
    guessed = label(f"{ratio} and on ({on}) ({estimated} == 1)", BASIS, ESTIMATED)
    return f"{counted} or {guessed}"


def or_uncounted(shown: str, ratio: str, there: str, on: str) -> str:
    """Return the expression, or ``UNKNOWABLE`` for items of ``there`` without a ratio."""
    without_ratio = f"(0 * ({there}) + ({UNKNOWABLE})) unless on ({on}) ({ratio})"
    return f"{shown} or {label(without_ratio, BASIS, UNCOUNTED)}"


def uncounted() -> list[model.ValueMapping]:
    """Return the mapping of an unknown ratio to its word.

    Without data, the panel has its own message.
    """
    return words((str(UNKNOWABLE), UNKNOWN, GREY))[:1]


def basis() -> str:
    """Return 1 for operations with an estimated ratio and 0 for a counted one."""
    return f"{each(semconv.OPERATION_ESTIMATED)} and {ON_OPERATION} {each(semconv.OPERATION_RATIO)}"


def basis_words() -> list[model.ValueMapping]:
    """Return the mapping of 1 and 0 to estimated and counted."""
    return words(("1", ESTIMATED, PURPLE), ("0", COUNTED, GREY))


def of_chosen_type(expression: str) -> str:
    """Return the series of the type of the selected operation."""
    this = once(series(semconv.OPERATION_STATUS, CHOSEN), "operation_type")
    return f"{expression} and on (operation_type) {this}"


def firing(*more: str) -> str:
    """Return the firing alerts of this project without the one that always fires."""
    matchers = (OUR_ALERTS, str(not_("alertname", WATCHDOG)), str(is_("alertstate", "firing")), *more)
    return f"{ALERTS}{{{','.join(matchers)}}}"
