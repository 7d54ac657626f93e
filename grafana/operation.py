"""The dashboard of one operation.

It shows progress, remaining time, levels, preview, resources, logs and trace.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import (
    dashboard,
    gauge,
    logs,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.models import common as kinds

from grafana import facts
from grafana.board import board, built_in, mark
from grafana.layout import Grid
from grafana.names import ID, LEVEL, OPERATION, PREVIEW, TRACE
from grafana.panels import (
    BYTES,
    CLOCK,
    COUNT,
    MOMENT,
    PLAIN,
    RATIO,
    SECONDS,
    About,
    Query,
    colour,
    dial,
    lines,
    log_lines,
    now,
    number,
    override,
    picture,
    steps,
    timeline,
    trace_view,
)
from grafana.promql import CHOSEN, CHOSEN_LEVEL, Chosen, among, each, last_known, once, rate, series, total
from grafana.states import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    in_order,
    level_state,
    mapping,
    operation_state,
    words,
)
from grafana.tables import bar, grid, state, values, word
from grafana.tables import text as text_column
from grafana.variables import base, chosen_operation
from otel_progress import semconv

_ID: Final = semconv.OPERATION_ID.replace(".", "_")
"""Loki writes the attributes of a record with underscores."""
_GONE: Final = "unknown: it ended long ago, or no exporter responds"


def build() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board(OPERATION, [*base(), *chosen_operation()], span="1h", refresh="5s")
    started = mark(
        "Started",
        f"1000 * {each(semconv.OPERATION_START, CHOSEN)}",
        title="Started",
        text="{{operation_id}} started",
        colour=BLUE,
        at_value=True,
    )
    firing = facts.firing(str(CHOSEN))
    alerts = mark("Alerts", firing, title="{{alertname}}", text="{{operation_id}}", colour=RED)
    made = made.annotations([built_in(), started, alerts])
    place = Grid(made)
    place.band(
        4, (_name(), 6), (_state(), 3), (_done(), 3), (_left(), 3), (_end(), 4), (_quiet(), 3), (_failed(), 2)
    )
    place.band(11, (_forecast(), 16), (_preview(), 8))
    place.band(9, (_states(), 12), (_levels(), 12))
    place.heading("Work and resources")
    place.band(8, (_work(), 8), (_throughput(), 8), (_items(), 8))
    place.band(8, (_processor(), 12), (_memory(), 12))
    place.heading("Logs and trace")
    place.band(12, (_logs(), 12), (_trace(), 12))
    place.heading("Each level")
    place.band(5, (_dial(), 24))
    return made


def _known(metric: semconv.Metric) -> str:
    """Return a gauge of the operation: the current value, or the last known one."""
    last = once(last_known(series(metric, CHOSEN)), "operation_id", "operation_type")
    return f"{each(metric, CHOSEN)} or {last}"


def _name() -> stat.Panel:
    described = once(last_known(series(semconv.OPERATION_INFO, CHOSEN)), "name", "operation_type")
    panel = number(
        About("Operation", "The name and the type of the operation.", PLAIN, _GONE),
        now(described, "{{name}} ({{operation_type}})"),
    )
    return panel.text_mode(kinds.BigValueTextMode.NAME).color_mode(kinds.BigValueColorMode.NONE)


def _state() -> stat.Panel:
    text_ = "The status, or the condition while the operation runs. Without series, only an end is known."
    panel = number(
        About("State", text_, PLAIN), now(operation_state(CHOSEN, ended=True)), steps((None, GREY))
    )
    return panel.mappings(mapping()).color_mode(kinds.BigValueColorMode.BACKGROUND_SOLID)


def _done() -> stat.Panel:
    ratio = facts.split_by_basis(
        f"({_known(semconv.OPERATION_RATIO)})", each(semconv.OPERATION_ESTIMATED, CHOSEN), "operation_id"
    )
    text_ = (
        "The ratio, or the last known one. It is estimated while a step runs that cannot report, "
        "and unknown without a total."
    )
    panel = (
        number(About("Progress", text_, RATIO), now(ratio))
        .decimals(1)
        .display_name(f"${{__field.labels.{facts.BASIS}}}")
    )
    return panel.text_mode(kinds.BigValueTextMode.VALUE_AND_NAME)


def _left() -> stat.Panel:
    text_ = "The estimated remaining time. It is unknown at first and while the operation is stalled."
    return _unless_ended("Time left", text_, CLOCK, each(semconv.OPERATION_REMAINING, CHOSEN))


def _end() -> stat.Panel:
    text_ = "The estimated completion time."
    return _unless_ended(
        "Expected end", text_, MOMENT, facts.milliseconds(each(semconv.OPERATION_EXPECTED_END, CHOSEN))
    )


def _quiet() -> stat.Panel:
    return _unless_ended(
        "Quiet for",
        "The time since the last advance, if the operation has not ended.",
        CLOCK,
        facts.quiet(CHOSEN),
    )


def _unless_ended(title: str, description: str, unit: str, expression: str) -> stat.Panel:
    """Return a number that ended operations do not have, with a dash for them."""
    panel = number(About(title, description, unit), now(facts.unless_ended(expression, CHOSEN)))
    return panel.thresholds(steps((None, GREY), (0, BLUE))).mappings(facts.dash())


def _failed() -> stat.Panel:
    panel = number(
        About("Failed", "Failures in the operation and all its levels.", COUNT),
        now(_known(semconv.OPERATION_FAILED)),
        steps((None, GREY), (0, GREEN), (1, RED)),
    )
    return panel.mappings(words(("0", "none", GREEN)))


def _forecast() -> timeseries.Panel:
    def left(metric: semconv.Metric) -> str:
        return f"clamp_min({each(metric, CHOSEN)} - time(), 0)"

    guess = f"{each(semconv.OPERATION_ESTIMATED, CHOSEN)} == 1"
    ratio = each(semconv.OPERATION_RATIO, CHOSEN)
    queries = (
        Query(f"{ratio} unless {facts.ON_OPERATION} ({guess})", "done"),
        Query(f"{ratio} and {facts.ON_OPERATION} ({guess})", "done ~ estimated"),
        Query(left(semconv.OPERATION_EXPECTED_END), "time left"),
        Query(left(semconv.OPERATION_EXPECTED_END_LOWER), "at least"),
        Query(left(semconv.OPERATION_EXPECTED_END_UPPER), "at most"),
    )
    about = About(
        "Progress and remaining time",
        "Left axis: the ratio. Right axis: the remaining time with its 80 % interval. A band "
        "that is wide or does not decrease is not reliable yet. Without three completed runs "
        "there is no band.",
        RATIO,
        "Nothing was recorded for this operation in this time",
    )
    # Why no last values in the legend: an estimate that no longer exists would have an old value.
    panel = lines(about, *queries, legend=()).fill_opacity(0).line_width(2)
    panel = override(panel, "done", color=colour(BLUE), custom_fillOpacity=15, max=1)
    panel = override(
        panel,
        "done ~ estimated",
        color=colour(PURPLE),
        max=1,
        custom_fillOpacity=15,
        custom_lineStyle={"fill": "dash", "dash": [8, 6]},
    )
    right = {"unit": SECONDS, "custom_axisPlacement": "right", "custom_axisLabel": "time left"}
    panel = override(panel, "time left", color=colour(ORANGE), **right)
    bound = {"color": colour("#ff983099"), "custom_lineWidth": 1, "custom_showPoints": "never", **right}
    panel = override(panel, "at least", **bound)
    return override(panel, "at most", **bound, custom_fillOpacity=25, custom_fillBelowTo="at least")


def _preview() -> text.Panel:
    text_ = (
        "The last stored preview, if the operation has previews and the address of a server is "
        "known (setting public_url)."
    )
    return picture(About("Last preview", text_, PLAIN), PREVIEW)


def _states() -> statetimeline.Panel:
    stages = among("level", f"(.*/)?{semconv.STAGE}:[^/]+")
    ordered = in_order(level_state(CHOSEN, stages), CHOSEN, stages)
    # A stage of a level has its whole path: two levels may have stages of the same name.
    named = f'label_replace({ordered}, "level", "$1", "level", "{semconv.STAGE}:([^/]+)")'
    queries = [Query(operation_state(CHOSEN), "the operation"), Query(named, "{{level}}")]
    text_ = "The state of the operation over time, and below it that of its stages in order of their start."
    return timeline(
        About("Stages", text_, PLAIN, "Nothing was recorded for this operation in this time"),
        queries,
        mapping(),
    )


def _of_levels(metric: semconv.Metric) -> str:
    """Return a gauge per level: the current value.

    If the operation has no series any more, it is the last one within the time range.
    """
    found = series(metric, CHOSEN, CHOSEN_LEVEL)
    return _or_last(once(found, "level"), once(last_known(found), "level"))


def _or_last(now_: str, last: str) -> str:
    """Return the current value, or the last one if no level is exposed.

    A level that was evicted stays removed.
    """
    return f"({now_} or {last} unless on () group({series(semconv.LEVEL_CURRENT, CHOSEN)}))"


def _levels() -> table.Panel:
    of = _of_levels
    ratio, guess = of(semconv.LEVEL_RATIO), of(semconv.LEVEL_ESTIMATED)
    of_basis = f"{guess} or 0 * ({ratio})"
    columns = [
        state(
            "State", _or_last(level_state(CHOSEN, CHOSEN_LEVEL), level_state(CHOSEN, CHOSEN_LEVEL, last=True))
        ),
        text_column("Level", "level"),
        bar("Progress", ratio, 170),
        word("Basis", of_basis, facts.basis_words(), 100),
        values("Done", of(semconv.LEVEL_CURRENT), COUNT, 80),
        values("Of", of(semconv.LEVEL_TARGET), COUNT, 80),
    ]
    text_ = (
        "The levels of the operation with their current or last known state. An exporter exposes "
        "at most 50 levels per operation, two deep, running ones first."
    )
    return grid(
        About("Levels", text_, PLAIN, "The operation has no levels, or ended before the time range"),
        columns,
        sort="State",
    )


def _dial() -> gauge.Panel:
    ratio, guess, there = (
        _of_levels(one) for one in (semconv.LEVEL_RATIO, semconv.LEVEL_ESTIMATED, semconv.LEVEL_CURRENT)
    )
    text_ = (
        "The ratio of this level, or the last known one. It is estimated while the level cannot "
        "report, and unknown without a total."
    )
    shown = facts.or_uncounted(facts.split_by_basis(ratio, guess, "level"), ratio, there, "level")
    panel = dial(About(f"${LEVEL}", text_, RATIO, "no levels"), now(shown)).mappings(facts.uncounted())
    panel = panel.display_name(f"${{__field.labels.{facts.BASIS}}}")
    return panel.repeat(LEVEL).repeat_direction("h").max_per_row(8)


def _work() -> timeseries.Panel:
    queries = (
        Query(each(semconv.OPERATION_CURRENT, CHOSEN), "done"),
        Query(each(semconv.OPERATION_TARGET, CHOSEN), "target"),
    )
    about = About(
        "Done and total",
        "Completed units of work and their total. An unknown total is absent.",
        COUNT,
        "Nothing was recorded for this operation in this time",
    )
    panel = override(lines(about, *queries), "done", color=colour(BLUE), custom_fillOpacity=15)
    return override(
        panel,
        "target",
        color=colour(GREY),
        custom_lineStyle={"fill": "dash", "dash": [8, 6]},
        custom_fillOpacity=0,
    )


def _throughput() -> timeseries.Panel:
    query = Query(facts.speed(CHOSEN, window="$__rate_interval"), "units per second")
    about = About(
        "Throughput",
        "Units of work per second.",
        "cps",
        "Nothing was recorded for this operation in this time",
    )
    return override(
        lines(about, query, legend=("mean", "max", "lastNotNull")), "units per second", color=colour(BLUE)
    )


def _items() -> timeseries.Panel:
    counted = total(rate(semconv.ITEMS), "operation_type", "level_type", "outcome")
    counted = total(facts.of_chosen_type(f"({counted})"), "outcome")
    about = About(
        "Items by outcome",
        "Units of work per second by outcome, in all operations of this type. There is no "
        "such counter per operation.",
        "cps",
        "No item was completed in this time",
    )
    panel = lines(about, Query(counted, "{{outcome}}")).fill_opacity(30)
    for word_, shade in COLOURS.items():
        panel = override(panel, word_, color=colour(shade))
    return panel


def _processor() -> timeseries.Panel:
    queries = (
        Query(each(semconv.OPERATION_CPU, CHOSEN), "processor (1 is one core)"),
        Query(each(semconv.OPERATION_GPU, CHOSEN), "GPU"),
    )
    text_ = "Use of processor and GPU by the process of the operation. One busy core is 100 %."
    about = About(
        "Processor and GPU", text_, RATIO, "Resources are not measured: install otel-progress[resources]"
    )
    return lines(about, *queries, legend=("mean", "max", "lastNotNull")).axis_soft_max(0.1)


def _memory() -> timeseries.Panel:
    queries = (
        Query(each(semconv.OPERATION_MEMORY, CHOSEN), "memory"),
        Query(each(semconv.OPERATION_GPU_MEMORY, CHOSEN), "GPU memory"),
    )
    text_ = "Memory of the process of the operation."
    return lines(
        About("Memory", text_, BYTES, "Resources are not measured: install otel-progress[resources]"),
        *queries,
        legend=("mean", "max", "lastNotNull"),
    )


def _logs() -> logs.Panel:
    expression = f'{{service_name=~".+"}} | {Chosen(_ID, "=~", ID)}'
    return log_lines(
        About(
            "Logs",
            "Log records of the operation from Loki, selected by operation id.",
            PLAIN,
            "Loki has no record of this operation in this time",
        ),
        expression,
    )


def _trace() -> dashboard.Panel:
    text_ = (
        "The trace of the operation from Tempo. Spans arrive when they end, so the trace is "
        "complete when the operation has ended."
    )
    return trace_view(About("Trace", text_, PLAIN, "No trace of this operation is known"), f"${{{TRACE}}}")
