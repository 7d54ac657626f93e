"""A real journal with real records of every kind, and the application over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_progress.journal import SqliteJournal
from tests.support.sample_operations import NOW_CLOCK, NOW_WALL, fill

# The web framework is imported when used: without it these tests are skipped one file at a time.


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """A journal that holds the stock, read two minutes after its start."""
    made = SqliteJournal(tmp_path / "progress.db", now=lambda: NOW_WALL, clock=lambda: NOW_CLOCK)
    fill(made)
    yield made
    made.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Make clients of applications over a reader; the threads those started end with the test."""
    from otel_progress.server import ServerSettings, create_app
    from otel_progress.server.settings import Limits
    from tests.support.rest_client import Client
    from tests.support.server_threads import threads_end

    apps = []

    def make(reader: Any, *, controller: Any = None, **settings: Any) -> Client:
        settings = {
            "limits": Limits(body_s=60.0, answer_s=60.0),
            **settings,
        }  # where time runs out a test says so
        app = create_app(reader, settings=ServerSettings(**settings), controller=controller)
        apps.append(app)
        return Client(app)

    with threads_end():
        yield make
        for app in apps:
            app.state.services.asking.close()


@pytest.fixture
def client(journal: SqliteJournal, serve: Callable[..., Any]) -> Any:
    """A client of the journal's application with default settings, which may also control."""
    return serve(journal, controller=journal)
