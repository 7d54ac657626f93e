"""Grafana's linter rules for the dashboards, and a failing dashboard per rule."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.grafana.dashboards import boards, panels
from tests.support.grafana.linter import RULES

BOARDS = boards()
ALERTS = "Prometheus creates the series of alerts with the labels of the rule, without job and instance"
EXCEPTIONS = {
    (
        "panel-no-targets-rule",
        "Last preview",
    ): "a picture comes from a variable: no kind of panel shows one from a query",
    ("target-job-rule", "Alerts firing: ALERTS"): ALERTS,
    ("target-job-rule", "Firing alerts: ALERTS"): ALERTS,
    ("target-instance-rule", "Alerts firing: ALERTS"): ALERTS,
    ("target-instance-rule", "Firing alerts: ALERTS"): ALERTS,
}
"""Findings that are intended, with the reason."""


def find_with_rule(rule: str, board: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the findings of a rule in a dashboard."""
    return {(rule, where) for where, _ in RULES[rule](board)}


def test_linter_has_all_seventeen_rules() -> None:
    """The linter of Grafana has the same number."""
    assert len(RULES) == 17


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", BOARDS)
def test_rule_has_no_finding_without_a_reason(name: str, rule: str) -> None:
    """Intended findings are in the list of exceptions."""
    wrong = [finding for finding in RULES[rule](BOARDS[name]) if (rule, finding[0]) not in EXCEPTIONS]
    assert wrong == []


def test_exceptions_are_all_needed() -> None:
    """An exception without a finding has to be removed."""
    excused = set().union(*(find_with_rule(rule, board) for rule in RULES for board in BOARDS.values()))
    assert set(EXCEPTIONS) <= excused


def variable(board: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a variable of a dashboard for a change that breaks a rule."""
    return next(one for one in board["templating"]["list"] if one["name"] == name)


def table(board: dict[str, Any]) -> dict[str, Any]:
    """Return the first table of a dashboard, a kind outside of Grafana's linter."""
    return next(panel for panel in panels(board) if panel["type"] == "table")


def rewrite(pattern: str, to: str, kind: str = "table") -> Callable[[dict[str, Any]], None]:
    """Return a change that breaks the queries of a kind of panels."""

    def spoil(board: dict[str, Any]) -> None:
        for panel in panels(board):
            for target in panel.get("targets", ()) if panel["type"] == kind else ():
                target["expr"] = re.sub(pattern, to, target["expr"])

    return spoil


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "template-datasource-rule": lambda board: variable(board, "loki_datasource").update(name="logs"),
    "template-job-rule": lambda board: variable(board, "job").update(multi=False),
    "template-instance-rule": lambda board: variable(board, "instance").update(allValue=".*"),
    "template-label-promql-rule": lambda board: variable(board, "job")["query"].update(
        query="label_values(up{, job)"
    ),
    "template-on-time-change-reload-rule": lambda board: variable(board, "job").update(refresh=1),
    "panel-datasource-rule": lambda board: table(board)["targets"][0]["datasource"].update(
        uid="P1809F7CD0C75ACF3"
    ),
    "panel-title-description-rule": lambda board: table(board).update(description=" "),
    "panel-units-rule": lambda board: table(board)["fieldConfig"]["defaults"].update(unit="parsec"),
    "panel-no-targets-rule": lambda board: table(board).update(targets=[]),
    "target-logql-rule": rewrite(r"\}", "", "logs"),
    "target-logql-auto-rule": rewrite(r"^(.*)$", r"rate(\1 [5m])", "logs"),
    "target-promql-rule": rewrite(r"\)$", "", "table"),
    "target-rate-interval-rule": rewrite(r"\[\$__rate_interval\]", "[5m]", "timeseries"),
    "target-job-rule": rewrite(r'job=~"\$job",', "", "table"),
    "target-instance-rule": rewrite(r'instance=~"\$instance"', 'instance="$instance"', "state-timeline"),
    "target-counter-agg-rule": rewrite(r"rate\((.*?)\[.*?\]\)", r"(\1)", "timeseries"),
    "uneditable-dashboard-rule": lambda board: board.update(editable=True),
}


@pytest.mark.parametrize("rule", RULES)
def test_rule_with_broken_dashboard_finds_it(rule: str) -> None:
    """Tables and state timelines are included."""
    board = copy.deepcopy(BOARDS["progress-operation.json"])
    before = find_with_rule(rule, board)
    SPOILT[rule](board)
    assert find_with_rule(rule, board) - before
