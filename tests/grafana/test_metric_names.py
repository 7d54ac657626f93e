"""Metrics and labels in dashboards: all exist, and all are used or listed."""

from __future__ import annotations

import re
from typing import Any

import promql_parser
import pytest

from otel_progress import semconv
from tests.support.grafana import promql
from tests.support.grafana.dashboards import (
    Target,
    boards,
    fill,
    plain,
    promql_of,
    query_of,
    targets,
    variables,
)

UNUSED: dict[semconv.Metric, str] = {}
"""Metrics that no dashboard shows, with the reason."""
BOARDS = boards()
PROMETHEUS = [target for target in targets() if target.kind == "prometheus"]


def parsed(target: Target) -> Any:
    """Return the query of a target as a tree."""
    return promql_parser.parse(fill(target.expression, plain(BOARDS[target.board])))


def asked_by_variables() -> list[tuple[str, str]]:
    """Return the PromQL of all variables and annotations with its location."""
    found = []
    for name, board in BOARDS.items():
        for variable in variables(board, "query"):
            expression, label = promql_of(query_of(variable))
            found.append(
                (f"{name}: variable {variable['name']} {label or ''}", fill(expression, plain(board)))
            )
        asked = [one for one in board["annotations"]["list"] if "expr" in one]
        found += [(f"{name}: annotation {one['name']}", fill(one["expr"], plain(board))) for one in asked]
    return found


@pytest.mark.parametrize("target", PROMETHEUS, ids=str)
def test_query_uses_existing_metrics_and_labels(target: Target) -> None:
    """The legend uses existing labels, too."""
    given = promql.labels(parsed(target))
    named = set(re.findall(r"{{\s*(\w+)\s*}}", target.json.get("legendFormat", "")))
    assert named <= given


@pytest.mark.parametrize(
    ("where", "expression"), asked_by_variables(), ids=lambda value: value if ": " in value else ""
)
def test_variables_and_annotations_use_existing_metrics(where: str, expression: str) -> None:
    """They list values of labels that the metrics have."""
    given = promql.labels(promql_parser.parse(expression))
    label = where.rpartition(" ")[2]
    assert not label or ": annotation" in where or label in given


def test_texts_use_labels_of_their_queries() -> None:
    """Columns of tables and texts of annotations are checked."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            if panel["type"] == "table":
                given = set().union(
                    *(promql.labels(parsed(Target(name, panel, one))) for one in panel["targets"])
                )
                (organise,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
                columns = {column for column in organise["renameByName"] if not column.startswith("Value")}
                assert columns <= given, (name, panel["title"])
        for annotation in board["annotations"]["list"]:
            texts = annotation.get("titleFormat", "") + annotation.get("textFormat", "")
            named = set(re.findall(r"{{(\w+)}}", texts))
            assert not named or named <= promql.labels(
                promql_parser.parse(fill(annotation["expr"], plain(board)))
            ), (
                name,
                annotation,
            )


def test_exported_metrics_are_on_a_dashboard_or_listed() -> None:
    """The list has a reason per metric."""
    trees = [parsed(target) for target in PROMETHEUS] + [
        promql_parser.parse(text) for _, text in asked_by_variables()
    ]
    used = set().union(*(promql.metrics(tree) for tree in trees))
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} | used
    missing = [metric for metric in semconv.METRICS if metric.prometheus not in bare]
    assert [metric.prometheus for metric in missing if metric not in UNUSED] == []
    assert [metric.prometheus for metric in UNUSED if metric not in missing] == [], "in the list, but shown"


def test_other_metrics_are_used_and_have_a_reason() -> None:
    """An exception that no query needs has to be removed."""
    used = set().union(*(promql.metrics(parsed(target)) for target in PROMETHEUS))
    assert set(promql.FOREIGN) <= used


def test_labels_of_query_with_wrong_label_is_rejected() -> None:
    """The checks above can fail: unknown labels, labels dropped by an aggregation."""
    ratio = semconv.OPERATION_RATIO.prometheus
    for wrong in (
        f'{ratio}{{level="x"}}',
        f"max by (level) ({ratio})",
        f"sum by (le) (max by (operation_id) ({ratio}))",
        "no_such_metric",
    ):
        with pytest.raises(AssertionError):
            promql.labels(promql_parser.parse(wrong))


def test_log_and_trace_queries_use_the_attributes() -> None:
    """Loki is queried by operation id, and Tempo by the trace id of the gauges."""
    attribute = semconv.OPERATION_ID.replace(".", "_")
    others = {target.kind: target.expression for target in targets() if target.kind != "prometheus"}
    assert others == {
        "loki": f'{{service_name=~".+"}} | {attribute}=~`${{operation_id:regex}}`',
        "tempo": "${trace_id}",
    }
