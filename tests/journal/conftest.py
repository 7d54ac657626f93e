"""Journals for the tests of behaviour, which run with every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_progress.journal import Journal
from tests.support.fake_time import FakeTime
from tests.support.journal_openers import BACKENDS, Opener, opening_redis, opening_sqlite
from tests.support.redis_servers import RedisServer, create_name, running_redis


@pytest.fixture
def fake_time() -> FakeTime:
    """Clocks of the journals of this test."""
    return FakeTime()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """File of the SQLite journal of this test."""
    return tmp_path / "state" / "progress.db"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis server for the tests that do not change it.

    Each test uses another journal.
    """
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Kind of the journals of this test."""
    return str(request.param)


@pytest.fixture
def open_store(
    backend: str, path: Path, fake_time: FakeTime, request: pytest.FixtureRequest
) -> Iterator[Callable[[], Opener]]:
    """Open another, empty store. Return the function that opens journals over it."""
    with ExitStack() as stack:
        stores = iter(range(10_000))

        def open_() -> Opener:
            if backend == "sqlite":
                number = next(stores)
                file = path.with_name(f"{number}-{path.name}") if number else path
                return stack.enter_context(opening_sqlite(file, fake_time))
            server: RedisServer = request.getfixturevalue("redis_server")
            return stack.enter_context(opening_redis(f"{server.url}?name={create_name()}", fake_time))

        yield open_


@pytest.fixture
def open_another(open_store: Callable[[], Opener]) -> Opener:
    """Open journals over one store, as several processes would."""
    return open_store()


@pytest.fixture
def journal(open_another: Opener) -> Journal:
    """An empty journal."""
    return open_another()
