"""Fixtures of command-line tests: journals in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import fill, url_of


@pytest.fixture
def store(tmp_path: Path) -> str:
    """URL of a journal with four operations."""
    fill(tmp_path / "progress.db")
    return url_of(tmp_path / "progress.db")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a default journal of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
