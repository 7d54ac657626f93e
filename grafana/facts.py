"""Questions that several dashboards ask: how an operation stands, in PromQL."""

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
"""Stands for the ratio of a level that is there and has none; shown as the word unknown."""
ENDED: Final = -1
"""Stands for what an ended operation has not; shown as a dash."""
UNFINISHED: Final = among("status", *(status.value for status in Status if not status.finished))
"""Operations that have not ended."""
ALERTS: Final = "ALERTS"
"""What Prometheus itself shows of its alerting rules."""
OUR_ALERTS: Final = 'alertname=~"Progress.+"'
"""The alerts of our rules."""
WATCHDOG: Final = "ProgressWatchdog"
"""The alert that always fires: it says that rules are loaded."""

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
    """Return the units of work a second of each operation. The gauge falls when an id is run again: that is no negative work."""
    return f"clamp_min({once(f'deriv({series(semconv.OPERATION_CURRENT, *matchers)}[{window}])', *OPERATION)}, 0)"


def quiet(*matchers: Matcher) -> str:
    """Return the seconds since each operation that has not ended last advanced."""
    return f"(time() - {each(semconv.OPERATION_LAST_ADVANCE, *matchers)}) and {ON_OPERATION} ({unfinished(*matchers)})"


def unless_ended(expression: str, *matchers: Matcher) -> str:
    """Return the expression for operations that have not ended, and ``ENDED`` for the others: that they have none is no secret."""
    finished = among("status", *(status.value for status in Status if status.finished))
    marker = f"0 * ({each(semconv.OPERATION_STATUS, finished, *matchers)} == 1) + ({ENDED})"
    return f"({expression}) and {ON_OPERATION} ({unfinished(*matchers)}) or {marker}"


def dash() -> list[model.ValueMapping]:
    """Return the mapping of what an ended operation has not to a dash."""
    return words((str(ENDED), "–", GREY))


def milliseconds(expression: str) -> str:
    """Return a Unix time as Grafana wants it."""
    return f"1000 * {expression}"


def names(*labels: str) -> str:
    """Return the labels that describe operations, one series each, though a worker and a server describe the same ones."""
    described = once(series(semconv.OPERATION_INFO), *OPERATION, *labels)
    return f"topk by ({', '.join(OPERATION)}) (1, {described})"


def past_deadline() -> str:
    """Return the operations that have not ended though their deadline has passed."""
    return f"({each(semconv.OPERATION_DEADLINE)} < time()) and {ON_OPERATION} ({unfinished()})"


def split_by_basis(ratio: str, estimated: str, on: str) -> str:
    """Return a ratio with a label that says whether it is counted or rests on an estimate."""
    counted = label(f"{ratio} unless on ({on}) ({estimated} == 1)", BASIS, COUNTED)
    guessed = label(f"{ratio} and on ({on}) ({estimated} == 1)", BASIS, ESTIMATED)
    return f"{counted} or {guessed}"


def or_uncounted(shown: str, ratio: str, there: str, on: str) -> str:
    """Return the expression, and ``UNKNOWABLE`` for what is ``there`` without a ratio: it is not the same as what is not there."""
    return f"{shown} or {label(f'(0 * ({there}) + ({UNKNOWABLE})) unless on ({on}) ({ratio})', BASIS, UNCOUNTED)}"


def uncounted() -> list[model.ValueMapping]:
    """Return the mapping of a ratio that is not known to the word; without data the panel's own words stand."""
    return words((str(UNKNOWABLE), UNKNOWN, GREY))[:1]


def basis() -> str:
    """Return 1 for operations whose ratio is estimated, 0 where it is counted; none where there is no ratio."""
    return f"{each(semconv.OPERATION_ESTIMATED)} and {ON_OPERATION} {each(semconv.OPERATION_RATIO)}"


def basis_words() -> list[model.ValueMapping]:
    """Return the mapping of 1 and 0 to estimated and counted."""
    return words(("1", ESTIMATED, PURPLE), ("0", COUNTED, GREY))


def of_chosen_type(expression: str) -> str:
    """Return the series of the type of the operation that is looked at."""
    this = once(series(semconv.OPERATION_STATUS, CHOSEN), "operation_type")
    return f"{expression} and on (operation_type) {this}"


def firing(*more: str) -> str:
    """Return our alerts that fire, without the one that always does."""
    return f"{ALERTS}{{{','.join((OUR_ALERTS, not_('alertname', WATCHDOG).__str__(), is_('alertstate', 'firing').__str__(), *more))}}}"
