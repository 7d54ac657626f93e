"""The registry in docs/semconv has exactly the names of semconv.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from otel_progress import semconv
from otel_progress.model import Status
from tests.support.semconv_registry import FOLDER, REGISTRY, STANDARD, build_registry


@pytest.fixture(scope="module")
def groups() -> list[Mapping[str, Any]]:
    """Groups of the registry."""
    document: Mapping[str, Any] = yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))
    return list(document["groups"])


def test_registry_is_current() -> None:
    """To write it: python -m tests.support.semconv_registry."""
    assert yaml.safe_load(REGISTRY.read_text(encoding="utf-8")) == build_registry()


def test_registry_defines_all_names_once(groups: list[Mapping[str, Any]]) -> None:
    """Attributes of OpenTelemetry itself are only referred to."""
    defined = [
        attribute["id"]
        for group in groups
        if group["type"] == "attribute_group"
        for attribute in group["attributes"]
    ]
    assert len(set(defined)) == len(defined)
    assert set(semconv.ATTRIBUTES) - set(defined) <= set(STANDARD)
    assert [group["name"] for group in groups if group["type"] == "event"] == list(semconv.EVENTS)
    metrics = {group["metric_name"]: group for group in groups if group["type"] == "metric"}
    assert set(metrics) == {metric.name for metric in semconv.METRICS}
    for metric in semconv.METRICS:
        group = metrics[metric.name]
        assert (group["instrument"], group["unit"]) == (metric.kind, metric.unit)
        assert [attribute["ref"] for attribute in group["attributes"]] == list(metric.labels)


def test_registry_refers_only_to_defined_or_standard_names(groups: list[Mapping[str, Any]]) -> None:
    """Weaver refuses others."""
    defined = {attribute.get("id") for group in groups for attribute in group["attributes"]}
    used = {attribute["ref"] for group in groups for attribute in group["attributes"] if "ref" in attribute}
    assert used <= defined | set(STANDARD)
    assert len({group["id"] for group in groups}) == len(groups)


def test_registry_lists_the_values_of_statuses(groups: list[Mapping[str, Any]]) -> None:
    """Types are those of OpenTelemetry."""
    attributes = {entry["id"]: entry for group in groups for entry in group["attributes"] if "id" in entry}
    members = [member["value"] for member in attributes[semconv.STATUS]["type"]["members"]]
    assert members == [status.value for status in Status]
    kinds = {entry["type"] for entry in attributes.values() if isinstance(entry["type"], str)}
    assert kinds == {"string", "int", "double", "boolean", "template[string]"}
    manifest = yaml.safe_load((FOLDER / "registry_manifest.yaml").read_text(encoding="utf-8"))
    assert set(manifest) == {"name", "description", "semconv_version", "schema_base_url"}
