"""Metrics and labels in rules: exposed by the exporter or recorded by a rule."""

from __future__ import annotations

import re

import pytest

from tests.support.alerting.expressions import FROM_PROMETHEUS, exposed, labels_of, names_in
from tests.support.alerting.rules import CONFIGURED, Rule, alerts, embedded_queries, recordings, rules


def known() -> dict[str, frozenset[str]]:
    """Return the labels of every series: exposed, of Prometheus, and recorded."""
    found = {**exposed(), **FROM_PROMETHEUS, CONFIGURED: frozenset({"operation_type"})}
    for rule in recordings():
        # A rule that reads its own earlier value.
        found.setdefault(rule.name, frozenset({"operation_type"}))
        found[rule.name] = labels_of(rule.expression, found)
    return found


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_expression_uses_existing_metrics_and_labels(rule: Rule) -> None:
    """Each label of a matcher, aggregation or match belongs to its metric."""
    labels_of(rule.expression, known())


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.id)
def test_annotation_uses_existing_metrics_and_labels(rule: Rule) -> None:
    """Labels in texts and links belong to the alert, and queries use existing metrics."""
    names = known()
    has = labels_of(rule.expression, names) | set(rule.labels)
    for template in rule.annotations.values():
        assert set(re.findall(r"\$labels\.(\w+)", template)) <= has
        for query in embedded_queries(template):
            labels_of(query, names)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.id)
def test_annotation_quotes_every_label_in_a_query(rule: Rule) -> None:
    """Ids are escaped by %q in queries and by urlquery in links."""
    for name, template in rule.annotations.items():
        for verb in re.findall(r"%\w", "".join(embedded_queries(template))):
            pytest.fail(f"{rule.id}: {verb} is left in {name}")
        if name == "dashboard_url":
            labels = re.findall(r"\{\{ \$labels\.\w+ [^}]*\}\}", template)
            assert all(one.endswith("| urlquery }}") for one in labels)
            assert len(labels) == template.count("$labels")


def test_recording_rules_use_earlier_rules_only() -> None:
    """Each rule depends on the rules above it or on itself."""
    above: set[str] = {*exposed(), *FROM_PROMETHEUS, CONFIGURED}
    for rule in recordings():
        assert names_in(rule.expression) <= above | {rule.name}
        above.add(rule.name)


def test_recording_rules_are_all_used() -> None:
    """An alert uses each recording rule."""
    asked = {name for rule in rules() for name in names_in(rule.expression) if name != rule.name}
    assert {rule.name for rule in recordings()} <= asked


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("progress_operation_ration", "no such metric"),
        ('progress_operation_ratio{operation="x"}', "asked for"),
        ("sum by (level) (progress_operation_ratio)", "aggregates"),
        ("max by (operation_id) (progress_operation_ratio) and on (instance) up", "left side"),
        ("up and on (operation_id) up", "left side"),
        ("sum(rate(progress_operation_duration_seconds{le='1'}[5m]))", "no such metric"),
        ("progress:operations:unheard_of", "no such metric"),
    ],
)
def test_labels_of_expression_with_wrong_name_is_rejected(expression: str, complaint: str) -> None:
    """The checks above fail for unknown metrics, unknown labels and dropped labels."""
    with pytest.raises(AssertionError, match=complaint):
        labels_of(expression, known())


def test_labels_of_expression_are_those_prometheus_returns() -> None:
    """Alerts on operations have no job and instance."""
    names = known()
    of = {rule.id: labels_of(rule.expression, names) for rule in alerts()}
    assert of["ProgressOperationStalled-warning"] == {"operation_id", "operation_type"}
    assert of["ProgressNoRecentSuccess-critical"] == {"operation_type"}
    assert of["ProgressSinkErrors-warning"] == {"job", "instance", "sink"}
    assert of["ProgressWatchdog-none"] == set()
