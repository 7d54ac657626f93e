"""Fixtures of the tests of platforms."""

from __future__ import annotations

import os

import pytest

PREFIXES = ("ARGO_", "GITHUB_", "KUBEFLOW_", "NOTIFY_SOCKET", "OTEL_", "RANK", "WATCHDOG_")


@pytest.fixture(autouse=True)
def _no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of the platform that runs the tests."""
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
