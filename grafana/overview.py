"""The overview: running operations, problems and expected ends.

Each operation links to its own dashboard.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import bargauge, dashboard, stat, table, timeseries
from grafana_foundation_sdk.models import dashboard as model

from grafana import facts
from grafana.board import board, built_in, mark
from grafana.layout import Grid
from grafana.links import to_operation, to_trace
from grafana.names import LOKI, OVERVIEW
from grafana.panels import (
    CLOCK,
    COUNT,
    MOMENT,
    PLAIN,
    RATIO,
    About,
    Query,
    bars,
    colour,
    counts,
    lines,
    now,
    number,
    override,
    steps,
)
from grafana.promql import counted, each, grown, is_, known_zero, once, rate, series, total
from grafana.states import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    NUMBERS,
    ORANGE,
    RED,
    UNKNOWN,
    YELLOW,
    operation_state,
    to_word,
    words,
)
from grafana.tables import bar, failures, grid, hidden, state, text, values, word
from grafana.variables import base, kept_operation
from otel_progress import semconv
from otel_progress.model import Status
from otel_progress.operations import Condition

_SILENT = "unknown: no exporter responds"


def build() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board(OVERVIEW, [*base(hidden=(LOKI,)), kept_operation()], span="3h", refresh="10s")
    alerts = mark("Alerts", facts.firing(), title="{{alertname}}", text="{{operation_id}}", colour=RED)
    made = made.annotations([built_in(), alerts])
    place = Grid(made)
    place.band(
        4,
        (_running(), 4),
        (_stalled(), 4),
        (_failed(), 4),
        (_late(), 4),
        (_abandoned(), 4),
        (_alert_count(), 4),
    )
    place.band(11, (_operations(), 24))
    place.band(7, (_batches(), 14), (_by_type(), 10))
    place.band(7, (_stalled_list(), 14), (_alerts(), 10))
    place.folded(
        "Over time", (8, ((_states_over_time(), 12), (_ended(), 12))), (8, ((_units(), 12), (_speeds(), 12)))
    )
    return made


def _trouble(title: str, description: str, expression: str, colour_: str) -> stat.Panel:
    """Return a count that is green at 0, and grey if it is unknown."""
    panel = number(
        About(title, description, COUNT, _SILENT),
        now(expression),
        steps((None, GREY), (0, GREEN), (1, colour_)),
    )
    return panel.mappings(words(("0", "none", GREEN)))


def _running() -> stat.Panel:
    """Return the number of running operations.

    It is the larger of the distinct operations with series and the count of one exporter, which
    includes operations beyond its limit.
    """
    distinct = f"count({facts.in_status(Status.RUNNING)})"
    by_exporter = total(series(semconv.OPERATIONS, is_("status", Status.RUNNING.value)), "job", "instance")
    text_ = "Operations that run now. An operation that a worker and a server export counts once."
    return number(
        About("Running", text_, COUNT, _SILENT), now(f"max({distinct} or {by_exporter} or {known_zero()})")
    )


def _stalled() -> stat.Panel:
    text_ = (
        "Running operations of live processes that have not advanced for longer than expected. "
        "Queued and paused work does not count."
    )
    return _trouble("Stalled", text_, counted(facts.in_condition(Condition.STALLED)), YELLOW)


def _failed() -> stat.Panel:
    status = series(semconv.OPERATION_STATUS, is_("status", Status.FAILED.value))
    ids = f"{once(f'max_over_time({status}[24h])', 'operation_id', 'operation_type')} == 1"
    text_ = (
        "Operations that failed within 24 hours before the end of the time range. An id that "
        "failed twice counts once."
    )
    return _trouble("Failed in 24 h", text_, counted(ids), RED)


def _late() -> stat.Panel:
    text_ = "Operations that have not ended and are past their deadline."
    return _trouble("Past deadline", text_, counted(facts.past_deadline()), ORANGE)


def _abandoned() -> stat.Panel:
    text_ = (
        "Operations whose process has died. Only a server or another process reports this, "
        "because the worker is gone."
    )
    return _trouble("Abandoned", text_, counted(facts.in_condition(Condition.ABANDONED)), RED)


def _alert_count() -> stat.Panel:
    always = f'{facts.ALERTS}{{alertname="{facts.WATCHDOG}",alertstate="firing"}}'
    text_ = (
        "Firing alerts of otel-progress. The number is known only while the watchdog alert fires."
        " Otherwise no rules are loaded."
    )
    about = About("Alerts firing", text_, COUNT, "unknown: no rules are loaded")
    query = now(f"count({facts.firing()}) or 0 * count({always})")
    return number(about, query, steps((None, GREY), (0, GREEN), (1, RED))).mappings(
        words(("0", "none", GREEN))
    )


def _operations() -> table.Panel:
    dash = facts.dash()
    columns_ = [
        state("State", operation_state()),
        text("Operation", "operation_id", 230, links=to_operation("Operation")),
        text("Name", "name", 200),
        text("Type", "operation_type", 130),
        bar("Progress", each(semconv.OPERATION_RATIO)),
        word("Basis", facts.basis(), facts.basis_words(), 100),
        failures("Failed", each(semconv.OPERATION_FAILED), COUNT, 75),
        values("Units/s", facts.unless_ended(facts.speed()), COUNT, 85, mappings=dash),
        values("Time left", facts.unless_ended(each(semconv.OPERATION_REMAINING)), CLOCK, 100, mappings=dash),
        values(
            "Expected end",
            facts.unless_ended(facts.milliseconds(each(semconv.OPERATION_EXPECTED_END))),
            MOMENT,
            160,
            mappings=dash,
        ),
        values("Quiet for", facts.unless_ended(facts.quiet()), CLOCK, 100, mappings=dash),
        text("Trace", "trace_id", 70, links=to_trace("Trace"), mappings=_open_trace()),
        hidden("Described", facts.names("name", "trace_id")),
    ]
    about = About(
        "Operations",
        "Operations that have not ended or ended within the last minutes, problems first. The"
        " id links to the operation, the trace to Tempo. Units/s is the rate of the last five"
        " minutes. ~ estimated marks the progress of a step that cannot report.",
        PLAIN,
        "No operation runs or has ended recently, or no exporter responds",
    )
    return grid(about, columns_, sort="State")


def _open_trace() -> list[model.ValueMapping]:
    """Display a trace id as a word. The id is in the link."""
    result = model.ValueMappingResult(text="open", color=BLUE)
    found = model.RegexMap(options=model.DashboardRegexMapOptions(pattern="[0-9a-f]{32}", result=result))
    none = model.SpecialValueMap(
        options=model.DashboardSpecialValueMapOptions(
            match=model.SpecialValueMatch.EMPTY, result=model.ValueMappingResult(text="none", color=GREY)
        )
    )
    return [found, none]


def _batches() -> table.Panel:
    keys = ("batch_id", "batch_type")

    def count_of(status: Status) -> str:
        return once(series(semconv.BATCH_OPERATIONS, is_("status", status.value)), *keys)

    done = once(series(semconv.BATCH_RATIO), *keys)
    columns_ = [
        text("Batch", "name"),
        text("Id", "batch_id", 120),
        text("Type", "batch_type", 90),
        bar("Progress", done, 150),
        values("Of", once(series(semconv.BATCH_TARGET), *keys), COUNT, 60),
        values("Running", count_of(Status.RUNNING), COUNT, 75),
        values("Done", count_of(Status.COMPLETED), COUNT, 60),
        failures("Failed", count_of(Status.FAILED), COUNT, 60),
        values("Time left", once(series(semconv.BATCH_REMAINING), *keys), CLOCK, 90),
        hidden(
            "Described", f"topk by ({', '.join(keys)}) (1, {once(series(semconv.BATCH_INFO), *keys, 'name')})"
        ),
    ]
    about = About(
        "Batches",
        "Groups of operations. The progress is unknown without an expected number of operations.",
        PLAIN,
        "No batch was declared recently",
    )
    return grid(about, columns_, sort="Time left")


def _by_type() -> bargauge.Panel:
    mean = (
        f"avg by (operation_type) ({each(semconv.OPERATION_RATIO)} and {facts.ON_OPERATION} "
        f"({facts.unfinished()}))"
    )
    unknown_ = f"0 * count by (operation_type) ({facts.unfinished()}) - 1"
    text_ = (
        "Mean progress of running operations per type. It is unknown if no operation of the type has a total."
    )
    panel = bars(
        About("Progress by type", text_, RATIO, "No operation is running, or no exporter responds"),
        [now(f"{mean} or {unknown_}", "{{operation_type}}")],
    )
    return panel.min(0).max(1).decimals(0).mappings(words(("-1", UNKNOWN, GREY)))


def _stalled_list() -> table.Panel:
    stuck = (Condition.STALLED, Condition.NOT_REPORTING, Condition.ABANDONED, Condition.OVERDUE)
    wanted = facts.in_condition(*stuck)
    columns_ = [
        state("State", f"{operation_state()} and {facts.ON_OPERATION} ({wanted})"),
        text("Operation", "operation_id", links=to_operation("Operation")),
        text("Type", "operation_type", 130),
        bar("Progress", f"{each(semconv.OPERATION_RATIO)} and {facts.ON_OPERATION} ({wanted})", 180),
        values("Quiet for", f"{facts.quiet()} and {facts.ON_OPERATION} ({wanted})", CLOCK, 110),
        values(
            "Last report",
            facts.milliseconds(each(semconv.OPERATION_NOT_REPORTING)),
            MOMENT,
            150,
            mappings=facts.dash(),
        ),
    ]
    about = About(
        "Stuck or late",
        "Operations that are stalled, not reporting, abandoned or overdue, the longest without an "
        "advance first.",
        PLAIN,
        "No operation is stalled, not reporting, abandoned or overdue, or no exporter responds",
    )
    return grid(about, columns_, sort="Quiet for")


def _alerts() -> table.Panel:
    severities = words(("3", "critical", RED), ("2", "warning", YELLOW), ("1", "info", BLUE))
    ranked = (
        f"3 * {facts.firing(str(is_('severity', 'critical')))}",
        f"2 * {facts.firing(str(is_('severity', 'warning')))}",
        facts.firing(str(is_("severity", "info"))),
    )
    columns_ = [
        word(
            "Severity",
            f"max by (alertname, operation_id, operation_type) ({' or '.join(ranked)})",
            severities,
            90,
        ),
        text("Alert", "alertname", custom_minWidth=220),
        text("Operation", "operation_id", 170, links=to_operation("Operation"), noValue="–"),
        text("Type", "operation_type", 120, noValue="–"),
    ]
    description = (
        "Firing alerts of otel-progress in Prometheus, the most severe first. Some do not belong "
        "to an operation."
    )
    return grid(
        About("Firing alerts", description, PLAIN, "No alert fires, or no rules are loaded"),
        columns_,
        sort="Severity",
    )


def _states_over_time() -> timeseries.Panel:
    counts = [
        Query(f"count({operation_state()} == {NUMBERS[state_]})", to_word(state_))
        for state_ in (*Status, *Condition)
        if state_ in NUMBERS and not (isinstance(state_, Status) and state_.finished)
    ]
    about = About(
        "Running operations",
        "Number of operations in each state.",
        COUNT,
        "No operation was running in this time, or no exporter responded",
    )
    panel = lines(about, *counts).fill_opacity(30).decimals(0)
    for word_, shade in COLOURS.items():
        panel = override(panel, word_, color=colour(shade))
    return panel


def _ended() -> timeseries.Panel:
    ended = Query(grown(semconv.OPERATIONS_FINISHED, "status"), "{{status}}")
    text_ = "Number of operations that ended in each interval, by status."
    panel = counts(About("Operations ended", text_, COUNT, "No operation ended in this time"), ended)
    for word_, shade in COLOURS.items():
        panel = override(panel, word_, color=colour(shade))
    return panel


def _units() -> timeseries.Panel:
    query = Query(total(rate(semconv.ITEMS), "operation_type"), "{{operation_type}}")
    return lines(
        About(
            "Units of work by type",
            "Units of work per second in all operations of a type.",
            "cps",
            "No unit of work was completed in this time",
        ),
        query,
    )


def _speeds() -> timeseries.Panel:
    query = Query(f"topk(10, {facts.speed(window='$__rate_interval')})", "{{operation_id}}")
    return lines(
        About(
            "Fastest operations",
            "The ten operations with the most units per second.",
            "cps",
            "No operation advanced in this time",
        ),
        query,
    )
