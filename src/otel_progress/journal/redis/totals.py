"""Totals of processes that share an address of ``/metrics``: one hash per group.

A field is the process, a line end and the series. They outlive their process, so that sums never
decrease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final

from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.client import Command, RedisClient, command
from otel_progress.journal.redis.keys import JournalKeys
from otel_progress.journal.sanitize import sanitize_text
from otel_progress.records import TotalsTable, TotalsUpdate

_MARKER: Final = "\n"


def build_totals_calls(keys: JournalKeys, update: TotalsUpdate, ttl_ms: int) -> list[Command]:
    """Return the commands that store changed totals of a process."""
    key = keys.totals(sanitize_text(update.group))
    process = sanitize_text(update.process)
    values = [(f"{process}{_MARKER}{series}", value) for series, value in update.series.items()]
    step = scripts.MAX_CALL_RECORDS
    calls = [
        command("HSET", key, *chain.from_iterable(values[start : start + step]))
        for start in range(0, len(values), step)
    ]
    return [*calls, command("PEXPIRE", key, ttl_ms)] if calls and ttl_ms else calls


def read_totals(client: RedisClient, keys: JournalKeys, group: str) -> TotalsTable:
    """Return the totals of all processes of a group."""
    table: dict[str, dict[str, str]] = {}
    for field, value in client.execute_one("HGETALL", keys.totals(sanitize_text(group))).items():
        process, _, series = _to_text(field).partition(_MARKER)
        table.setdefault(process, {})[series] = _to_text(value)
    return table


def merge_totals(
    client: RedisClient,
    keys: JournalKeys,
    group: str,
    processes: Sequence[str],
    merged: Mapping[str, str],
    version: str,
    ttl_ms: int,
) -> bool:
    """Replace processes by the new sums.

    See :class:`otel_progress.protocols.TotalsStorage`.
    """
    answer = client.run_script(
        scripts.MERGE_TOTALS,
        (keys.totals(sanitize_text(group)),),
        version,
        ttl_ms,
        _MARKER,
        len(processes),
        *map(sanitize_text, processes),
        *chain.from_iterable(merged.items()),
    )
    return int(answer) == 1


def _to_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
