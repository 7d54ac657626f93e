"""Search for live processes that use an operation id."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.sqlite.connection import query_all
from otel_progress.journal.sqlite.reader import read_heartbeats
from otel_progress.model import Instance

IDS_PER_STATEMENT: Final = 500
"""Ids in one query. Old SQLite versions accept 999 values."""


MAX_ACTIVE_RUNS: Final = 1_000
"""Newest active runs with the ids of one query that are checked. Older ones are not found, so their
ids are used twice. So many runs of few ids are those of dead processes.
"""


# Why this index: an id may have many ended runs.
_FIND_ACTIVE: Final = f"""SELECT operation_id, run, instance
    FROM operations INDEXED BY operations_active_by_id
    WHERE finished_at IS NULL AND operation_id IN ({", ".join("?" * IDS_PER_STATEMENT)}) AND instance <> ?
    ORDER BY key DESC LIMIT {MAX_ACTIVE_RUNS}"""


_HAS_ROOT: Final = """SELECT 1 FROM operations o JOIN levels l ON l.operation = o.key
    WHERE o.run = ? AND l.path = ''"""


def find_owners(
    connection: sqlite3.Connection, runs: Mapping[str, str], instance: str, moment: ReadTime
) -> dict[str, Instance]:
    """Return the live processes with active runs that have the ids of ``runs``.

    ``runs`` are ids by run, of the process ``instance``. Runs that are stored are left out.
    """
    others: dict[str, list[tuple[str, str]]] = {}
    for id_, run, owner in _find_active(connection, list(dict.fromkeys(runs.values())), instance):
        others.setdefault(id_, []).append((run, owner))
    if not others:
        return {}
    heartbeats = read_heartbeats(connection, {owner for found in others.values() for _, owner in found})
    alive = {key: each.instance for key, each in heartbeats.items() if moment.get_liveness(each).alive}
    owners: dict[str, Instance] = {}
    for run, id_ in runs.items():
        found = [alive[owner] for other, owner in others.get(id_, ()) if other != run and owner in alive]
        # Why the check: the cache of the writer may have been dropped.
        if found and connection.execute(_HAS_ROOT, (run,)).fetchone() is None:
            owners[run] = found[0]
    return owners


def _find_active(
    connection: sqlite3.Connection, ids: Sequence[str], instance: str
) -> Iterator[tuple[str, str, str]]:
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        chunk = ids[start : start + IDS_PER_STATEMENT]
        # Why filled up: all queries use one prepared statement.
        bound = [*chunk, *[None] * (IDS_PER_STATEMENT - len(chunk)), instance]
        yield from query_all(connection, _FIND_ACTIVE, bound)
