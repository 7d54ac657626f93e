"""Environment without OpenTelemetry settings and proxies, for all OTLP tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        setting = name.startswith("OTEL_") and not name.startswith("OTEL_PROGRESS_TEST_")
        if setting or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
