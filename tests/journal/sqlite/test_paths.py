"""Storage of long paths: size, queries of subtrees, evictions and older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest

from otel_progress.journal import Journal, SqliteJournal
from otel_progress.journal.sqlite.paths import MAX_PATH_CHARACTERS
from otel_progress.model import Status
from otel_progress.protocols import EventQuery, LogQuery, PreviewQuery
from otel_progress.records import LogRecord
from tests.support.factories import WALL, ended, event, make_change_set, preview, snapshot

Opener = Callable[..., Journal]

DEPTH = 150


def deep_paths(depth: int) -> list[str]:
    """Return the paths of nested levels."""
    return list(
        accumulate((f"step:{number}" for number in range(depth)), lambda above, own: f"{above}/{own}")
    )


PATHS = deep_paths(DEPTH)


def record(number: int, path: str) -> LogRecord:
    """Return a log record of a level."""
    return LogRecord("friday-42", "setlist", "run-1", path, number, WALL, 20, "INFO", "x", f"text {number}")


@pytest.fixture
def deep(open_another: Opener) -> SqliteJournal:
    """A journal with a deep tree. Each level has an event, a log record and a preview."""
    journal = open_another()
    assert isinstance(journal, SqliteJournal)
    journal.write(
        make_change_set(
            snapshot(""),
            *(snapshot(path) for path in PATHS),
            *(snapshot(f"{path}0") for path in PATHS),
            events=[replace(event(number), path=path) for number, path in enumerate(PATHS, 1)],
            logs=[record(number, path) for number, path in enumerate(PATHS, 1)],
            previews=[replace(preview(number), path=path) for number, path in enumerate(PATHS, 1)],
        )
    )
    return journal


def test_long_paths_are_returned_in_full(deep: SqliteJournal, open_another: Opener) -> None:
    """Levels and records have them, in this process and in others."""
    for journal in (deep, open_another(read_only=True)):
        found = journal.get("friday-42")
        assert found is not None
        assert {level.path for level in found.levels} == {*PATHS, *(f"{path}0" for path in PATHS)}
        assert [item.path for item in journal.events("friday-42")] == PATHS
        assert [item.path for item in journal.logs("friday-42")] == PATHS
        assert [item.path for item in journal.previews("friday-42", PreviewQuery(limit=1000))] == PATHS


@pytest.mark.parametrize("index", [0, 20, 40, 100, DEPTH - 1])
def test_query_of_a_deep_level_selects_its_subtree_only(deep: SqliteJournal, index: int) -> None:
    """Siblings whose paths start with the same text are not in it."""
    path, below = PATHS[index], PATHS[index:]
    assert [item.path for item in deep.events("friday-42", EventQuery(path=path))] == below
    assert [item.path for item in deep.logs("friday-42", LogQuery(path=path))] == below
    assert [item.path for item in deep.previews("friday-42", PreviewQuery(path=path, limit=1000))] == below
    assert deep.events("friday-42", EventQuery(path=f"{path}/other:1")) == []


@pytest.mark.parametrize("index", [0, 20, 40, 100, DEPTH - 1])
def test_eviction_of_a_deep_level_deletes_its_subtree_only(deep: SqliteJournal, index: int) -> None:
    """The sibling has the same beginning and stays."""
    deep.write(make_change_set(evicted=[("run-1", PATHS[index])]))
    found = deep.get("friday-42")
    assert found is not None
    expected = {*PATHS[:index], *(f"{path}0" for path in PATHS[: index + 1])}
    assert {level.path for level in found.levels} == expected


def test_deep_levels_are_updated_by_any_process(deep: SqliteJournal, open_another: Opener) -> None:
    """Another writer has an empty cache and finds the same row."""
    other = open_another()
    for journal, sequence in ((other, 2), (deep, 3)):
        journal.write(make_change_set(*(snapshot(path, sequence, current=sequence) for path in PATHS)))
    found = deep.get("friday-42")
    assert found is not None
    assert len(found.levels) == 2 * DEPTH
    assert {found.get_level(path).current for path in PATHS} == {3}  # type: ignore[union-attr]


def test_journal_size_grows_in_proportion_to_the_depth(tmp_path: Path) -> None:
    """Twice the depth needs about twice the space, and not four times of it."""
    sizes = []
    for depth in (400, 800):
        with closing(SqliteJournal(tmp_path / f"{depth}.db", now=lambda: WALL)) as journal:
            paths = deep_paths(depth)
            journal.write(make_change_set(snapshot(""), *(snapshot(path) for path in paths)))
        sizes.append((tmp_path / f"{depth}.db").stat().st_size)
    assert sizes[1] < 2.5 * sizes[0]


def test_deleting_an_operation_deletes_its_long_paths(deep: SqliteJournal, path: Path) -> None:
    """No row of it stays."""
    deep.write(make_change_set(ended(sequence=99)))
    assert deep.delete("friday-42") == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM path_prefixes").fetchone() == (0,)


def test_short_paths_are_stored_as_they_are(open_another: Opener, path: Path) -> None:
    """Only a path beyond the limit refers to a prefix."""
    longest = "a:" + "x" * (MAX_PATH_CHARACTERS - 2)
    open_another().write(make_change_set(snapshot(""), snapshot(longest), snapshot(f"{longest}/b:1")))
    with closing(sqlite3.connect(path)) as connection:
        stored = {found for (found,) in connection.execute("SELECT path FROM levels")}
        assert connection.execute("SELECT path FROM path_prefixes").fetchall() == [(longest,)]
    assert stored == {"", longest, "%%1/b:1"}


def test_full_path_of_an_earlier_version_is_read_and_updated(open_another: Opener, path: Path) -> None:
    """Its row is kept."""
    journal = open_another()
    journal.write(make_change_set(snapshot(""), snapshot(PATHS[-1])))
    full = PATHS[-1]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM path_prefixes")
        connection.execute(
            "UPDATE levels SET path = ?, info = json_set(info, '$.path', ?) WHERE path <> ''", (full, full)
        )
    other = open_another()
    other.write(make_change_set(snapshot(full, 2, status=Status.COMPLETED)))
    found = other.get("friday-42")
    assert found is not None
    assert [(level.path, level.status) for level in found.levels] == [(full, Status.COMPLETED)]


def test_level_with_a_missing_prefix_is_left_out(deep: SqliteJournal, path: Path) -> None:
    """The other levels are still readable."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM path_prefixes WHERE key > 1")
    found = deep.get("friday-42")
    assert found is not None
    kept = {level.path for level in found.levels}
    assert kept < {*PATHS, *(f"{one}0" for one in PATHS)}
    assert set(PATHS[:40]) <= kept
