"""What the tests of all examples share: a runner with a state directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.example_runner import Runner


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Run Python with a state directory of its own."""
    return Runner(tmp_path / "state")
