"""A journal with records of every kind, and the application over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_progress.journal import SqliteJournal
from tests.support.sample_operations import NOW_CLOCK, NOW_WALL, fill

# The web framework is imported when used: without it each test file is skipped.


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """A journal with the sample operations, read two minutes after their start."""
    made = SqliteJournal(tmp_path / "progress.db", now=lambda: NOW_WALL, clock=lambda: NOW_CLOCK)
    fill(made)
    yield made
    made.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Build clients of applications over a reader. Their threads end with the test."""
    from otel_progress.server import ServerSettings, create_app
    from otel_progress.server.settings import Limits
    from tests.support.rest_client import Client
    from tests.support.server_threads import threads_end

    apps = []

    def make(reader: Any, *, controller: Any = None, **settings: Any) -> Client:
        # Long limits, so that no test on a slow machine times out by accident.
        settings = {"limits": Limits(body_s=60.0, answer_s=60.0), **settings}
        app = create_app(reader, settings=ServerSettings(**settings), controller=controller)
        apps.append(app)
        return Client(app)

    with threads_end():
        yield make
        for app in apps:
            app.state.services.reader_pool.close()


@pytest.fixture
def client(journal: SqliteJournal, serve: Callable[..., Any]) -> Any:
    """A client of an application with default settings and a controller."""
    return serve(journal, controller=journal)
