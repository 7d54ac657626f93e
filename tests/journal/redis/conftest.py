"""Fixtures of the tests of Redis journals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_progress.journal.redis.address import parse_address
from otel_progress.journal.redis.journal import RedisJournal
from tests.support.redis_servers import RedisServer, create_name, running_redis


@pytest.fixture
def backend() -> str:
    """All journals of these tests are in Redis."""
    return "redis"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server that only this test uses."""
    with running_redis(tmp_path / "own-redis") as server:
        yield server


@pytest.fixture
def open_real(redis_server: RedisServer) -> Iterator[Callable[..., RedisJournal]]:
    """Open journals of one name with real clocks, as several processes would."""
    opened: list[RedisJournal] = []
    name = create_name()

    def open_(server: RedisServer = redis_server, **options: Any) -> RedisJournal:
        journal = RedisJournal(parse_address(f"{server.url}?name={name}"), **options)
        opened.append(journal)
        return journal

    yield open_
    for journal in opened:
        journal.close()
