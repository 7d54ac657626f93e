"""The variables of the dashboards.

All dashboards have the same variables, some hidden, so that links can pass every selection.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

from grafana.names import ID, INSTANCE, JOB, LEVEL, LOKI, PREVIEW, PROMETHEUS, TEMPO, TRACE, TYPE, WINDOW
from grafana.promql import CHOSEN, CHOSEN_TYPE, SCOPE, not_, series
from otel_progress import semconv

NO_PREVIEW: Final = "No preview of this operation in the time range"
NO_PICTURE: Final = "Open the last preview: it is not an image, or the server requires a login"
"""Text of a link without an image that the browser can display."""
ANY: Final = ".+"
"""Value of All: one short expression, independent of the number of values."""
MOST_LEVELS: Final = 50
"""Default limit of an exporter for levels of one operation."""
_KINDS: Final = {PROMETHEUS: "prometheus", LOKI: "loki", TEMPO: "tempo"}

Variable = (
    dashboard.QueryVariable
    | dashboard.DatasourceVariable
    | dashboard.TextBoxVariable
    | dashboard.CustomVariable
)


def source(name: str) -> common.DataSourceRef:
    """Return the reference to the data source that a variable selects."""
    return common.DataSourceRef(type_val=_KINDS[name], uid=f"${{{name}}}")


def base(*, hidden: tuple[str, ...] = ()) -> list[Variable]:
    """Return the variables of every dashboard: data sources, jobs, instances, types.

    Those in ``hidden`` are set but not displayed.
    """
    sources: list[Variable] = [_datasource(name, hide=name in hidden) for name in (PROMETHEUS, TEMPO, LOKI)]
    jobs = _many(
        JOB,
        "Job",
        f"label_values({semconv.SERIES_LIMIT.prometheus}, job)",
        "Scrape jobs, or service names of metrics over OTLP",
    )
    scoped = f"{semconv.SERIES_LIMIT.prometheus}{{{SCOPE[0]}}}"
    instances = _many(
        INSTANCE,
        "Instance",
        f"label_values({scoped}, instance)",
        "Exporting processes: workers and servers",
    )
    known = f"{semconv.OPERATION_STATUS.prometheus}{{{SCOPE[0]},{SCOPE[1]}}}"
    types = _many(TYPE, "Type", f"label_values({known}, operation_type)", "Operation types")
    if TYPE in hidden:
        types = types.hide(model.VariableHide.HIDE_VARIABLE)
    return [*sources, jobs, instances, types]


def kept_operation() -> Variable:
    """Return the last selected operation for dashboards without a selection.

    Links pass it back.
    """
    text = "The last selected operation, used by the links"
    return (
        dashboard.TextBoxVariable(ID)
        .label("Operation")
        .description(text)
        .default_value("")
        .hide(model.VariableHide.HIDE_VARIABLE)
    )


def chosen_operation() -> list[Variable]:
    """Return the selection of one operation with its levels, trace and last preview."""
    known = f"{semconv.OPERATION_STATUS.prometheus}{{{SCOPE[0]},{SCOPE[1]},{CHOSEN_TYPE}}}"
    chosen = _query(
        ID, "Operation", f"label_values({known}, operation_id)", "The operation that this dashboard shows"
    )
    return [
        chosen,
        _levels(),
        _trace(),
        _preview(),
    ]


def window() -> Variable:
    """Return the selection of the time window of one point of the history."""
    text = "Time window of each point. A longer window is smoother, and necessary if few operations end"
    values = ("15m", "1h", "6h", "1d", "7d")
    options = [model.VariableOption(selected=value == "1h", text=value, value=value) for value in values]
    return (
        dashboard.CustomVariable(WINDOW)
        .label("Window")
        .description(text)
        .values(",".join(values))
        .options(options)
        .current(options[1])
    )


def _datasource(name: str, *, hide: bool) -> Variable:
    kind = _KINDS[name]
    made = dashboard.DatasourceVariable(name).label(f"{kind.title()} data source").type(kind)
    return made.description(f"The {kind.title()} data source").hide(
        model.VariableHide.HIDE_VARIABLE if hide else model.VariableHide.DONT_HIDE
    )


def _query(name: str, label: str, query: str, text: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(label).description(text).datasource(source(PROMETHEUS))
    # Grafana's own form of a query. 2 means sorted alphabetically and refreshed on a change of
    # time.
    wrapped: dict[str, object] = {"query": query, "refId": f"variable-{name}"}
    made = made.query(wrapped).definition(query)
    return made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC
    )


def _levels() -> dashboard.QueryVariable:
    """Return the current levels, or the last ones of an ended operation.

    Each level has a gauge, and an exporter exposes at most ``MOST_LEVELS``.
    """
    seen = f"timestamp({series(semconv.LEVEL_CURRENT, CHOSEN)})"
    last = f"topk({MOST_LEVELS}, max by (level) (max_over_time({seen}[$__range:1m])))"
    query = f"query_result(max by (level) ({seen}) or on () {last})"
    made = _many(LEVEL, "Level", query, "Levels of the operation. Each has a gauge")
    return made.regex(r'/^\{level="(.*)"\} /').sort(model.VariableSort.NATURAL_ASC)


def _newest(label: str) -> str:
    """Return the newest description of the operation that has ``label``.

    The operation may have ended within the time range.
    """
    described = f"timestamp({series(semconv.OPERATION_INFO, CHOSEN, not_(label, ''))})"
    return f"topk(1, {described} or max_over_time({described}[$__range:1m]))"


def _trace() -> dashboard.QueryVariable:
    query = f"query_result({_newest('trace_id')})"
    made = _query(TRACE, "Trace", query, "The trace of the operation").regex('/trace_id="([0-9a-f]{32})"/')
    return made.hide(model.VariableHide.HIDE_VARIABLE)


def _preview() -> dashboard.QueryVariable:
    """Return a hidden variable with HTML.

    Without a preview the image would be broken, and no panel displays text instead.
    """
    # Grafana removes styles that it does not know, such as object-fit. A height of 100 % has no
    # reference in a text panel.
    style = "max-width: 100%; max-height: 350px"
    picture = f"<a href='$1' target='_blank'><img src='$1' alt='{NO_PICTURE}' style='{style}'></a>"
    shown = f"<p style='text-align: center'>{picture}</p>"
    found = f'label_replace({_newest("preview_url")}, "{PREVIEW}", "{shown}", "preview_url", "(.+)")'
    none = (
        f'label_replace(vector(0), "{PREVIEW}", "<p style=\'text-align: center\'>{NO_PREVIEW}</p>", "", "")'
    )
    query = f"query_result({found} or on () {none})"
    return (
        _query(PREVIEW, "Preview", query, "Its last preview, as HTML")
        .regex(f'/{PREVIEW}="([^"]+)"/')
        .hide(model.VariableHide.HIDE_VARIABLE)
    )


def _many(name: str, label: str, query: str, text: str) -> dashboard.QueryVariable:
    everything = model.VariableOption(selected=True, text=["All"], value=["$__all"])
    return _query(name, label, query, text).multi(True).include_all(True).all_value(ANY).current(everything)
