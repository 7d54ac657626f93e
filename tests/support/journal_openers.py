"""Journals of every backend for tests of their common behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from otel_progress.journal import Journal, SqliteJournal
from otel_progress.journal.redis.address import parse_address
from otel_progress.journal.redis.journal import RedisJournal
from otel_progress.journal.redis.limits import RedisLimits
from otel_progress.journal.sqlite.limits import JournalLimits
from tests.support.fake_time import FakeTime

BACKENDS: Final = ("sqlite", pytest.param("redis", marks=pytest.mark.server))
"""Parameters of a fixture that opens journals of each backend."""


class Opener(Protocol):
    """Opens journals over one store, as several processes would."""

    def __call__(self, **options: Any) -> Journal:
        """Return a journal.

        ``limits`` are the common ones of JournalLimits and RedisLimits.
        """


@contextmanager
def opening_sqlite(path: Path, time: FakeTime) -> Iterator[Opener]:
    """Open SQLite journals over one file until the end of the block."""

    def open_(*, limits: JournalLimits | dict[str, Any] | None = None, **options: Any) -> Journal:
        if not isinstance(limits, JournalLimits):
            # Why so long: on a busy machine a lock may be held for long.
            limits = JournalLimits(**{"busy_timeout_s": 60.0, **(limits or {})})
        return SqliteJournal(path, limits=limits, **options)

    with _closing(open_, time) as opener:
        yield opener


@contextmanager
def opening_redis(url: str, time: FakeTime) -> Iterator[Opener]:
    """Open Redis journals of one name until the end of the block."""

    def open_(*, limits: dict[str, int] | None = None, **options: Any) -> Journal:
        known = {name: value for name, value in (limits or {}).items() if name != "rows_per_pass"}
        return RedisJournal(parse_address(url), limits=RedisLimits(**known), **options)

    with _closing(open_, time) as opener:
        yield opener


@contextmanager
def _closing(open_: Callable[..., Journal], time: FakeTime) -> Iterator[Opener]:
    opened: list[Journal] = []

    def open_with_clocks(**options: Any) -> Journal:
        clocks = {"now": time.read_now, "clock": time.read_clock, "sleep": time.sleep}
        journal = open_(**{**clocks, **options})
        opened.append(journal)
        return journal

    try:
        yield open_with_clocks
    finally:
        for journal in opened:
            journal.close()
