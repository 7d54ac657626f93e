"""The 17 rules of grafana/dashboard-linter in Python, for all kinds of panels.

Each rule is a generator of (location, error). The linter checks panels only if they are stat, gauge
or time series, and queries only outside of gauges, bar gauges and heatmaps. Here every rule applies
to every panel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import grafana  # noqa: F401 - before the SDK, whose warnings it answers
import promql_parser
from grafana_foundation_sdk.models import units

from tests.support.grafana.dashboards import GLOBALS, fill, panels, plain, promql_of, query_of, variables
from tests.support.grafana.promql import nodes, selectors

Board: TypeAlias = "Mapping[str, Any]"
Finding: TypeAlias = "tuple[str, str]"
Rule: TypeAlias = "Callable[[Board], Iterator[Finding]]"

UNITS: Final = {value for name, value in vars(units).items() if name[0].isupper() and isinstance(value, str)}
"""All units that Grafana knows."""
_RATES: Final = ("rate", "irate")
_COUNTING: Final = ("rate", "irate", "increase")
_WINDOW: Final = promql_parser.parse_duration("1m")
_LINE_FILTER: Final = r'\s*\|\s*[a-zA-Z_]\w*\s*(?:=|!=|=~|!~)\s*(?:"(?:[^"\\]|\\.)*"|`[^`]*`)'
_MATCHER: Final = r'[a-zA-Z_]\w*\s*(?:=|!=|=~|!~)\s*"(?:[^"\\]|\\.)*"'
_LOGQL: Final = re.compile(rf"\{{\s*{_MATCHER}(?:\s*,\s*{_MATCHER})*\s*\}}(?:{_LINE_FILTER})*\s*")
"""The supported part of LogQL: a stream selector and filters by label."""


def template_datasource(board: Board) -> Iterator[Finding]:
    """Data sources are variables, named and labelled by their kind."""
    found = variables(board, "datasource")
    if not found:
        yield "variables", "there is no data source among them"
    for one in found:
        alone = len(found) == 1
        if one["name"] not in {f"{one['query']}_datasource", "datasource" if alone else ""}:
            yield one["name"], f"should be {one['query']}_datasource"
        if one["label"] not in {f"{one['query'].title()} data source", "Data source" if alone else ""}:
            yield one["name"], f"should be labelled {one['query'].title()} data source"


def template_job(board: Board) -> Iterator[Finding]:
    """There is a variable of jobs."""
    yield from _choice(board, "job")


def template_instance(board: Board) -> Iterator[Finding]:
    """There is a variable of instances."""
    yield from _choice(board, "instance")


def _choice(board: Board, name: str) -> Iterator[Finding]:
    (one,) = [variable for variable in board["templating"]["list"] if variable["name"] == name] or [None]
    if one is None:
        yield name, "is missing"
        return
    wanted = {"type": "query", "label": name.title(), "multi": True, "allValue": ".+"}
    for key, value in wanted.items():
        if one.get(key) != value:
            yield name, f"{key} should be {value!r}"
    if one["datasource"]["uid"] != "${prometheus_datasource}":
        yield name, "should ask the data source that is chosen"


def template_label_promql(board: Board) -> Iterator[Finding]:
    """Queries of variables are Prometheus functions around valid PromQL."""
    for one in variables(board, "query"):
        try:
            expression, _ = promql_of(query_of(one))
            promql_parser.parse(fill(expression, plain(board)))
        except (AssertionError, ValueError) as error:
            yield one["name"], str(error)


def template_on_time_change_reload(board: Board) -> Iterator[Finding]:
    """Variables are refreshed when the time range changes."""
    for one in variables(board, "query"):
        if one["refresh"] != 2:
            yield one["name"], "should be refreshed when the time range changes"


def panel_datasource(board: Board) -> Iterator[Finding]:
    """Panels, queries and annotations use data sources that are chosen by variables."""
    chosen = {f"${{{one['name']}}}" for one in variables(board, "datasource")}
    for panel in panels(board):
        for asked in (panel, *panel.get("targets", ())):
            if panel["type"] != "text" and asked["datasource"]["uid"] not in chosen:
                yield panel["title"], f"asks {asked['datasource']}"
    for one in board["annotations"]["list"]:
        if not one.get("builtIn") and one["datasource"]["uid"] not in chosen:
            yield one["name"], f"asks {one['datasource']}"


def panel_title_description(board: Board) -> Iterator[Finding]:
    """Panels have a title and a description."""
    for panel in panels(board):
        for key in ("title", "description"):
            if not panel.get(key, "").strip():
                yield f"panel {panel['id']} ({panel['type']})", f"has no {key}"


def panel_units(board: Board) -> Iterator[Finding]:
    """Panels, columns and overridden series have a unit that Grafana knows."""
    for panel in panels(board):
        if panel["type"] == "text":
            continue
        overrides = [
            one
            for override in panel["fieldConfig"]["overrides"]
            for one in override["properties"]
            if one["id"] == "unit"
        ]
        for unit in (panel["fieldConfig"]["defaults"].get("unit", ""), *(one["value"] for one in overrides)):
            if unit not in UNITS:
                yield panel["title"], f"has the unit {unit!r}"


def panel_no_targets(board: Board) -> Iterator[Finding]:
    """Panels have a query."""
    for panel in panels(board):
        if not panel.get("targets"):
            yield panel["title"], "has no query"


def target_logql(board: Board) -> Iterator[Finding]:
    """Queries to Loki are valid LogQL."""
    for panel, target in _asked(board, "loki"):
        if not _LOGQL.fullmatch(fill(target["expr"], plain(board))):
            yield panel["title"], f"is no LogQL: {target['expr']}"


def target_logql_auto(board: Board) -> Iterator[Finding]:
    """Queries to Loki over a window use Grafana's ``$__auto``."""
    for panel, target in _asked(board, "loki"):
        if any(window != "$__auto" for window in re.findall(r"\[([^\]]+)\]", target["expr"])):
            yield panel["title"], "has a fixed window"


def target_promql(board: Board) -> Iterator[Finding]:
    """Queries to Prometheus are valid PromQL."""
    for panel, target in _asked(board, "prometheus"):
        try:
            promql_parser.parse(fill(target["expr"], plain(board)))
        except ValueError as error:
            yield panel["title"], str(error)


def target_rate_interval(board: Board) -> Iterator[Finding]:
    """Rates use Grafana's ``$__rate_interval``, which depends on the scrape interval."""
    for panel, tree in _trees(board):
        for node, above in nodes(tree):
            if (
                type(node) is promql_parser.MatrixSelector
                and above
                and above[-1].func.name in _RATES
                and node.range != _WINDOW
            ):
                yield panel["title"], f"has a fixed window: {above[-1]}"


def target_job(board: Board) -> Iterator[Finding]:
    """Each selector filters by the chosen jobs."""
    yield from _matched(board, "job")


def target_instance(board: Board) -> Iterator[Finding]:
    """Each selector filters by the chosen instances."""
    yield from _matched(board, "instance")


def _matched(board: Board, label: str) -> Iterator[Finding]:
    values = {**plain(board), label: "the chosen"}
    for panel, target in _asked(board, "prometheus"):
        for selector in selectors(promql_parser.parse(fill(target["expr"], values))):
            if not any(
                (one.name, one.op, one.value) == (label, promql_parser.MatchOp.Re, "the chosen")
                for one in selector.matchers.matchers
            ):
                yield f"{panel['title']}: {selector.name}", f"takes any {label}"


def target_counter_agg(board: Board) -> Iterator[Finding]:
    """Counters are shown only as rates or increases.

    Like the linter, this rule recognises them by name.
    """
    for panel, tree in _trees(board):
        for node, above in nodes(tree):
            if type(node) is not promql_parser.VectorSelector or not node.name.endswith("_total"):
                continue
            call = above[-2] if len(above) >= 2 and type(above[-1]) is promql_parser.MatrixSelector else None
            if type(call) is not promql_parser.Call or call.func.name not in _COUNTING:
                yield panel["title"], f"shows the counter {node.name}"


def uneditable(board: Board) -> Iterator[Finding]:
    """The dashboard is not editable, because a release would overwrite changes."""
    if board.get("editable") is not False:
        yield "dashboard", "is editable"


def _asked(board: Board, kind: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for panel in panels(board):
        for target in panel.get("targets", ()):
            if target["datasource"]["type"] == kind:
                yield panel, target


def _trees(board: Board) -> Iterator[tuple[Mapping[str, Any], Any]]:
    assert GLOBALS["__rate_interval"] == "1m0s"  # required by target_rate_interval
    for panel, target in _asked(board, "prometheus"):
        yield panel, promql_parser.parse(fill(target["expr"], plain(board)))


RULES: Final[dict[str, Rule]] = {
    "template-datasource-rule": template_datasource,
    "template-job-rule": template_job,
    "template-instance-rule": template_instance,
    "template-label-promql-rule": template_label_promql,
    "template-on-time-change-reload-rule": template_on_time_change_reload,
    "panel-datasource-rule": panel_datasource,
    "panel-title-description-rule": panel_title_description,
    "panel-units-rule": panel_units,
    "panel-no-targets-rule": panel_no_targets,
    "target-logql-rule": target_logql,
    "target-logql-auto-rule": target_logql_auto,
    "target-promql-rule": target_promql,
    "target-rate-interval-rule": target_rate_interval,
    "target-job-rule": target_job,
    "target-instance-rule": target_instance,
    "target-counter-agg-rule": target_counter_agg,
    "uneditable-dashboard-rule": uneditable,
}
"""The rules by their names in the linter."""
