"""The option that rewrites golden files, and the fixture that compares with them."""

from __future__ import annotations

import os

import pytest

from tests.support.golden.files import Golden


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden``.

    The environment variable ``UPDATE_GOLDEN=1`` has the same effect.
    """
    parser.addoption(
        "--update-golden", action="store_true", default=False, help="Rewrite the files in tests/golden/data."
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare texts with golden files, or rewrite the files on request."""
    given = bool(request.config.getoption("update_golden", default=False))
    return Golden(update=given or os.environ.get("UPDATE_GOLDEN") == "1")
