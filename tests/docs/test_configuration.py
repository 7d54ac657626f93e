"""Configuration and queries for other programs that documents show."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support.documents import DOCUMENTS, blocks
from tests.support.servers import require

pytestmark = pytest.mark.server

QUERIES = [block.text for path in DOCUMENTS for block in blocks(path) if block.language == "promql"]
SCRAPES = [
    block.text
    for path in DOCUMENTS
    for block in blocks(path)
    if block.language == "yaml" and "scrape_configs" in block.text
]


MANIFESTS = [
    pytest.param(block.text, id=f"{path.name}:{block.line}")
    for path in DOCUMENTS
    for block in blocks(path)
    if block.language == "yaml" and block.text.startswith("apiVersion: batch/")
]
KUBERNETES = "1.37.0"


def promtool(*arguments: object) -> None:
    """Run promtool. The test fails with its messages if promtool rejects the input."""
    done = subprocess.run(
        [require("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promql_blocks_of_documents_are_accepted(tmp_path: Path) -> None:
    """The parser of Prometheus accepts every query."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(QUERIES)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "documents", "rules": rules}]}), encoding="utf-8")
    assert rules
    promtool("check", "rules", file)


@pytest.mark.parametrize("text", SCRAPES)
def test_scrape_configuration_of_documents_is_accepted(text: str, tmp_path: Path) -> None:
    """Prometheus accepts the scrape configuration that a document shows."""
    file = tmp_path / "prometheus.yml"
    file.write_text(text, encoding="utf-8")
    promtool("check", "config", file)


@pytest.mark.parametrize("text", MANIFESTS)
def test_kubernetes_manifest_of_documents_is_valid(text: str) -> None:
    """A manifest in a document has only fields that Kubernetes knows."""
    kubernetes_validate.validate(yaml.safe_load(text), KUBERNETES, strict=True)
