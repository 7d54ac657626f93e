"""The one mapping from an operation's state to a word and a colour, shared by every panel, and the PromQL that says the state.

A state is a status (running, failed, …) or, while it runs, a condition that is not ok (stalled, …). As a number it is higher the sooner
somebody should look: so ``max`` decides where two exporters disagree for a moment, and a table sorted by it begins with trouble.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from grafana.promql import OPERATION, Matcher, is_, last_known, once, series
from otel_progress import semconv
from otel_progress.model import Status
from otel_progress.operations import Condition

UNKNOWN: Final = "unknown"
"""The word for what is not known; its colour is grey."""
GREY: Final = "#808080"
BLUE: Final = "blue"
GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
PURPLE: Final = "purple"

_STATES: Final = (
    (Status.COMPLETED, GREEN),
    (Status.SKIPPED, "#9fa7b3"),
    (Status.CANCELLED, "#b877d9"),
    (Status.PENDING, "#6c8ebf"),
    (Status.RUNNING, BLUE),
    (Condition.PAUSED, "light-blue"),
    (Status.FAILED, RED),
    (Condition.STALLED, YELLOW),
    (Condition.OVERDUE, ORANGE),
    (Condition.ABANDONED, "dark-red"),
)
"""States with their colours, the most urgent last."""
NUMBERS: Final = {state: number for number, (state, _) in enumerate(_STATES, start=1)}
"""The number of each state."""
COLOURS: Final = {state.value: colour for state, colour in _STATES}
"""The colour of each state's word."""
_NOT_YET: Final = 9_999_999_999
"""Stands for the moment (Unix seconds) at which a level began that has not begun: it has as many digits as one, and sorts behind all."""


def mapping() -> list[model.ValueMapping]:
    """Return the value mapping: from numbers and from words to word and colour; what is null or NaN is unknown."""
    results: dict[str, model.ValueMappingResult] = {}
    for state, colour in _STATES:
        for key in (str(NUMBERS[state]), state.value):
            results[key] = model.ValueMappingResult(text=state.value, color=colour, index=len(results))
    return [model.ValueMap(options=results), unknown()]


def unknown() -> model.SpecialValueMap:
    """Return the mapping of null and NaN to the word unknown, in grey."""
    result = model.ValueMappingResult(text=UNKNOWN, color=GREY)
    options = model.DashboardSpecialValueMapOptions(match=model.SpecialValueMatch.NULL_AND_NAN, result=result)
    return model.SpecialValueMap(options=options)


def words(*pairs: tuple[str, str, str]) -> list[model.ValueMapping]:
    """Return a mapping from (value, word, colour), with null and NaN as unknown."""
    results = {
        value: model.ValueMappingResult(text=word, color=colour, index=n)
        for n, (value, word, colour) in enumerate(pairs)
    }
    return [model.ValueMap(options=results), unknown()]


def operation_state(*matchers: Matcher, ended: bool = False) -> str:
    """Return the number of each operation's state now.

    With ``ended`` also of those that ended within the shown time and have no series any more: an end stays true, anything else does not.
    """
    terms = [
        _term(state, semconv.OPERATION_STATUS, "status", *matchers)
        for state, _ in _STATES
        if isinstance(state, Status)
    ]
    terms += [
        _term(state, semconv.OPERATION_CONDITION, "condition", *matchers)
        for state, _ in _STATES
        if isinstance(state, Condition)
    ]
    now = once(" or ".join(terms), *OPERATION)
    if not ended:
        return now
    ends = [state for state, _ in _STATES if isinstance(state, Status) and state.finished]
    then = [_term(state, semconv.OPERATION_STATUS, "status", *matchers, last=True) for state in ends]
    return f"{now} or {once(' or '.join(then), *OPERATION)}"


def level_state(*matchers: Matcher, last: bool = False) -> str:
    """Return the number of each level's state; with ``last`` of those that ended within the shown time, how they ended."""
    chosen = [state for state, _ in _STATES if isinstance(state, Status) and (state.finished or not last)]
    return once(
        " or ".join(_term(state, semconv.LEVEL_STATUS, "status", *matchers, last=last) for state in chosen),
        "level",
    )


def in_order(states: str, *matchers: Matcher) -> str:
    """Return the levels' states in the order in which the levels began to run; those that have not yet stand last, by name.

    Prometheus sorts the answer by labels, ``begun`` before ``level``: so the moment is made a label, the same all over the shown time.
    """
    running = (
        f"{once(series(semconv.LEVEL_STATUS, is_('status', Status.RUNNING.value), *matchers), 'level')} == 1"
    )
    began = f"min_over_time(timestamp({running})[$__range:$__interval] @ end())"
    there = once(f"last_over_time({series(semconv.LEVEL_STATUS, *matchers)}[$__range] @ end())", "level")
    moments = f"{began} or on (level) 0 * {there} + {_NOT_YET}"
    return f'({states}) + on (level) group_left (begun) 0 * count_values by (level) ("begun", {moments})'


def _term(
    state: Status | Condition, metric: semconv.Metric, label: str, *matchers: Matcher, last: bool = False
) -> str:
    selector = series(metric, is_(label, state.value), *matchers)
    return f"{NUMBERS[state]} * ({last_known(selector) if last else selector} == 1)"
