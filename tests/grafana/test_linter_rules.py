"""The dashboards keep the rules of Grafana's linter, and each rule finds what it is there for."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.grafana.dashboards import boards, panels
from tests.support.grafana.linter import RULES

BOARDS = boards()
ALERTS = "alerts are a series of Prometheus' own rules, which have the labels of the rule and neither job nor instance"
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
"""Findings that are as they should be, and why."""


def found(rule: str, board: dict[str, Any]) -> set[tuple[str, str]]:
    """Return where a rule finds something in a dashboard."""
    return {(rule, where) for where, _ in RULES[rule](board)}


def test_there_are_seventeen() -> None:
    """All rules of the linter are here."""
    assert len(RULES) == 17


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", BOARDS)
def test_rule_is_kept(name: str, rule: str) -> None:
    """A dashboard keeps a rule, or the exception has a reason."""
    wrong = [finding for finding in RULES[rule](BOARDS[name]) if (rule, finding[0]) not in EXCEPTIONS]
    assert wrong == []


def test_exceptions_are_needed() -> None:
    """No exception outlives what it excuses."""
    excused = set().union(*(found(rule, board) for rule in RULES for board in BOARDS.values()))
    assert set(EXCEPTIONS) <= excused


def variable(board: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a variable of a dashboard, to be spoiled."""
    return next(one for one in board["templating"]["list"] if one["name"] == name)


def table(board: dict[str, Any]) -> dict[str, Any]:
    """Return the first table of a dashboard, a kind that the linter does not look at."""
    return next(panel for panel in panels(board) if panel["type"] == "table")


def rewrite(pattern: str, to: str, kind: str = "table") -> Callable[[dict[str, Any]], None]:
    """Return what spoils the queries of a kind of panels."""

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
def test_rule_finds_what_it_is_for(rule: str) -> None:
    """A dashboard that is spoilt in the way a rule is about is found by this rule, tables and state timelines included."""
    board = copy.deepcopy(BOARDS["progress-operation.json"])
    before = found(rule, board)
    SPOILT[rule](board)
    assert found(rule, board) - before
