"""Fixtures for the tests of the live store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lock_assertions import assert_locks


@pytest.fixture(autouse=True)
def unlocked_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Assert in every test here that functions that require the lock are called with it."""
    calls = assert_locks(monkeypatch)
    yield calls
    assert calls == []
