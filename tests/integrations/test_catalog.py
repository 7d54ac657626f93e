"""Catalogue of the integrations."""

from __future__ import annotations

from importlib.metadata import entry_points

from otel_progress.integrations.catalog import INTEGRATIONS


def test_catalog_is_sorted_and_names_are_unique() -> None:
    names = [integration.name for integration in INTEGRATIONS]
    assert names == sorted(set(names))


def test_catalog_names_all_instrumentors() -> None:
    """``doctor`` explains each entry point."""
    registered = entry_points(group="opentelemetry_instrumentor")
    own = {entry.name for entry in registered if entry.value.startswith("otel_progress.")}
    named = {integration.instrumentor for integration in INTEGRATIONS if integration.instrumentor}
    assert own == named | {"progress"}
