"""The shipped rules of Prometheus and Alertmanager."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[3]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
CONFIG: Final = PROMETHEUS / "prometheus.yml"
RULE_FILES: Final = tuple(sorted((PROMETHEUS / "rules").glob("*.yml")))
UNIT_TESTS: Final = tuple(sorted((PROMETHEUS / "tests").glob("*.test.yml")))
ALERTMANAGER: Final = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
RUNBOOK: Final = ROOT / "docs" / "runbook.md"
ALERTS_PAGE: Final = ROOT / "docs" / "alerts.md"

CONFIGURED: Final = "progress:operation_success_window:configured_seconds"
"""The window of a type, which only the user can record (docs/alerts.md)."""
SEVERITIES: Final = ("critical", "warning", "info", "none")

_EMBEDDED: Final = re.compile(r'printf "([^"]*)"((?: \$labels\.\w+)+) \| query|query "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule or an alert; ``labels`` and ``annotations`` are templates."""

    group: str
    name: str
    alert: bool
    expression: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def id(self) -> str:
        """The name used by tests. Two alerts with one name differ in their static labels."""
        return "-".join((self.name, *self.labels.values()))


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """Return every shipped rule, in the order of the files."""
    return tuple(
        _rule(group["name"], one)
        for file in RULE_FILES
        for group in load(file)["groups"]
        for one in group["rules"]
    )


def alerts() -> tuple[Rule, ...]:
    """Return the alerts."""
    return tuple(rule for rule in rules() if rule.alert)


def recordings() -> tuple[Rule, ...]:
    """Return the recording rules."""
    return tuple(rule for rule in rules() if not rule.alert)


def load(file: Path) -> Any:
    """Return the content of a YAML file."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def embedded_queries(template: str) -> list[str]:
    """Return the expressions in an annotation, with a letter for every template value."""
    found = []
    for formatted, values, literal in _EMBEDDED.findall(template):
        for _ in re.findall(r"\$labels\.\w+", values):
            formatted = formatted.replace("%q", '"x"', 1)
        found.append(formatted or literal.replace('\\"', '"'))
    assert len(found) == len(re.findall(r"\bquery\b", template)), (
        f"an embedded query was not understood: {template}"
    )
    return found


def _rule(group: str, document: Mapping[str, Any]) -> Rule:
    alert = "alert" in document
    name = document["alert" if alert else "record"]
    return Rule(
        group, name, alert, document["expr"], document.get("labels", {}), document.get("annotations", {})
    )
