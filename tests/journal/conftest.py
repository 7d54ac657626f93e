"""Journals for the tests: one behaviour suite runs on every backend that is listed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from factories import CLOCK, WALL
from otel_progress.journal import Journal, SqliteJournal


@dataclass
class FakeTime:
    """Wall and monotonic clock of the journal under test, moved by hand; sleeping moves both."""

    now: float = WALL
    clock: float = CLOCK
    naps: list[float] = field(default_factory=list)

    def read_now(self) -> float:
        """Return Unix seconds."""
        return self.now

    def read_clock(self) -> float:
        """Return monotonic seconds."""
        return self.clock

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.clock += seconds

    def sleep(self, seconds: float) -> None:
        """Sleep in no time."""
        self.naps.append(seconds)
        self.pass_(seconds)


Opener = Callable[..., Journal]


@pytest.fixture
def fake_time() -> FakeTime:
    """The clocks that the journals of this test read."""
    return FakeTime()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the SQLite journal of this test is."""
    return tmp_path / "state" / "progress.db"


@pytest.fixture(params=["sqlite"])
def open_another(request: pytest.FixtureRequest, path: Path, fake_time: FakeTime) -> Iterator[Opener]:
    """Open journals over one store, as several processes would."""
    opened: list[Journal] = []

    def open_(**options: object) -> Journal:
        assert request.param == "sqlite"
        journal = SqliteJournal(path, now=fake_time.read_now, clock=fake_time.read_clock, sleep=fake_time.sleep, **options)
        opened.append(journal)
        return journal

    yield open_
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_another: Opener) -> Journal:
    """An empty journal."""
    return open_another()
