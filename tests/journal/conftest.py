"""Journals for the tests of behaviour, which run with every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_progress.journal import Journal, SqliteJournal
from tests.support.fake_time import FakeTime
from tests.support.journal_processes import PATIENT

Opener = Callable[..., Journal]


@pytest.fixture
def fake_time() -> FakeTime:
    """Clocks of the journals of this test."""
    return FakeTime()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """File of the SQLite journal of this test."""
    return tmp_path / "state" / "progress.db"


@pytest.fixture(params=["sqlite"])
def open_another(request: pytest.FixtureRequest, path: Path, fake_time: FakeTime) -> Iterator[Opener]:
    """Open journals over one store, as several processes would."""
    opened: list[Journal] = []

    def open_(**options: object) -> Journal:
        assert request.param == "sqlite"
        clocks = {"now": fake_time.read_now, "clock": fake_time.read_clock, "sleep": fake_time.sleep}
        journal = SqliteJournal(path, **{"limits": PATIENT, **clocks, **options})
        opened.append(journal)
        return journal

    yield open_
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_another: Opener) -> Journal:
    """An empty journal."""
    return open_another()
