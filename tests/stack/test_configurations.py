"""Configuration files of the programs: known options and complete pipelines."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.support.stack import config_schemas as schemas
from tests.support.stack.files import DEPLOY, load

pytestmark = pytest.mark.stack

GRAFANA = DEPLOY / "grafana" / "provisioning"
FILES = {
    "datasources": (GRAFANA / "datasources" / "stack.yaml", schemas.GRAFANA_DATASOURCES),
    "dashboards": (GRAFANA / "dashboards" / "progress.yaml", schemas.GRAFANA_DASHBOARDS),
    "tempo": (DEPLOY / "tempo" / "tempo.yaml", schemas.TEMPO),
    "loki": (DEPLOY / "loki" / "loki.yaml", schemas.LOKI),
}
COLLECTOR = DEPLOY / "collector" / "config.yaml"


@pytest.mark.parametrize("name", FILES)
def test_options_are_documented(name: str) -> None:
    """Every option is in the program's documentation and has the right type."""
    path, schema = FILES[name]
    jsonschema.Draft202012Validator(schema).validate(load(path))


@pytest.mark.parametrize("name", FILES)
def test_options_with_unknown_key_are_rejected(name: str) -> None:
    """The check above can fail."""
    path, schema = FILES[name]
    wrong = load(path)
    wrong["ingester"] = {}
    assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)


@pytest.fixture(scope="module")
def collector() -> dict[str, Any]:
    """The Collector's configuration."""
    found = load(COLLECTOR)
    assert isinstance(found, dict)
    return found


def test_collector_components_are_in_the_distribution(collector: dict[str, Any]) -> None:
    """The contrib distribution has each component with these options."""
    assert set(collector) == {"extensions", "receivers", "processors", "exporters", "service"}
    for kind, known in schemas.COLLECTOR.items():
        for name, options in collector[kind].items():
            jsonschema.Draft202012Validator(known[name.partition("/")[0]]).validate(options or {})


def test_collector_pipelines_use_declared_components(collector: dict[str, Any]) -> None:
    """All declared components are used."""
    pipelines = collector["service"]["pipelines"]
    assert set(pipelines) == {"traces", "logs", "metrics"}
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(collector[kind])
    assert collector["service"]["extensions"] == list(collector["extensions"])


def test_collector_pipelines_start_with_the_memory_limiter(collector: dict[str, Any]) -> None:
    """Batches are last, as the documentation recommends."""
    for pipeline in collector["service"]["pipelines"].values():
        assert pipeline["receivers"] == ["otlp"]
        assert pipeline["processors"] == ["memory_limiter", "batch"]


def test_collector_metric_names_match_the_scrape(collector: dict[str, Any]) -> None:
    """The exporter and tests/support/stack/prometheus_names.py translate equally."""
    exporter = collector["exporters"]["prometheus"]
    assert exporter["translation_strategy"] == "UnderscoreEscapingWithSuffixes"
    assert exporter["without_scope_info"] is True
    assert exporter["enable_open_metrics"] is True
    assert "namespace" not in exporter


def test_loki_label_is_the_service_only() -> None:
    """Ids of processes and operations do not create streams."""
    attributes = load(FILES["loki"][0])["limits_config"]["otlp_config"]["resource_attributes"]
    assert attributes["ignore_defaults"] is True
    assert attributes["attributes_config"] == [{"action": "index_label", "attributes": ["service.name"]}]


def test_retention_of_traces_and_logs_is_equal() -> None:
    """Both parts of Tempo and Loki have the same retention."""
    tempo, loki = load(FILES["tempo"][0]), load(FILES["loki"][0])
    retention = tempo["backend_worker"]["compaction"]["block_retention"]
    assert tempo["backend_scheduler"]["provider"]["compaction"]["compaction"]["block_retention"] == retention
    assert loki["limits_config"]["retention_period"] == retention
    assert loki["compactor"]["retention_enabled"] is True
