"""Fixture of all example tests: a runner with its own state directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.example_runner import Runner


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Runner of Python programs with its own state directory."""
    return Runner(tmp_path / "state")
