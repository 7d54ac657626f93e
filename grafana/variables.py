"""The variables of the dashboards. All have the same ones, hidden where they choose nothing, so that links can carry every choice on."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

from grafana.names import ID, INSTANCE, JOB, LEVEL, LOKI, PREVIEW, PROMETHEUS, TEMPO, TRACE, TYPE, WINDOW
from grafana.promql import CHOSEN, CHOSEN_TYPE, SCOPE, not_, series
from otel_progress import semconv

NO_PREVIEW: Final = "No preview is known of this operation in the shown time"
NO_PICTURE: Final = "Open the last preview: it is no picture, or the server asks you to log in"
"""Stands in a link in place of a picture that the browser cannot show."""
ANY: Final = ".+"
"""What All stands for: one short expression, however many values there are."""
MOST_LEVELS: Final = 50
"""What an exporter shows of one operation, unless it is told otherwise."""
_KINDS: Final = {PROMETHEUS: "prometheus", LOKI: "loki", TEMPO: "tempo"}

Variable = (
    dashboard.QueryVariable
    | dashboard.DatasourceVariable
    | dashboard.TextBoxVariable
    | dashboard.CustomVariable
)


def source(name: str) -> common.DataSourceRef:
    """Return the reference to the data source that a variable has chosen."""
    return common.DataSourceRef(type_val=_KINDS[name], uid=f"${{{name}}}")


def base(*, hidden: tuple[str, ...] = ()) -> list[Variable]:
    """Return what every dashboard has: data sources, jobs, instances and types; those in ``hidden`` are kept, but not shown."""
    sources: list[Variable] = [_datasource(name, hide=name in hidden) for name in (PROMETHEUS, TEMPO, LOKI)]
    jobs = _many(
        JOB,
        "Job",
        f"label_values({semconv.SERIES_LIMIT.prometheus}, job)",
        "Scrape jobs, or service names where metrics come by OTLP",
    )
    scoped = f"{semconv.SERIES_LIMIT.prometheus}{{{SCOPE[0]}}}"
    instances = _many(
        INSTANCE,
        "Instance",
        f"label_values({scoped}, instance)",
        "Processes that export: workers and servers",
    )
    known = f"{semconv.OPERATION_STATUS.prometheus}{{{SCOPE[0]},{SCOPE[1]}}}"
    types = _many(TYPE, "Type", f"label_values({known}, operation_type)", "Kinds of operations")
    if TYPE in hidden:
        types = types.hide(model.VariableHide.HIDE_VARIABLE)
    return [*sources, jobs, instances, types]


def kept_operation() -> Variable:
    """Return the operation that was looked at, for dashboards that do not choose one: links carry it back."""
    text = "The operation that was looked at last; kept for the links"
    return (
        dashboard.TextBoxVariable(ID)
        .label("Operation")
        .description(text)
        .default_value("")
        .hide(model.VariableHide.HIDE_VARIABLE)
    )


def chosen_operation() -> list[Variable]:
    """Return the choice of one operation, and what follows from it: its levels, its trace and its last preview."""
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
    """Return the choice of how much time one point of the history takes in."""
    text = "How much time each point takes in: longer is smoother, and needed where few operations end"
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
    return made.description(f"The {kind.title()} that is asked").hide(
        model.VariableHide.HIDE_VARIABLE if hide else model.VariableHide.DONT_HIDE
    )


def _query(name: str, label: str, query: str, text: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(label).description(text).datasource(source(PROMETHEUS))
    # Grafana's own form of a query; 2 is what it sorts and refreshes by: alphabetical, and whenever the time changes.
    wrapped: dict[str, object] = {"query": query, "refId": f"variable-{name}"}
    made = made.query(wrapped).definition(query)
    return made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC
    )


def _levels() -> dashboard.QueryVariable:
    """Return the levels that are shown now, or those seen last of an operation that has ended: not each that has come and gone since.

    Every one of them has a gauge, and an exporter shows at most ``MOST_LEVELS``.
    """
    seen = f"timestamp({series(semconv.LEVEL_CURRENT, CHOSEN)})"
    last = f"topk({MOST_LEVELS}, max by (level) (max_over_time({seen}[$__range:1m])))"
    query = f"query_result(max by (level) ({seen}) or on () {last})"
    made = _many(LEVEL, "Level", query, "Levels below the operation; each has a gauge")
    return made.regex(r'/^\{level="(.*)"\} /').sort(model.VariableSort.NATURAL_ASC)


def _newest(label: str) -> str:
    """Return the newest series that describes the operation and has ``label``, also when it has ended within the shown time."""
    described = f"timestamp({series(semconv.OPERATION_INFO, CHOSEN, not_(label, ''))})"
    return f"topk(1, {described} or max_over_time({described}[$__range:1m]))"


def _trace() -> dashboard.QueryVariable:
    query = f"query_result({_newest('trace_id')})"
    made = _query(TRACE, "Trace", query, "The trace of the operation").regex('/trace_id="([0-9a-f]{32})"/')
    return made.hide(model.VariableHide.HIDE_VARIABLE)


def _preview() -> dashboard.QueryVariable:
    """Return a hidden variable that holds HTML: without a preview a picture would be a broken one, and no panel shows text instead."""
    # Grafana takes out styles that it does not know, object-fit among them; and a height of 100 % has nothing to refer to in a text panel.
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
