"""A journal for every test of the command line that asks for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import fill, url_of


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a journal with four operations."""
    fill(tmp_path / "progress.db")
    return url_of(tmp_path / "progress.db")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default journal is one of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
