"""The mapping of an operation's state to a word and a colour, for all panels.

A state is a status (running, failed, …), or a condition other than ok while the operation runs
(stalled, …). Its number is higher if it is more urgent. ``max`` therefore decides if two exporters
disagree, and a table sorted by the number starts with problems.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard as model

from grafana.promql import OPERATION, Matcher, is_, last_known, once, series
from otel_progress import semconv
from otel_progress.model import Status
from otel_progress.operations import Condition

UNKNOWN: Final = "unknown"
"""The word for unknown values. Its colour is grey."""
GREY: Final = "#808080"
BLUE: Final = "blue"
GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
PURPLE: Final = "purple"
TEXT: Final = "text"
"""The colour of plain text, which is readable in both themes."""

ENDED_EARLY: Final = "ended early"
"""State of an operation that completed below its total."""
_STATES: Final[tuple[tuple[Status | Condition | str, str], ...]] = (
    (Status.COMPLETED, GREEN),
    (ENDED_EARLY, "dark-yellow"),
    (Status.SKIPPED, "#9fa7b3"),
    (Status.CANCELLED, "#b877d9"),
    (Condition.SUPERSEDED, "#7a8490"),
    (Status.PENDING, "#6c8ebf"),
    (Status.RUNNING, BLUE),
    (Condition.PAUSED, "light-blue"),
    (Status.FAILED, RED),
    (Condition.STALLED, YELLOW),
    (Condition.NOT_REPORTING, "dark-orange"),
    (Condition.OVERDUE, ORANGE),
    (Condition.ABANDONED, "dark-red"),
)
"""States with their colours, the most urgent last."""
NUMBERS: Final = {state: number for number, (state, _) in enumerate(_STATES, start=1)}
"""The number of each state."""
COLOURS: Final = {str(state).replace("_", " "): colour for state, colour in _STATES}
"""The colour of each state's word."""
_NOT_YET: Final = 9_999_999_999
"""Start time (Unix seconds) of a level that has not started.

It has as many digits as a real one, and sorts last.
"""


def to_word(state: Status | Condition | str) -> str:
    """Return the word of a state."""
    return str(state).replace("_", " ")


def mapping() -> list[model.ValueMapping]:
    """Return the value mapping from numbers and words to word and colour.

    Null and NaN are unknown.
    """
    results: dict[str, model.ValueMappingResult] = {}
    for state, colour in _STATES:
        for key in (str(NUMBERS[state]), str(state)):
            results[key] = model.ValueMappingResult(text=to_word(state), color=colour, index=len(results))
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
    """Return the number of each operation's current state.

    With ``ended``, operations without series are included if they ended within the time range. Only
    an end stays true.
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
    terms.append(_early_term(*matchers))
    now = once(" or ".join(terms), *OPERATION)
    if not ended:
        return now
    ends = [state for state, _ in _STATES if isinstance(state, Status) and state.finished]
    then = [_term(state, semconv.OPERATION_STATUS, "status", *matchers, last=True) for state in ends]
    then.append(_early_term(*matchers, last=True))
    return f"{now} or {once(' or '.join(then), *OPERATION)}"


def level_state(*matchers: Matcher, last: bool = False) -> str:
    """Return the number of each level's state.

    With ``last``, ended levels within the time range are included.
    """
    chosen = [state for state, _ in _STATES if isinstance(state, Status) and (state.finished or not last)]
    return once(
        " or ".join(_term(state, semconv.LEVEL_STATUS, "status", *matchers, last=last) for state in chosen),
        "level",
    )


def in_order(states: str, *matchers: Matcher) -> str:
    """Return the levels' states in order of their start, pending ones last by name.

    Prometheus sorts the result by labels, ``entered`` before ``level``. The start time is therefore
    a label, with the same value in the whole time range.
    """
    is_running = series(semconv.LEVEL_STATUS, is_("status", Status.RUNNING.value), *matchers)
    running = f"{once(is_running, 'level')} == 1"
    started = f"min_over_time(timestamp({running})[$__range:$__interval] @ end())"
    there = once(f"last_over_time({series(semconv.LEVEL_STATUS, *matchers)}[$__range] @ end())", "level")
    moments = f"{started} or on (level) 0 * {there} + {_NOT_YET}"
    return f'({states}) + on (level) group_left (entered) 0 * count_values by (level) ("entered", {moments})'


def _term(
    state: Status | Condition, metric: semconv.Metric, label: str, *matchers: Matcher, last: bool = False
) -> str:
    selector = series(metric, is_(label, state.value), *matchers)
    return f"{NUMBERS[state]} * ({last_known(selector) if last else selector} == 1)"


def _early_term(*matchers: Matcher, last: bool = False) -> str:
    """Return the number of the state of operations that ended early.

    Its number is higher than that of ``completed``, which is true as well.
    """
    selector = series(semconv.OPERATION_ENDED_EARLY, *matchers)
    return f"{NUMBERS[ENDED_EARLY]} * ({last_known(selector) if last else selector} == 1)"
