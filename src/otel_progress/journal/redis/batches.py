"""Declarations of batches, and counts of their operations from an index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, Final

from otel_progress.batches import (
    MAX_ENDS,
    MAX_LISTED,
    BatchDeclaration,
    BatchTally,
    cursor_sort_key,
    merge,
    sort_key,
    summarise,
    was_finished_at,
)
from otel_progress.errors import JournalError
from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.client import Command, RedisClient, call, command
from otel_progress.journal.redis.entries import STATUS_CODES
from otel_progress.journal.redis.keys import DIGEST_CHARS, TIME_CHARS, JournalKeys, decode_time, digest
from otel_progress.journal.redis.queries import Queries, end_of, select_range
from otel_progress.journal.redis.records import decode_row, dumps
from otel_progress.journal.rows import DECLARATION, decode_declaration_row, encode_declaration_row
from otel_progress.model import Status
from otel_progress.operations import BatchSnapshot
from otel_progress.protocols import BatchQuery

ENDED: Final = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED)
"""Final statuses, in the order of a tally."""


_RUNNING: Final = STATUS_CODES[Status.RUNNING]


_CODES: Final = (_RUNNING, *(STATUS_CODES[status] for status in ENDED))


_MAX_ATTEMPTS: Final = 20
"""Attempts to merge a declaration while other processes change it."""


_INT64_LIMIT: Final = 2**63


def merge_declarations(
    client: RedisClient, keys: JournalKeys, declarations: Iterable[BatchDeclaration], at: float
) -> None:
    """Store declarations, each merged with the stored one of its batch."""
    merged: dict[str, BatchDeclaration] = {}
    for declaration in declarations:
        known = merged.get(declaration.id)
        merged[declaration.id] = declaration if known is None else merge(known, declaration)
    for _ in range(_MAX_ATTEMPTS):
        if not merged:
            return
        ids = list(merged)
        stored = client.execute_one("HMGET", keys.batches, *ids)
        swaps = []
        for batch_id, text in zip(ids, stored, strict=True):
            known = _decode_declaration(text)
            result = merged[batch_id] if known is None else merge(known, merged[batch_id])
            if result == known:
                del merged[batch_id]
                continue
            value = dumps((*encode_declaration_row(result), float(at)))
            swaps.append((batch_id, call(scripts.SWAP, (keys.batches,), batch_id, text or "", value)))
        answers = client.execute([each for _, each in swaps])
        for (batch_id, _), (is_swapped, _) in zip(swaps, answers, strict=True):
            if is_swapped == b"1":
                del merged[batch_id]
    error = JournalError(
        f"Other processes change the batch {next(iter(merged))} too often. It is stored later."
    )
    error.is_temporary = True
    raise error


def read_batch(queries: Queries, batch_id: str) -> BatchSnapshot | None:
    """Return the current state of a batch, or None."""
    text = queries.client.execute_one("HGET", queries.keys.batches, batch_id)
    info = _decode_declaration(text)
    if info is None:
        return None
    (counts,) = _count_members(queries, [info.id])
    return _build_snapshot(queries, info, counts)


def read_batches(queries: Queries, query: BatchQuery) -> list[BatchSnapshot]:
    """Return batches: unfinished ones first, then the newest first, then by id."""
    listed_at = None if query.after is None else query.after.listed_at
    last = None if query.after is None else cursor_sort_key(query.after)
    stored: dict[bytes, bytes] = queries.client.execute_one("HGETALL", queries.keys.batches)
    infos = [info for text in stored.values() if (info := _decode_declaration(text)) is not None]
    now = queries.read_time().now
    found = []
    for info, counts in zip(infos, _count_members(queries, [info.id for info in infos]), strict=True):
        summary = summarise(info, _build_tally(counts, ()), (), (), now, running=counts[0], running_ratio=0.0)
        rank = sort_key(
            was_finished_at(summary.is_finished, summary.ended_at, listed_at), info.started_at, info.id
        )
        if last is None or rank > last:
            found.append((rank, info, counts))
    found.sort(key=lambda item: item[0])
    return [_build_snapshot(queries, info, counts) for _, info, counts in found[: query.limit]]


def delete_expired(client: RedisClient, keys: JournalKeys, horizon: float) -> None:
    """Delete batches without operations, unchanged since ``horizon`` (Unix seconds)."""
    stored: dict[bytes, bytes] = client.execute_one("HGETALL", keys.batches)
    for name, text in stored.items():
        row, batch = decode_row(text.decode("utf-8", "replace")), digest(name.decode("utf-8", "replace"))
        if row is None or len(row) <= len(DECLARATION) or type(row[len(DECLARATION)]) is not float:
            continue
        low = f"[{batch}"
        members, ends = client.execute(
            [
                command("ZLEXCOUNT", keys.members, low, end_of(batch)),
                command("ZREVRANGEBYLEX", keys.tally_ends, end_of(batch), low, "LIMIT", 0, 1),
            ]
        )
        last_end = _decode_end(ends[0]) if ends else float("-inf")
        if not members and row[len(DECLARATION)] < horizon and last_end < horizon:
            client.execute(
                [
                    call(scripts.SWAP, (keys.batches,), name, text, ""),
                    command("HDEL", keys.tallies, *(f"{batch}{code}" for code in _CODES)),
                    command("ZREMRANGEBYLEX", keys.tally_ends, low, end_of(batch)),
                ]
            )


def _count_members(queries: Queries, ids: Sequence[str]) -> list[list[int]]:
    """Return the numbers of runs of each batch: running ones, then those of ENDED."""
    keys = queries.keys
    commands: list[Command] = []
    for batch_id in ids:
        names = [f"{digest(batch_id)}{code}" for code in _CODES]
        commands += (command("ZLEXCOUNT", keys.members, f"[{name}", end_of(name)) for name in names)
        commands.append(command("HMGET", keys.tallies, *names))
    answers = queries.client.execute(commands)
    step, result = len(_CODES) + 1, []
    for start in range(0, len(answers), step):
        *stored, deleted = answers[start : start + step]
        result.append([count + int(more or 0) for count, more in zip(stored, deleted, strict=True)])
    return result


def _build_snapshot(queries: Queries, info: BatchDeclaration, counts: Sequence[int]) -> BatchSnapshot:
    batch, members = digest(info.id), queries.keys.members
    running = counts[0]
    failed: Sequence[Any] = ()
    if counts[1 + ENDED.index(Status.FAILED)]:
        prefix = f"{batch}{STATUS_CODES[Status.FAILED]}"
        runs = select_range(queries.client, members, f"[{prefix}", end_of(prefix), MAX_LISTED)
        failed = queries.load_operations([run[len(prefix) + TIME_CHARS :] for run in runs], levels=False)
    ends: list[float] = []
    if sum(counts[1:]):
        for code in _CODES[1:]:
            prefix = f"{batch}{code}"
            found = select_range(queries.client, members, f"[{prefix}", end_of(prefix), MAX_ENDS)
            ends += (decode_time(member[len(prefix) : len(prefix) + TIME_CHARS]) for member in found)
        found = select_range(queries.client, queries.keys.tally_ends, f"[{batch}", end_of(batch), MAX_ENDS)
        ends += (_decode_end(member) for member in found)
    tally = _build_tally(counts, sorted(filter(isfinite, ends))[-MAX_ENDS:])
    now = queries.read_time().now
    if not running:
        return summarise(info, tally, (), failed, now)
    prefix = f"{batch}{_RUNNING}"
    found = select_range(queries.client, members, f"[{prefix}", end_of(prefix), MAX_LISTED)
    active = queries.load_operations([run[len(prefix) + 16 :] for run in found], levels=False)
    ratio = None
    if running > len(active):
        every = select_range(queries.client, members, f"[{prefix}", end_of(prefix), running)
        ratio = queries.sum_ratios([run[len(prefix) + 16 :] for run in every])
    return summarise(info, tally, active, failed, now, running=running, running_ratio=ratio)


def _build_tally(counts: Sequence[int], ends: Sequence[float]) -> BatchTally:
    completed, failed, cancelled, skipped = counts[1:]
    return BatchTally(completed, failed, cancelled, skipped, tuple(ends))


def _decode_declaration(text: bytes | None) -> BatchDeclaration | None:
    row = None if text is None else decode_row(text.decode("utf-8", "replace"))
    if row is None or len(row) < len(DECLARATION):
        return None
    info = decode_declaration_row(row)
    if info is not None and info.total is not None and not -_INT64_LIMIT <= info.total < _INT64_LIMIT:
        return None
    return info


def _decode_end(member: bytes | str) -> float:
    text = member.decode("utf-8", "replace") if isinstance(member, bytes) else member
    return decode_time(text[DIGEST_CHARS : DIGEST_CHARS + TIME_CHARS])
