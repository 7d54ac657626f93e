"""The history dashboard: durations, failures, amount of work, estimation error."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import bargauge, dashboard, heatmap, stat, table, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import prometheus

from grafana.board import board, built_in
from grafana.layout import Grid
from grafana.names import HISTORY, LOKI, TEMPO, WINDOW
from grafana.panels import (
    COUNT,
    RATIO,
    SECONDS,
    About,
    Query,
    bars,
    colour,
    columns,
    heat_map,
    lines,
    now,
    number,
    override,
    steps,
)
from grafana.promql import increase, is_, quantile, total
from grafana.states import COLOURS, GREEN, GREY, RED, YELLOW
from grafana.tables import failures, grid, text, values
from grafana.variables import base, kept_operation, window
from otel_progress import semconv
from otel_progress.model import Status

_PER: Final = f"${WINDOW}"
_ALL: Final = "$__range"
_COMPLETED: Final = is_("status", Status.COMPLETED.value)
"""Failed and cancelled operations have no meaningful duration."""
_NONE_DONE: Final = "No operation completed in this time"
_NONE: Final = "No operation ended in this time"
_NO_FORECAST: Final = "No operation with an estimate completed in this time"


def build() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board(HISTORY, [*base(hidden=(LOKI, TEMPO)), window(), kept_operation()], span="7d", refresh="5m")
    made = made.annotations([built_in()])
    place = Grid(made)
    place.band(4, (_ended(), 6), (_failures_now(), 6), (_error_now(), 6), (_coverage_now(), 6))
    place.band(9, (_durations(), 12), (_quantiles(), 12))
    place.band(8, (_table(), 12), (_failure_ratio(), 12))
    place.band(8, (_by_day(), 12), (_items_by_day(), 12))
    place.heading("Accuracy of the estimates")
    place.band(9, (_error(), 8), (_errors(), 8), (_coverage(), 8))
    return made


def _grown(window_: str, *labels: str) -> str:
    return total(increase(semconv.OPERATIONS_FINISHED, window_), *labels)


def _failure(window_: str, *labels: str) -> str:
    """Return the failure ratio.

    It is 0 if operations ended without a failure, and absent if none ended.
    """
    failed = total(
        increase(semconv.OPERATIONS_FINISHED, window_, is_("status", Status.FAILED.value)), *labels
    )
    everything = _grown(window_, *labels)
    return f"({failed} or 0 * {everything}) / ({everything} > 0)"


def _covered(window_: str, *labels: str) -> str:
    held = total(increase(semconv.ETA_INTERVALS, window_, is_("outcome", "covered")), *labels)
    everything = total(increase(semconv.ETA_INTERVALS, window_), *labels)
    return f"({held} or 0 * {everything}) / ({everything} > 0)"


def _ended() -> stat.Panel:
    return number(
        About("Ended", "Operations that ended within the time range, with any status.", COUNT, _NONE),
        now(f"round({_grown(_ALL)})"),
    ).decimals(0)


def _failures_now() -> stat.Panel:
    text_ = "Ratio of failed operations among those that ended within the time range."
    return number(
        About("Failure ratio", text_, RATIO, _NONE),
        now(_failure(_ALL)),
        steps((None, GREY), (0, GREEN), (0.05, YELLOW), (0.2, RED)),
    ).decimals(1)


def _error_now() -> stat.Panel:
    text_ = "Median error of the estimated end, as a fraction of the duration."
    thresholds = steps((None, GREY), (0, GREEN), (0.1, YELLOW), (0.3, RED))
    return number(
        About("Estimation error (median)", text_, RATIO, _NO_FORECAST),
        now(quantile(0.5, semconv.ETA_ERROR, _ALL)),
        thresholds,
    ).decimals(1)


def _coverage_now() -> stat.Panel:
    text_ = (
        "Ratio of intervals that contained the true end. The target is 80 %: intervals with a "
        "much larger ratio are too wide, with a much smaller ratio too narrow."
    )
    thresholds = steps((None, GREY), (0, RED), (0.6, YELLOW), (0.7, GREEN), (0.95, YELLOW))
    return number(
        About("Interval coverage", text_, RATIO, _NO_FORECAST), now(_covered(_ALL)), thresholds
    ).decimals(0)


def _durations() -> heatmap.Panel:
    buckets = total(
        increase(semconv.OPERATION_DURATION, "$__rate_interval", _COMPLETED, suffix="_bucket"), "le"
    )
    query = Query(buckets, "{{le}}", format=prometheus.PromQueryFormat.HEATMAP, exemplars=True)
    return heat_map(
        About(
            "Durations",
            "Durations of operations by the time of their completion. The points link to their traces.",
            SECONDS,
            _NONE_DONE,
        ),
        query,
    )


def _quantiles() -> timeseries.Panel:
    queries = [
        Query(
            quantile(q, semconv.OPERATION_DURATION, _PER, "operation_type", matchers=(_COMPLETED,)),
            f"{{{{operation_type}}}} p{q * 100:g}",
        )
        for q in (0.5, 0.9)
    ]
    text_ = "Median and 90th percentile of the duration of completed operations, per type and window."
    return lines(About("Duration quantiles by type", text_, SECONDS, _NONE), *queries)


def _table() -> table.Panel:
    def q(which: float) -> str:
        return quantile(which, semconv.OPERATION_DURATION, _ALL, "operation_type", matchers=(_COMPLETED,))

    columns_ = [
        text("Type", "operation_type"),
        values("Ended", f"round({_grown(_ALL, 'operation_type')}) > 0", COUNT, 90, decimals=0),
        failures("Failed", _failure(_ALL, "operation_type"), RATIO, 90, decimals=1),
        values("p50", q(0.5), SECONDS, 100),
        values("p90", q(0.9), SECONDS, 100),
        values("p99", q(0.99), SECONDS, 100),
    ]
    text_ = (
        "Each type over the whole time range: ended operations, ratio of failed ones, and "
        "quantiles of the duration of completed ones."
    )
    return grid(About("By type", text_, COUNT, _NONE), columns_, sort="Ended")


def _failure_ratio() -> timeseries.Panel:
    text_ = "Ratio of failed operations among those that ended, per type and window."
    panel = lines(
        About("Failure ratio by type", text_, RATIO, _NONE),
        Query(_failure(_PER, "operation_type"), "{{operation_type}}"),
        legend=("mean", "lastNotNull"),
    )
    return panel.max(1)


def _by_day() -> timeseries.Panel:
    query = Query(
        f"round({total(increase(semconv.OPERATIONS_FINISHED, '1d', ahead=True), 'status')})",
        "{{status}}",
        step="1d",
    )
    panel = columns(
        About(
            "Operations per day",
            "Operations that ended on each day, by status. The value of today is not final. "
            "Select a time range of several days.",
            COUNT,
            _NONE,
        ),
        query,
    ).decimals(0)
    for word_, shade in COLOURS.items():
        panel = override(panel, word_, color=colour(shade))
    return panel


def _items_by_day() -> timeseries.Panel:
    query = Query(
        f"round({total(increase(semconv.ITEMS, '1d', ahead=True), 'operation_type')})",
        "{{operation_type}}",
        step="1d",
    )
    return columns(
        About(
            "Units of work per day",
            "Units of work on each day, by operation type. The value of today is not final. "
            "Select a time range of several days.",
            COUNT,
            "No unit of work was done in this time",
        ),
        query,
    ).decimals(0)


def _error() -> bargauge.Panel:
    text_ = "Median error of the estimated end per type, as a fraction of the duration."
    query = now(quantile(0.5, semconv.ETA_ERROR, _ALL, "operation_type"), "{{operation_type}}")
    panel = (
        bars(About("Estimation error by type", text_, RATIO, _NO_FORECAST), [query]).min(0).max(1).decimals(1)
    )
    return panel.thresholds(steps((None, GREY), (0, GREEN), (0.1, YELLOW), (0.3, RED)))


def _errors() -> timeseries.Panel:
    queries = [
        Query(quantile(q, semconv.ETA_ERROR, _PER, "operation_type"), f"{{{{operation_type}}}} p{q * 100:g}")
        for q in (0.5, 0.9)
    ]
    text_ = (
        "Median and 90th percentile of the error of the estimated end per type, as a fraction of "
        "the duration."
    )
    return lines(About("Estimation error over time", text_, RATIO, _NO_FORECAST), *queries)


def _coverage() -> timeseries.Panel:
    from grafana_foundation_sdk.builders import common

    text_ = "Ratio of intervals that contained the true end, by type. The dashed line is the target: 80 %."
    panel = lines(
        About("Interval coverage by type", text_, RATIO, _NO_FORECAST),
        Query(_covered(_PER, "operation_type"), "{{operation_type}}"),
        legend=("mean", "lastNotNull"),
    )
    panel = panel.max(1).thresholds(steps((None, "transparent"), (0.8, GREY)))
    return panel.thresholds_style(
        common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
    )
