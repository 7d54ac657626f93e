"""Each program's configuration by itself: only options that it knows, and pipelines of parts that are there."""

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
def test_options_are_known(name: str) -> None:
    """Every option is one that the program's documentation has, with a value of its kind."""
    path, schema = FILES[name]
    jsonschema.Draft202012Validator(schema).validate(load(path))


@pytest.mark.parametrize("name", FILES)
def test_unknown_options_are_found(name: str) -> None:
    """The check above can fail: an option more, and it does."""
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


def test_components_of_the_collector_are_in_its_distribution(collector: dict[str, Any]) -> None:
    """Every component is of a type that the contrib distribution has under this name, with options it knows."""
    assert set(collector) == {"extensions", "receivers", "processors", "exporters", "service"}
    for kind, known in schemas.COLLECTOR.items():
        for name, options in collector[kind].items():
            jsonschema.Draft202012Validator(known[name.partition("/")[0]]).validate(options or {})


def test_pipelines_are_made_of_what_is_declared(collector: dict[str, Any]) -> None:
    """Every part of a pipeline is declared, and everything that is declared is in use."""
    pipelines = collector["service"]["pipelines"]
    assert set(pipelines) == {"traces", "logs", "metrics"}
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(collector[kind])
    assert collector["service"]["extensions"] == list(collector["extensions"])


def test_pipelines_begin_by_looking_at_memory(collector: dict[str, Any]) -> None:
    """The limiter is first, as its documentation asks, so that senders are refused before anything is kept; batches are made last."""
    for pipeline in collector["service"]["pipelines"].values():
        assert pipeline["receivers"] == ["otlp"]
        assert pipeline["processors"] == ["memory_limiter", "batch"]


def test_names_of_metrics_are_translated_as_documented(collector: dict[str, Any]) -> None:
    """The exporter makes the names that tests/support/stack/prometheus_names.py makes, with no label that a scrape does not have."""
    exporter = collector["exporters"]["prometheus"]
    assert exporter["translation_strategy"] == "UnderscoreEscapingWithSuffixes"
    assert exporter["without_scope_info"] is True
    assert exporter["enable_open_metrics"] is True
    assert "namespace" not in exporter


def test_only_the_service_is_a_label_of_logs() -> None:
    """Ids of processes and operations do not become streams of Loki: the one label is the service's name."""
    attributes = load(FILES["loki"][0])["limits_config"]["otlp_config"]["resource_attributes"]
    assert attributes["ignore_defaults"] is True
    assert attributes["attributes_config"] == [{"action": "index_label", "attributes": ["service.name"]}]


def test_traces_and_logs_are_kept_equally_long() -> None:
    """Tempo's two parts agree on the retention, and Loki keeps what a trace links to as long."""
    tempo, loki = load(FILES["tempo"][0]), load(FILES["loki"][0])
    retention = tempo["backend_worker"]["compaction"]["block_retention"]
    assert tempo["backend_scheduler"]["provider"]["compaction"]["compaction"]["block_retention"] == retention
    assert loki["limits_config"]["retention_period"] == retention
    assert loki["compactor"]["retention_enabled"] is True
