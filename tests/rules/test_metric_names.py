"""Every metric and label in an expression or an annotation is one the exporter shows, or one that a recording rule makes."""

from __future__ import annotations

import re

import pytest

from tests.support.alerting.expressions import FROM_PROMETHEUS, exposed, labels_of, names_in
from tests.support.alerting.rules import CONFIGURED, Rule, alerts, embedded_queries, recordings, rules


def known() -> dict[str, frozenset[str]]:
    """Return the labels of everything that can be asked for: exposed series, Prometheus' own, recording rules."""
    found = {**exposed(), **FROM_PROMETHEUS, CONFIGURED: frozenset({"operation_type"})}
    for rule in recordings():
        found.setdefault(rule.name, frozenset({"operation_type"}))  # a rule that remembers asks for itself
        found[rule.name] = labels_of(rule.expression, found)
    return found


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_expressions_ask_for_what_exists(rule: Rule) -> None:
    """Each name is in semconv or a recording rule, and each label of a matcher, an aggregation or a match is one it has."""
    labels_of(rule.expression, known())


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.id)
def test_annotations_ask_for_what_exists(rule: Rule) -> None:
    """Labels in texts and links are labels the alert has, and queries within them ask for what exists."""
    names = known()
    has = labels_of(rule.expression, names) | set(rule.labels)
    for template in rule.annotations.values():
        assert set(re.findall(r"\$labels\.(\w+)", template)) <= has
        for query in embedded_queries(template):
            labels_of(query, names)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.id)
def test_every_label_of_a_name_in_a_query_is_quoted(rule: Rule) -> None:
    """Ids of callers go into queries by %q and into links by urlquery, so no id breaks out of either."""
    for name, template in rule.annotations.items():
        for verb in re.findall(r"%\w", "".join(embedded_queries(template))):
            pytest.fail(f"{rule.id}: {verb} is left in {name}")
        if name == "dashboard_url":
            labels = re.findall(r"\{\{ \$labels\.\w+ [^}]*\}\}", template)
            assert all(one.endswith("| urlquery }}") for one in labels)
            assert len(labels) == template.count("$labels")


def test_a_label_may_only_be_asked_for_once_it_is_there() -> None:
    """The order of the recording rules is one in which each builds on those above it, or on itself."""
    above: set[str] = {*exposed(), *FROM_PROMETHEUS, CONFIGURED}
    for rule in recordings():
        assert names_in(rule.expression) <= above | {rule.name}
        above.add(rule.name)


def test_every_recording_rule_is_used() -> None:
    """Nothing is recorded that no alert needs."""
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
def test_a_wrong_name_is_found(expression: str, complaint: str) -> None:
    """The checks above can fail: a misspelt metric, a label that is not there, one that an aggregation has dropped."""
    with pytest.raises(AssertionError, match=complaint):
        labels_of(expression, known())


def test_labels_are_followed_through_an_expression() -> None:
    """What an alert ends up with is what Prometheus gives it: without job and instance for operations."""
    names = known()
    of = {rule.id: labels_of(rule.expression, names) for rule in alerts()}
    assert of["ProgressOperationStalled-warning"] == {"operation_id", "operation_type"}
    assert of["ProgressNoRecentSuccess-critical"] == {"operation_type"}
    assert of["ProgressSinkErrors-warning"] == {"job", "instance", "sink"}
    assert of["ProgressWatchdog-none"] == set()
