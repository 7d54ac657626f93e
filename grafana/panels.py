"""Panels of each kind with title, description, unit and a message without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, cast

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    gauge,
    heatmap,
    logs,
    stat,
    statetimeline,
    text,
    timeseries,
)
from grafana_foundation_sdk.builders import loki as loki_builder
from grafana_foundation_sdk.builders import prometheus as prometheus_builder
from grafana_foundation_sdk.builders import tempo as tempo_builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models import prometheus
from grafana_foundation_sdk.models import tempo as tempo_model
from grafana_foundation_sdk.models import text as text_model

from grafana.names import LOKI, PROMETHEUS, TEMPO
from grafana.states import BLUE, GREY, UNKNOWN
from grafana.variables import source

PanelT = TypeVar("PanelT")
Reduce = Literal["lastNotNull", "last", "mean", "max"]

RATIO: Final = "percentunit"
SECONDS: Final = "s"
CLOCK: Final = "dthms"
"""A duration as hours, minutes and seconds."""
MOMENT: Final = "dateTimeAsIsoNoDateIfToday"
"""Milliseconds since 1970 as a date and time."""
COUNT: Final = "short"
BYTES: Final = "bytes"
PLAIN: Final = "none"


@dataclass(frozen=True, slots=True)
class About:
    """Texts of a panel. ``empty`` is displayed without data."""

    title: str
    description: str
    unit: str
    empty: str = UNKNOWN


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and the name of its series.

    An ``instant`` query returns the end of the time range only.
    """

    expression: str
    legend: str = "__auto"
    instant: bool = False
    format: prometheus.PromQueryFormat = prometheus.PromQueryFormat.TIME_SERIES
    step: str | None = None
    exemplars: bool = False

    def build(self, ref: str) -> prometheus_builder.Dataquery:
        """Return the query of a panel with the letter ``ref``."""
        made = prometheus_builder.Dataquery().datasource(source(PROMETHEUS)).ref_id(ref).expr(self.expression)
        made = (
            made.legend_format(self.legend).format(self.format).editor_mode(prometheus.QueryEditorMode.CODE)
        )
        made = made.instant() if self.instant else made.range()
        if self.step is not None:
            made = made.interval(self.step)
        return made.exemplar(True) if self.exemplars else made


def now(expression: str, legend: str = "__auto") -> Query:
    """Return a query for the end of the time range.

    A value that no longer exists is not displayed.
    """
    return Query(expression, legend, instant=True)


def dress(panel: PanelT, about: About, queries: Sequence[Query]) -> PanelT:
    """Set the texts and queries of a panel."""
    made: Any = panel  # The builders of panels have these methods without a common type.
    made = (
        made.title(about.title)
        .description(about.description)
        .unit(about.unit)
        .no_value(about.empty)
        .datasource(source(PROMETHEUS))
    )
    for number, query in enumerate(queries):
        made = made.with_target(query.build(chr(ord("A") + number)))
    return cast("PanelT", made)


def steps(*pairs: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Return absolute thresholds: a colour from each value on.

    The first value is None. Its colour is also the colour without data.
    """
    made = [model.Threshold(value=value, color=colour) for value, colour in pairs]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def fixed(colour: str) -> dashboard.FieldColor:
    """Return one fixed colour."""
    return dashboard.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(colour)


def number(about: About, query: Query, thresholds: dashboard.ThresholdsConfig | None = None) -> stat.Panel:
    """Return one number.

    It is blue without thresholds. Without data it is grey and has a message.
    """
    panel = dress(stat.Panel(), about, [query]).thresholds(thresholds or steps((None, GREY), (0, BLUE)))
    panel = (
        panel.reduce_options(_reduced("lastNotNull"))
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
    )
    panel = panel.text_mode(kinds.BigValueTextMode.VALUE).justify_mode(kinds.BigValueJustifyMode.CENTER)
    return panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))


def dial(about: About, query: Query) -> gauge.Panel:
    """Return a gauge from 0 to 1."""
    panel = (
        dress(gauge.Panel(), about, [query])
        .min(0)
        .max(1)
        .decimals(0)
        .thresholds(steps((None, GREY), (0, BLUE)))
    )
    panel = (
        panel.reduce_options(_reduced("lastNotNull"))
        .show_threshold_markers(False)
        .show_threshold_labels(False)
    )
    return panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))


def bars(about: About, queries: Sequence[Query]) -> bargauge.Panel:
    """Return horizontal bars, one per series."""
    panel = (
        dress(bargauge.Panel(), about, queries)
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .reduce_options(_reduced("lastNotNull"))
    )
    panel = (
        panel.display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .value_mode(kinds.BarGaugeValueMode.TEXT)
        .show_unfilled(True)
    )
    panel = panel.name_placement(kinds.BarGaugeNamePlacement.AUTO).sizing(kinds.BarGaugeSizing.MANUAL)
    panel = panel.text(common.VizTextDisplayOptions().value_size(16))
    return (
        panel.min_viz_height(16)
        .max_viz_height(24)
        .min_viz_width(8)
        .thresholds(steps((None, GREY), (0, BLUE)))
    )


def lines(about: About, *queries: Query, legend: Sequence[str] = ("lastNotNull",)) -> timeseries.Panel:
    """Return lines over time with a table of last values. Gaps are not connected."""
    panel = (
        dress(timeseries.Panel(), about, queries)
        .line_width(1.5)
        .fill_opacity(0 if len(queries) > 1 else 8)
        .span_nulls(False)
    )
    panel = panel.show_points(kinds.VisibilityMode.AUTO).legend(_legend(legend)).tooltip(_tooltip())
    panel = panel.thresholds(steps((None, GREY)))
    return panel.color_scheme(
        dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC)
    ).axis_soft_min(0)


def columns(about: About, *queries: Query, legend: Sequence[str] = ("sum",)) -> timeseries.Panel:
    """Return stacked columns over time."""
    stack = common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A")
    panel = (
        lines(about, *queries, legend=legend)
        .draw_style(kinds.GraphDrawStyle.BARS)
        .fill_opacity(80)
        .line_width(0)
        .stacking(stack)
    )
    return panel.bar_alignment(kinds.BarAlignment.BEFORE).bar_width_factor(0.8)


def counts(about: About, query: Query) -> timeseries.Panel:
    """Return columns of a count.

    The interval is at least one minute, so that one event is in one column.
    """
    return columns(about, query).decimals(0).interval("1m")


def timeline(
    about: About, queries: Sequence[Query], mappings: list[model.ValueMapping]
) -> statetimeline.Panel:
    """Return a strip of states over time for each series."""
    panel = (
        dress(statetimeline.Panel(), about, queries)
        .mappings(mappings)
        .merge_values(True)
        .show_value(kinds.VisibilityMode.AUTO)
    )
    panel = (
        panel.row_height(0.8).align_value(kinds.TimelineValueAlignment.LEFT).fill_opacity(85).line_width(0)
    )
    panel = panel.legend(_legend((), display=kinds.LegendDisplayMode.LIST)).tooltip(
        _tooltip(kinds.TooltipDisplayMode.SINGLE)
    )
    return panel.thresholds(steps((None, GREY))).color_scheme(
        dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)
    )


def heat_map(about: About, query: Query) -> heatmap.Panel:
    """Return a heatmap of a histogram's buckets over time.

    The unit is the one of the buckets.
    """
    panel = (
        dress(heatmap.Panel(), about, [query])
        .calculate(False)
        .cell_gap(1)
        .show_value(kinds.VisibilityMode.NEVER)
    )
    panel = panel.cell_values(heatmap.CellValues().unit(COUNT).decimals(0))
    axis = heatmap.YAxisConfig().unit(about.unit).axis_placement(kinds.AxisPlacement.LEFT)
    colours = (
        heatmap.HeatmapColorOptions()
        .mode(heat.HeatmapColorMode.SCHEME)
        .scheme("Blues")
        .steps(32)
        .reverse(False)
    )
    panel = panel.y_axis(axis).color(
        colours.scale(heat.HeatmapColorScale.EXPONENTIAL).exponent(0.5).fill("dark-blue")
    )
    panel = panel.filter_values(heatmap.FilterValueRange().le(1e-9)).rows_frame(
        heatmap.RowsHeatmapOptions().layout(kinds.HeatmapCellLayout.AUTO)
    )
    panel = panel.show_legend().exemplars_color("rgba(255,120,10,0.9)")
    return panel.tooltip(
        heatmap.HeatmapTooltip()
        .mode(kinds.TooltipDisplayMode.SINGLE)
        .y_histogram(False)
        .show_color_scale(True)
    )


def picture(about: About, variable: str) -> text.Panel:
    """Return the HTML of a variable, which Grafana sanitizes.

    It is an image, or the text without a preview.
    """
    panel = text.Panel().title(about.title).description(about.description).mode(text_model.TextMode.HTML)
    return panel.content(f"${{{variable}:raw}}")


def log_lines(about: About, expression: str) -> logs.Panel:
    """Return the log lines of Loki, newest first."""
    query = (
        loki_builder.Dataquery()
        .datasource(source(LOKI))
        .ref_id("A")
        .expr(expression)
        .query_type("range")
        .max_lines(500)
    )
    panel = (
        logs.Panel()
        .title(about.title)
        .description(about.description)
        .datasource(source(LOKI))
        .with_target(query)
    )
    panel = (
        panel.show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(kinds.LogsSortOrder.DESCENDING)
    )
    return (
        panel.prettify_log_message(False)
        .dedup_strategy(kinds.LogsDedupStrategy.NONE)
        .no_value(about.empty)
        .unit(about.unit)
    )


def trace_view(about: About, query: str) -> dashboard.Panel:
    """Return the trace of Tempo with an id.

    The SDK has no builder for this kind of panel, because it has no options.
    """
    asked = (
        tempo_builder.Dataquery()
        .datasource(source(TEMPO))
        .ref_id("A")
        .query_type("traceql")
        .query(query)
        .limit(20)
    )
    asked = asked.table_type(tempo_model.SearchTableType.TRACES)
    panel = (
        dashboard.Panel()
        .type("traces")
        .title(about.title)
        .description(about.description)
        .datasource(source(TEMPO))
    )
    return panel.with_target(asked).no_value(about.empty).unit(about.unit)


def override(panel: PanelT, name: str, **properties: object) -> PanelT:
    """Set properties of the series or column ``name``.

    ``custom_x`` is ``custom.x``, and a trailing underscore is dropped.
    """
    made: Any = panel
    return cast("PanelT", made.override_by_name(name, as_properties(properties)))


def as_properties(properties: dict[str, object]) -> list[model.DynamicConfigValue]:
    """Return keyword arguments as properties of a field."""
    return [
        model.DynamicConfigValue(id_val=name.rstrip("_").replace("custom_", "custom."), value=value)
        for name, value in properties.items()
        if value is not None
    ]


def colour(name: str) -> dict[str, str]:
    """Return the property that gives a series one colour."""
    return {"mode": "fixed", "fixedColor": name}


def _reduced(calculation: Reduce) -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs([calculation]).values(False).fields("")


def _legend(calcs: Sequence[str], display: kinds.LegendDisplayMode | None = None) -> common.VizLegendOptions:
    shown = display or (kinds.LegendDisplayMode.TABLE if calcs else kinds.LegendDisplayMode.LIST)
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(shown)
        .placement(kinds.LegendPlacement.BOTTOM)
        .calcs(list(calcs))
    )


def _tooltip(mode: kinds.TooltipDisplayMode = kinds.TooltipDisplayMode.MULTI) -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(mode).sort(kinds.SortOrder.DESCENDING)
