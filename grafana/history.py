"""The history: how long operations took, how many failed, how much was done, and how right the forecasts were."""

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
from grafana.tables import grid, text, values
from grafana.variables import base, kept_operation, window
from otel_progress import semconv
from otel_progress.model import Status

_PER: Final = f"${WINDOW}"
_ALL: Final = "$__range"
_COMPLETED: Final = is_("status", Status.COMPLETED.value)
"""What failed or was cancelled says nothing of how long the work takes."""
_NONE_DONE: Final = "No operation completed in this time"
_NONE: Final = "No operation ended in this time"
_NO_FORECAST: Final = "No operation with a forecast completed in this time"


def build() -> dashboard.Dashboard:
    """Return the dashboard."""
    made = board(HISTORY, [*base(hidden=(LOKI, TEMPO)), window(), kept_operation()], span="7d", refresh="5m")
    made = made.annotations([built_in()])
    place = Grid(made)
    place.band(4, (_ended(), 6), (_failures_now(), 6), (_error_now(), 6), (_coverage_now(), 6))
    place.band(9, (_durations(), 12), (_quantiles(), 12))
    place.band(8, (_table(), 12), (_failure_ratio(), 12))
    place.band(8, (_by_day(), 12), (_items_by_day(), 12))
    place.heading("How right the forecasts are")
    place.band(9, (_error(), 8), (_errors(), 8), (_coverage(), 8))
    return made


def _grown(window_: str, *labels: str) -> str:
    return total(increase(semconv.OPERATIONS_FINISHED, window_), *labels)


def _failure(window_: str, *labels: str) -> str:
    """Return the fraction that failed: 0 where operations ended and none did, absent where none ended."""
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
        About("Ended", "Operations that ended within the shown time, in whatever way.", COUNT, _NONE),
        now(f"round({_grown(_ALL)})"),
    ).decimals(0)


def _failures_now() -> stat.Panel:
    text_ = "Of the operations that ended within the shown time, the fraction that failed."
    return number(
        About("Failure ratio", text_, RATIO, _NONE),
        now(_failure(_ALL)),
        steps((None, GREY), (0, GREEN), (0.05, YELLOW), (0.2, RED)),
    ).decimals(1)


def _error_now() -> stat.Panel:
    text_ = "Half of the forecasts were nearer to the true end than this fraction of the duration."
    thresholds = steps((None, GREY), (0, GREEN), (0.1, YELLOW), (0.3, RED))
    return number(
        About("Forecast error (median)", text_, RATIO, _NO_FORECAST),
        now(quantile(0.5, semconv.ETA_ERROR, _ALL)),
        thresholds,
    ).decimals(1)


def _coverage_now() -> stat.Panel:
    text_ = (
        "How many of the intervals held the true end. They are made to hold it four times in five: "
        "far more is too wide, far fewer too narrow."
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
            "How long the operations took that completed at each time; the points lead to their traces.",
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
    text_ = "Half, and nine tenths, of the operations of a type that completed in each window took less than this."
    return lines(About("Duration quantiles by type", text_, SECONDS, _NONE), *queries)


def _table() -> table.Panel:
    def q(which: float) -> str:
        return quantile(which, semconv.OPERATION_DURATION, _ALL, "operation_type", matchers=(_COMPLETED,))

    columns_ = [
        text("Type", "operation_type"),
        values("Ended", f"round({_grown(_ALL, 'operation_type')}) > 0", COUNT, 90, decimals=0),
        values("Failed", _failure(_ALL, "operation_type"), RATIO, 90, decimals=1),
        values("p50", q(0.5), SECONDS, 100),
        values("p90", q(0.9), SECONDS, 100),
        values("p99", q(0.99), SECONDS, 100),
    ]
    text_ = (
        "Each type over the whole of the shown time: operations that ended, the fraction that failed, "
        "and quantiles of how long the completed ones took."
    )
    return grid(About("By type", text_, COUNT, _NONE), columns_, sort="Ended")


def _failure_ratio() -> timeseries.Panel:
    text_ = "Of the operations of a type that ended in each window, the fraction that failed."
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
            "Operations a day",
            "Operations that ended each day, by how they ended; today's are those so far. Choose a time of some days.",
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
            "Units of work a day",
            "Units of work done each day, by the type of their operation; today's are those so far. Choose a time of some days.",
            COUNT,
            "No unit of work was done in this time",
        ),
        query,
    ).decimals(0)


def _error() -> bargauge.Panel:
    text_ = (
        "Half of the forecasts of each type were nearer to the true end than this fraction of the duration."
    )
    query = now(quantile(0.5, semconv.ETA_ERROR, _ALL, "operation_type"), "{{operation_type}}")
    panel = (
        bars(About("Forecast error by type", text_, RATIO, _NO_FORECAST), [query]).min(0).max(1).decimals(1)
    )
    return panel.thresholds(steps((None, GREY), (0, GREEN), (0.1, YELLOW), (0.3, RED)))


def _errors() -> timeseries.Panel:
    queries = [
        Query(quantile(q, semconv.ETA_ERROR, _PER, "operation_type"), f"{{{{operation_type}}}} p{q * 100:g}")
        for q in (0.5, 0.9)
    ]
    text_ = "Half, and nine tenths, of the forecasts of a type were nearer to the true end than this fraction of the duration."
    return lines(About("Forecast error over time", text_, RATIO, _NO_FORECAST), *queries)


def _coverage() -> timeseries.Panel:
    from grafana_foundation_sdk.builders import common

    text_ = "How many of the intervals held the true end, by type. The dashed line is what they are made for: four in five."
    panel = lines(
        About("Interval coverage by type", text_, RATIO, _NO_FORECAST),
        Query(_covered(_PER, "operation_type"), "{{operation_type}}"),
        legend=("mean", "lastNotNull"),
    )
    panel = panel.max(1).thresholds(steps((None, "transparent"), (0.8, GREY)))
    return panel.thresholds_style(
        common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
    )
