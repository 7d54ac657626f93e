"""Integrations with task queues whose library is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize("name", ["celery", "dramatiq", "huey", "rq", "taskiq"])
def test_integration_without_its_library_names_the_fix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"otel_progress.integrations.{name}"
    for known in list(sys.modules):
        if known in (name, module) or known.startswith(f"{name}."):
            monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"Install it: pip install {name}$"):
        importlib.import_module(module)
