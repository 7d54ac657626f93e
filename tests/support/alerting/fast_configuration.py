"""The shipped configuration with short times and loopback addresses.

Only the changes listed here are made; test_fast_configuration.py compares everything else with the
shipped files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.alerting.rules import ALERTMANAGER, CONFIG, RULE_FILES, load

EVERY: Final = "500ms"
"""Scrape and evaluation interval of Prometheus."""
SHORT: Final = "1s"
"""How long a condition must hold, and how long an alert is kept."""
RULE_TIMES: Final = ("for", "keep_firing_for")
GLOBAL_TIMES: Final = ("scrape_interval", "scrape_timeout", "evaluation_interval")
ROUTE_TIMES: Final[Mapping[str, str]] = {"group_wait": "100ms", "group_interval": EVERY}


def quick_rules(document: Any) -> Any:
    """Return a file of rules with shortened intervals and alert times."""
    made = copy.deepcopy(document)
    for group in made["groups"]:
        if "interval" in group:
            group["interval"] = EVERY
        for rule in group["rules"]:
            rule.update({key: SHORT for key in RULE_TIMES if key in rule})
    return made


def quick_prometheus(document: Any, targets: Mapping[str, int], alertmanager: int) -> Any:
    """Return prometheus.yml with short intervals and loopback ports per job.

    A job without a port has no target.
    """
    made = copy.deepcopy(document)
    made["global"].update(dict.fromkeys(GLOBAL_TIMES, EVERY))
    for job in made["scrape_configs"]:
        port = targets.get(job["job_name"])
        job["static_configs"] = [{"targets": [] if port is None else [f"127.0.0.1:{port}"]}]
    made["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]
    return made


def quick_alertmanager(document: Any, webhook: int) -> Any:
    """Return alertmanager.yml without group delays, with webhooks on another port."""
    made = copy.deepcopy(document)
    for route in (made["route"], *made["route"]["routes"]):
        route.update({key: value for key, value in ROUTE_TIMES.items() if key in route})
    for receiver in made["receivers"]:
        for hook in receiver.get("webhook_configs", []):
            hook["url"] = hook["url"].replace(":9095/", f":{webhook}/")
    return made


def write_prometheus(folder: Path, targets: Mapping[str, int], alertmanager: int, token: str) -> Path:
    """Write the configuration of Prometheus into ``folder`` and return its main file."""
    for part in ("rules", "secrets"):
        (folder / part).mkdir(parents=True)
    (folder / "secrets" / "token").write_text(token)
    for file in RULE_FILES:
        _write(folder / "rules" / file.name, quick_rules(load(file)))
    return _write(folder / CONFIG.name, quick_prometheus(load(CONFIG), targets, alertmanager))


def write_alertmanager(folder: Path, webhook: int) -> Path:
    """Write the configuration of Alertmanager into ``folder`` and return its file."""
    return _write(folder / ALERTMANAGER.name, quick_alertmanager(load(ALERTMANAGER), webhook))


def _write(file: Path, document: Any) -> Path:
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file
