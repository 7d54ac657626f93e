"""The rules themselves: Prometheus' own tools accept them, and their unit tests cover every alert and can fail."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from otel_progress import semconv
from tests.support.alerting.rules import (
    CONFIG,
    PROMETHEUS,
    RULE_FILES,
    SEVERITIES,
    UNIT_TESTS,
    Rule,
    alerts,
    load,
    recordings,
    rules,
)
from tests.support.servers import require

pytestmark = pytest.mark.server

SITUATIONS = ("firing", "not firing", "resolving", "restart", "missing scrape", "stale series")
ALWAYS = "ProgressWatchdog"
"""The alert that can neither be silent nor resolve."""
NAMES = {
    *(
        "ProgressOperationStalled",
        "ProgressOperationAbandoned",
        "ProgressOperationPastDeadline",
        "ProgressOperationEtaOverrun",
    ),
    *("ProgressFailureRatioHigh", "ProgressNoRecentSuccess", "ProgressSeriesDropped", "ProgressSinkErrors"),
    *("ProgressTargetDown", ALWAYS),
}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool and return what came of it."""
    command = [require("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_promtool_finds_nothing_in_the_rules() -> None:
    """`promtool check rules` accepts the files with every lint on and fatal."""
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") == len(RULE_FILES) == 2


def test_promtool_would_find_something(tmp_path: Path) -> None:
    """The check above can fail: a rule that is there twice is fatal."""
    document = load(RULE_FILES[0])
    document["groups"][0]["rules"] *= 2
    twice = tmp_path / "twice.yml"
    twice.write_text(yaml.safe_dump(document))
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", twice).returncode != 0


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    """`promtool check config` accepts prometheus.yml with the rules and the token where it says they are."""
    shutil.copy(CONFIG, tmp_path)
    shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
    without_token = promtool("check", "config", tmp_path / CONFIG.name)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("t" * 32)
    checked = promtool("check", "config", tmp_path / CONFIG.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rule files found" in checked.stdout
    assert without_token.returncode != 0, "the file with the token is not used"


def test_unit_tests_pass() -> None:
    """`promtool test rules` passes for every file."""
    tested = promtool("test", "rules", *UNIT_TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.count("SUCCESS") == len(UNIT_TESTS) == len(NAMES)


def test_unit_tests_fail_when_an_alert_never_fires(tmp_path: Path) -> None:
    """Each file of unit tests notices, by what it says of alerts alone, when none fires any more; so none passes whatever the rules say."""
    (tmp_path / "rules").mkdir()
    for file in RULE_FILES:
        document = load(file)
        for group in document["groups"]:
            group["rules"] = [{**rule, "expr": "vector(0) > 0"} for rule in group["rules"] if "alert" in rule]
        (tmp_path / "rules" / file.name).write_text(yaml.safe_dump(document))
    (tmp_path / "tests").mkdir()
    for file in UNIT_TESTS:
        document = load(file)
        for group in document["tests"]:
            group["promql_expr_test"] = []
        (tmp_path / "tests" / file.name).write_text(yaml.safe_dump(document))
    tested = promtool("test", "rules", *sorted((tmp_path / "tests").iterdir()))
    assert tested.returncode != 0
    assert "SUCCESS" not in tested.stdout
    assert (tested.stdout + tested.stderr).count("FAILED") == len(UNIT_TESTS)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name)
def test_every_situation_has_a_unit_test(file: Path) -> None:
    """Each alert has a file of unit tests with a group for every situation, and each group checks something."""
    document = load(file)
    alert = file.read_text().split(":", 1)[0].removeprefix("# ")
    assert alert in NAMES
    told = {group["name"].split(":", 1)[0] for group in document["tests"]}
    expected = set(SITUATIONS) - ({"not firing", "resolving"} if alert == ALWAYS else set())
    assert told == expected
    for group in document["tests"]:
        checks = [*group.get("alert_rule_test", []), *group.get("promql_expr_test", [])]
        assert checks, group["name"]
        assert any(alert in str(check) for check in checks), group["name"]
    assert any(group.get("alert_rule_test") for group in document["tests"]), (
        "texts and links are not compared"
    )


def test_unit_tests_evaluate_groups_in_a_fixed_order() -> None:
    """Every file names all groups, recording rules first: without it promtool takes any order, and results vary."""
    order = list(dict.fromkeys(rule.group for rule in (*recordings(), *alerts())))
    for file in UNIT_TESTS:
        assert load(file)["group_eval_order"] == order


def test_every_alert_is_there() -> None:
    """The alerts are those that are promised, and recording rules have the prefix of the project."""
    assert {rule.name for rule in alerts()} == NAMES
    assert all(re.fullmatch(r"progress:[a-z_]+:[a-z0-9_]+", rule.name) for rule in recordings())


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.id)
def test_every_alert_says_enough(rule: Rule) -> None:
    """Each alert has a known severity, a summary, a description that fills in a value, and both links."""
    assert rule.labels["severity"] in SEVERITIES
    assert set(rule.annotations) == {"summary", "description", "dashboard_url", "runbook_url"}
    assert "{{" in rule.annotations["description"]
    assert "\n" not in rule.annotations["description"].strip()
    assert len(rule.annotations["summary"]) <= 120


def test_ages_and_shares_are_written_for_people() -> None:
    """Durations go through humanizeDuration and shares through humanizePercentage: no bare seconds, no bare fractions."""
    for rule in alerts():
        shown = re.findall(
            r"\{\{-? *(?:\$value|\. \| first \| value) *(\|[^}]*)?-?\}\}", rule.annotations["description"]
        )
        if "seconds" in rule.expression or "timestamp" in rule.expression:
            assert shown, rule.id
            assert all("humanizeDuration" in one or "humanizePercentage" in one for one in shown), rule.id


def test_work_that_waits_is_never_stalled() -> None:
    """Stalled is a condition of its own beside paused, and the alert asks for that one alone."""
    stalled = next(rule for rule in alerts() if rule.name == "ProgressOperationStalled")
    assert 'condition="stalled"' in stalled.expression
    assert "paused" not in stalled.expression


def test_alerts_about_operations_forget_who_exposed_them() -> None:
    """No gauge of operations is asked for outside of an aggregation that drops job and instance, so nothing fires twice."""
    of_operations = {
        metric.prometheus
        for metric in semconv.METRICS
        if metric.labels[:2] == ("operation_id", "operation_type")
    }
    for rule in alerts():
        used = {name for name in of_operations if name in rule.expression}
        assert not used, f"{rule.id} asks for {used} directly"


def test_counters_are_never_asked_for_as_they_are() -> None:
    """A counter stands in increase() or beside its own past, so that a restart is not taken for an event."""
    for rule in rules():
        for metric in (metric for metric in semconv.METRICS if metric.kind == "counter"):
            if metric.prometheus in rule.expression:
                assert f"increase({metric.prometheus}" in rule.expression, rule.id
