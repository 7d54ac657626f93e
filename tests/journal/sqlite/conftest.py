"""Fixtures of the tests of SQLite files."""

from __future__ import annotations

import pytest


@pytest.fixture
def backend() -> str:
    """All journals of these tests are SQLite files."""
    return "sqlite"
