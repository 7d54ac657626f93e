"""The rule files: valid for Prometheus, with a unit test per alert."""

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
"""The alert that is never silent and never resolved."""
NAMES = {
    *(
        "ProgressOperationStalled",
        "ProgressOperationAbandoned",
        "ProgressOperationPastDeadline",
        "ProgressOperationEtaOverrun",
    ),
    *("ProgressFailureRatioHigh", "ProgressNoRecentSuccess", "ProgressSeriesDropped", "ProgressSinkErrors"),
    *("ProgressOperationFailures", "ProgressTargetDown", ALWAYS),
}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool and return the result."""
    command = [require("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_check_rules_has_no_finding() -> None:
    """`promtool check rules` accepts the files with every lint as an error."""
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") == len(RULE_FILES) == 2


def test_check_rules_with_duplicate_rule_is_rejected(tmp_path: Path) -> None:
    """The check above can fail."""
    document = load(RULE_FILES[0])
    document["groups"][0]["rules"] *= 2
    twice = tmp_path / "twice.yml"
    twice.write_text(yaml.safe_dump(document))
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", twice).returncode != 0


def test_check_config_with_rules_and_token_is_accepted(tmp_path: Path) -> None:
    """prometheus.yml is valid with its rules and its token file."""
    shutil.copy(CONFIG, tmp_path)
    shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
    without_token = promtool("check", "config", tmp_path / CONFIG.name)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("t" * 32)
    checked = promtool("check", "config", tmp_path / CONFIG.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rule files found" in checked.stdout
    assert without_token.returncode != 0, "the file with the token is not used"


def test_unit_test_file_passes() -> None:
    """`promtool test rules` passes for every file."""
    tested = promtool("test", "rules", *UNIT_TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.count("SUCCESS") == len(UNIT_TESTS) == len(NAMES)


def test_unit_test_file_without_alerts_fails(tmp_path: Path) -> None:
    """Each file detects that no alert fires any more, so it cannot pass for any rules."""
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
def test_alert_has_a_unit_test_per_situation(file: Path) -> None:
    """Each alert has a file with a group per situation, and each group has a check."""
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


def test_unit_test_file_has_a_fixed_group_order() -> None:
    """Recording rules are first. Otherwise promtool uses any order, and results vary."""
    order = list(dict.fromkeys(rule.group for rule in (*recordings(), *alerts())))
    for file in UNIT_TESTS:
        assert load(file)["group_eval_order"] == order


def test_alert_names_are_the_documented_ones() -> None:
    """Recording rules have the prefix of the project."""
    assert {rule.name for rule in alerts()} == NAMES
    assert all(re.fullmatch(r"progress:[a-z_]+:[a-z0-9_]+", rule.name) for rule in recordings())


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.id)
def test_alert_has_severity_summary_description_and_links(rule: Rule) -> None:
    """The description contains a value."""
    assert rule.labels["severity"] in SEVERITIES
    assert set(rule.annotations) == {"summary", "description", "dashboard_url", "runbook_url"}
    assert "{{" in rule.annotations["description"]
    assert "\n" not in rule.annotations["description"].strip()
    assert len(rule.annotations["summary"]) <= 120


def test_annotations_format_ages_and_ratios() -> None:
    """Durations use humanizeDuration and ratios humanizePercentage."""
    for rule in alerts():
        shown = re.findall(
            r"\{\{-? *(?:\$value|\. \| first \| value) *(\|[^}]*)?-?\}\}", rule.annotations["description"]
        )
        if "seconds" in rule.expression or "timestamp" in rule.expression:
            assert shown, rule.id
            assert all("humanizeDuration" in one or "humanizePercentage" in one for one in shown), rule.id


def test_stalled_alert_excludes_paused_work() -> None:
    """Stalled and paused are different conditions, and the alert selects stalled only."""
    stalled = next(rule for rule in alerts() if rule.name == "ProgressOperationStalled")
    assert 'condition="stalled"' in stalled.expression
    assert "paused" not in stalled.expression


def test_alerts_on_operations_drop_job_and_instance() -> None:
    """Gauges of operations are always aggregated, so no alert fires twice."""
    of_operations = {
        metric.prometheus
        for metric in semconv.METRICS
        if metric.labels[:2] == ("operation_id", "operation_type")
    }
    for rule in alerts():
        used = {name for name in of_operations if name in rule.expression}
        assert not used, f"{rule.id} asks for {used} directly"


def test_counters_in_expressions_are_in_a_rate_or_difference() -> None:
    """Counters are in increase() or compared with an earlier value."""
    for rule in rules():
        for metric in (metric for metric in semconv.METRICS if metric.kind == "counter"):
            if metric.prometheus in rule.expression:
                assert f"increase({metric.prometheus}" in rule.expression, rule.id
