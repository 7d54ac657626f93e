"""Rows out of an open journal, whatever is in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

_tolerant: Final = partial(str, encoding="utf-8", errors="replace")


def fetch(connection: sqlite3.Connection, query: str, bound: Sequence[object] = ()) -> list[Any]:
    """Return all rows of a query; text that is not valid UTF-8, which nothing of ours writes, with replacement characters.

    The tolerant way calls back into Python for every text, which takes as long as all the rest, so it is taken only when needed.
    """
    try:
        return connection.execute(query, bound).fetchall()
    except sqlite3.OperationalError as exc:
        if "UTF-8" not in str(exc):
            raise
    connection.text_factory = _tolerant
    try:
        return connection.execute(query, bound).fetchall()
    finally:
        connection.text_factory = str
