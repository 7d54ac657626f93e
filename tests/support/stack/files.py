"""Files of the stack as data, and the content of their images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

PROJECT: Final = Path(__file__).resolve().parents[3]
COMPOSE: Final = PROJECT / "docker-compose.yml"
DEPLOY: Final = PROJECT / "deploy"
GUIDE: Final = PROJECT / "docs" / "deploy.md"

BUILT: Final = {"otel-progress-server", "otel-progress-worker"}
"""The images of deploy/Dockerfile."""
PROGRAMS: Final = {
    "otel-progress-server": {"python"},
    "otel-progress-worker": {"python"},
    "prom/prometheus": {"wget"},
    "prom/alertmanager": {"wget"},
    "grafana/tempo": {"/tempo"},
    "grafana/loki": {"/usr/bin/loki"},
    "grafana/grafana": {"wget"},
    "redis": {"redis-cli"},
    "otel/opentelemetry-collector-contrib": set[str](),
}
"""The program in each image that can check its service's health, by its Dockerfile. Prometheus and
Alertmanager are based on busybox (distroless variants have another tag), Grafana and Redis on
Alpine. Tempo (from 3.0) and Loki (from 3.6.5) are distroless and have a flag ``-health``. The
Collector's image is made from scratch and has none.
"""
BUNDLED_PLUGINS: Final = {
    *(
        "elasticsearch",
        "grafana-postgresql-datasource",
        "grafana-pyroscope-datasource",
        "influxdb",
        "jaeger",
        "loki",
        "mssql",
    ),
    *("mysql", "opentsdb", "prometheus", "stackdriver", "tempo", "zipkin"),
}
"""The content of data/plugins-bundled in Grafana's image, 13.2: datasources that run as processes.
"""
LISTENS: Final = {
    "server": {7764},
    "worker": {9464},
    "collector": {4317, 4318, 8889, 13133},
    "prometheus": {9090},
    "alertmanager": {9093},
    "tempo": {3200, 4317},
    "loki": {3100},
    "grafana": {3000},
    "redis": {6379},
}
"""The ports on which each service listens within the network of the stack."""


def load(path: Path) -> Any:
    """Return the one document of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def compose() -> dict[str, Any]:
    """Return docker-compose.yml with resolved anchors."""
    found = load(COMPOSE)
    assert isinstance(found, dict)
    return found


def services() -> dict[str, dict[str, Any]]:
    """Return the services by name."""
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def provisioned() -> list[dict[str, Any]]:
    """Return the provisioned datasources of Grafana."""
    found: list[dict[str, Any]] = load(DEPLOY / "grafana" / "provisioning" / "datasources" / "stack.yaml")[
        "datasources"
    ]
    return found


def image(service: dict[str, Any]) -> tuple[str, str]:
    """Return name and tag of a service's image."""
    name, _, tag = service["image"].rpartition(":")
    return name, tag


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield (source, target, whether read-only) of each volume of a service."""
    for written in service.get("volumes", ()):
        source, target, *options = written.split(":")
        yield source, target, options == ["ro"]


def host_path(service: dict[str, Any], inside: str) -> Path | None:
    """Return the project's file that is mounted at a container path, or None."""
    for source, target, _ in mounts(service):
        if inside == target or inside.startswith(f"{target}/"):
            return (
                None
                if not source.startswith("./")
                else PROJECT / source[2:] / inside[len(target) :].lstrip("/")
            )
    return None


def address(text: str) -> tuple[str, int, str]:
    """Return host, port and path of ``host:port`` or a URL."""
    match = re.fullmatch(r"(?:http://)?([a-z0-9.-]+):([0-9]+)(/.*)?", text)
    assert match is not None, f"{text!r} is not an address with a port"
    return match[1], int(match[2]), match[3] or ""


def assert_reachable(text: str) -> None:
    """Fail unless an address is a service of the stack with a port it listens on."""
    host, port, _ = address(text)
    assert port in LISTENS.get(host, set()), f"nothing listens at {text}"
