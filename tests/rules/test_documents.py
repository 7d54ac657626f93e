"""The runbook and the page on alerts: complete, and accepted by the tools."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from otel_progress.cli.app import cli
from tests.support.alerting.expressions import FROM_PROMETHEUS, exposed, labels_of
from tests.support.alerting.rules import (
    ALERTMANAGER,
    ALERTS_PAGE,
    CONFIGURED,
    RUNBOOK,
    alerts,
    load,
    recordings,
)
from tests.support.servers import require

PARTS = ("Meaning.", "Check.", "Action.", "False alarm.")
_PROMQL = re.compile(r"```promql\n(.*?)```", re.DOTALL)
_YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
NAMES = sorted({alert.name for alert in alerts()})
SNIPPETS = _YAML.findall(ALERTS_PAGE.read_text(encoding="utf-8"))


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of Prometheus or Alertmanager and return the result."""
    return subprocess.run(
        [require(tool), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def section(name: str) -> str:
    """Return the text below a heading of the runbook."""
    return RUNBOOK.read_text(encoding="utf-8").split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("name", NAMES)
def test_runbook_section_has_four_parts(name: str) -> None:
    """The parts are in order, with a query and a dashboard, page or command."""
    text = section(name)
    places = [text.index(f"**{part}**") for part in PARTS]
    assert places == sorted(places)
    assert _PROMQL.search(text)
    assert re.search(
        r"\*(Operation|History and ETA\s+accuracy|otel-progress itself|Targets|Rules)\*|`otel-progress ", text
    )


def test_runbook_has_sections_of_existing_alerts_only() -> None:
    """Every section of the runbook belongs to an alert."""
    assert sorted(re.findall(r"^## (.+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)) == NAMES


@pytest.mark.parametrize("query", _PROMQL.findall(RUNBOOK.read_text(encoding="utf-8")))
def test_runbook_query_uses_existing_metrics(query: str) -> None:
    """Each query parses, and its metrics and labels are exposed or recorded."""
    names = {**exposed(), **FROM_PROMETHEUS, "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
    for rule in recordings():
        names.setdefault(rule.name, frozenset({"operation_type"}))
        names[rule.name] = labels_of(rule.expression, {**names, CONFIGURED: frozenset({"operation_type"})})
    labels_of(query, names)


def test_alert_table_has_every_alert_with_its_severity() -> None:
    """The table has one row per alert with the severities of its rules."""
    rows = dict(
        re.findall(
            r"^\| \[(\w+)\]\([^)]*\) \| ([^|]+) \|", ALERTS_PAGE.read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    severities: dict[str, list[str]] = {}
    for alert in alerts():
        known = severities.setdefault(alert.name, [])
        if alert.labels["severity"] not in known:
            known.append(alert.labels["severity"])
    assert {name: ", ".join(found) for name, found in severities.items()} == {
        name: row.strip() for name, row in rows.items()
    }


def test_recording_rule_table_has_every_rule() -> None:
    """The table has exactly the recording rules."""
    told = re.findall(r"^\| `(progress:[\w:]+)` \|", ALERTS_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert told == [rule.name for rule in recordings()]


@pytest.mark.server
@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if one.startswith("groups:")])
def test_rules_of_the_page_pass_promtool(snippet: str, tmp_path: Path) -> None:
    """Rules for copying pass promtool with every lint as an error."""
    file = tmp_path / "mine.yml"
    file.write_text(snippet, encoding="utf-8")
    checked = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_windows_of_the_page_are_recorded_as_the_rule_expects() -> None:
    """The recorded name is the one that the rule for windows reads."""
    windows = [one for one in SNIPPETS if "my-progress-windows" in one]
    recorded = {
        rule["record"]
        for one in windows
        for group in yaml.safe_load(one)["groups"]
        for rule in group["rules"]
    }
    assert recorded == {CONFIGURED}
    assert any(CONFIGURED in rule.expression for rule in recordings())


@pytest.mark.server
def test_prometheus_configuration_of_the_page_is_accepted(tmp_path: Path) -> None:
    """The lines pass promtool and have the job names that the rules use."""
    snippet = next(one for one in SNIPPETS if "scrape_configs:" in one)
    file = tmp_path / "prometheus.yml"
    file.write_text(snippet, encoding="utf-8")
    checked = run("promtool", "check", "config", "--syntax-only", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {job["job_name"] for job in yaml.safe_load(snippet)["scrape_configs"]} == {
        "otel-progress-server",
        "otel-progress-worker",
    }


@pytest.mark.server
def test_receivers_and_routes_of_the_page_are_accepted(tmp_path: Path) -> None:
    """The examples replace or extend the shipped configuration and pass amtool."""
    document = load(ALERTMANAGER)
    receivers, routes = (
        yaml.safe_load(next(one for one in SNIPPETS if f"{key}:" in one))[key]
        for key in ("receivers", "routes")
    )
    assert {one["name"] for one in receivers} == {one["name"] for one in document["receivers"]}
    document["receivers"] = receivers
    document["route"]["routes"] = routes + document["route"]["routes"]
    file = tmp_path / "alertmanager.yml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    checked = run("amtool", "check-config", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for operation_type, receiver in (("import", "info"), ("backup", "default")):
        labels = (
            "alertname=ProgressFailureRatioHigh",
            "severity=warning",
            f"operation_type={operation_type}",
        )
        assert (
            run("amtool", "config", "routes", "test", f"--config.file={file}", *labels).stdout.strip()
            == receiver
        )


@pytest.mark.parametrize("page", [RUNBOOK, ALERTS_PAGE], ids=lambda page: page.name)
def test_commands_of_the_pages_have_their_options(page: Path) -> None:
    """Every `otel-progress` command of a page exists and has the options."""
    told = re.findall(
        r"^otel-progress ([^\n`]+)|`otel-progress ([^`]+)`", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert told
    for command in ((" ".join(one)).split() for one in told):
        group: click.Command | None = cli
        while isinstance(group, click.Group):
            context = click.Context(group)
            name = command.pop(0)
            group = group.get_command(context, name)
            assert group is not None, f"no command {name}"
        options = {option for parameter in group.params for option in parameter.opts}
        assert {word for word in command if word.startswith("--")} <= options
