"""Declarations of batches, and counts of their operations from an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, Final

from otel_progress.batches import (
    MAX_ENDS,
    MAX_LISTED,
    Abandoned,
    BatchDeclaration,
    BatchTally,
    close,
    cursor_sort_key,
    merge,
    sort_key,
    starts_new_run,
    summarise,
    was_finished_at,
)
from otel_progress.errors import JournalError
from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.client import Command, RedisClient, call, command
from otel_progress.journal.redis.entries import STATUS_CODES
from otel_progress.journal.redis.keys import DIGEST_CHARS, TIME_CHARS, JournalKeys, decode_time, digest
from otel_progress.journal.redis.queries import Queries, end_of, select_range, to_text
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


MAX_CHECKED_RUNS: Final = 20_000
"""Running runs of a batch whose processes are checked. Further ones count as running."""


_INT64_LIMIT: Final = 2**63


def merge_declarations(queries: Queries, declarations: Iterable[BatchDeclaration], at: float) -> None:
    """Store declarations, each merged with the stored one of its batch.

    The declaration of a closed batch without a running operation starts a new run. The operations
    of the earlier run do not belong to the batch any more.
    """
    merged: dict[str, BatchDeclaration] = {}
    for declaration in declarations:
        known = merged.get(declaration.id)
        if known is not None and starts_new_run(known, declaration):
            _merge_once(queries, {known.id: known}, at)
            known = None
        merged[declaration.id] = declaration if known is None else merge(known, declaration)
    _merge_once(queries, merged, at)


def _merge_once(queries: Queries, merged: dict[str, BatchDeclaration], at: float) -> None:
    """Store at most one declaration per batch."""
    client, keys = queries.client, queries.keys
    for _ in range(_MAX_ATTEMPTS):
        if not merged:
            return
        ids = list(merged)
        stored = client.execute_one("HMGET", keys.batches, *ids)
        swaps, restarted = [], set()
        for batch_id, text in zip(ids, stored, strict=True):
            known, new = _decode_declaration(text), merged[batch_id]
            if known is None:
                result = new
            elif starts_new_run(new, known):
                result = known
            elif starts_new_run(known, new) and not _has_running(queries, batch_id):
                result = new
                restarted.add(batch_id)
            else:
                result = merge(known, new)
            if result == known:
                del merged[batch_id]
                continue
            value = dumps((*encode_declaration_row(result), float(at)))
            swaps.append((batch_id, call(scripts.SWAP, (keys.batches,), batch_id, text or "", value)))
        answers = client.execute([each for _, each in swaps])
        for (batch_id, _), (is_swapped, _) in zip(swaps, answers, strict=True):
            if is_swapped == b"1":
                if batch_id in restarted:
                    _detach_members(client, keys, batch_id)
                del merged[batch_id]
    error = JournalError(
        f"Other processes change the batch {next(iter(merged))} too often. It is stored later."
    )
    error.is_temporary = True
    raise error


def close_batch(queries: Queries, batch_id: str) -> bool:
    """Declare that a batch gets no more operations.

    Return False if it is unknown or was closed before.
    """
    for _ in range(_MAX_ATTEMPTS):
        text = queries.client.execute_one("HGET", queries.keys.batches, batch_id)
        stored = _decode_declaration(text)
        if stored is None or stored.ended_at is not None:
            return False
        now = queries.read_time().now
        value = dumps((*encode_declaration_row(close(stored, now)), now))
        answer = queries.client.run_script(scripts.SWAP, (queries.keys.batches,), batch_id, text, value)
        if answer[0] == b"1":
            return True
    return False


def list_member_runs(queries: Queries, batch_id: str, *, is_running: bool) -> list[str]:
    """Return the runs of a batch, or the running ones of them."""
    members, start = queries.keys.members, DIGEST_CHARS + 1 + TIME_CHARS
    prefix = f"{digest(batch_id)}{_RUNNING if is_running else ''}"
    found = queries.client.execute_one("ZRANGEBYLEX", members, f"[{prefix}", end_of(prefix))
    return [to_text(member)[start:] for member in found]


def delete_declaration(queries: Queries, batch_id: str) -> bool:
    """Delete a batch with its tally. Return False if it is unknown."""
    batch, keys = digest(batch_id), queries.keys
    is_deleted, *_ = queries.client.execute(
        [
            command("HDEL", keys.batches, batch_id),
            command("HDEL", keys.tallies, *(f"{batch}{code}" for code in _CODES)),
            command("ZREMRANGEBYLEX", keys.tally_ends, f"[{batch}", end_of(batch)),
        ]
    )
    return bool(is_deleted)


def _detach_members(client: RedisClient, keys: JournalKeys, batch_id: str) -> None:
    """Remove all runs and the tally of a batch."""
    batch = digest(batch_id)
    client.execute(
        [
            command("ZREMRANGEBYLEX", keys.members, f"[{batch}", end_of(batch)),
            command("HDEL", keys.tallies, *(f"{batch}{code}" for code in _CODES)),
            command("ZREMRANGEBYLEX", keys.tally_ends, f"[{batch}", end_of(batch)),
        ]
    )


def _has_running(queries: Queries, batch_id: str) -> bool:
    """Return True if an operation of a batch runs in a process that is alive."""
    runs = list_member_runs(queries, batch_id, is_running=True)
    return bool(runs) and _find_abandoned(queries, runs).count < len(runs)


def _find_abandoned(queries: Queries, runs: Sequence[str]) -> Abandoned:
    """Return the abandoned ones of running runs."""
    entries = queries.read_entries(runs)
    numbers = Counter(entry.instance for entry in entries.values())
    heartbeats, moment = queries.read_heartbeats(numbers), queries.read_time()
    count, last_seen_at = 0, None
    for instance, number in numbers.items():
        heartbeat = heartbeats.get(instance)
        if heartbeat is not None and not moment.get_liveness(heartbeat).alive:
            count += number
            last_seen_at = max(heartbeat.heartbeat_at, last_seen_at or heartbeat.heartbeat_at)
    return Abandoned(count, last_seen_at)


def _find_abandoned_of(
    queries: Queries, infos: Sequence[BatchDeclaration], counts: Sequence[Sequence[int]]
) -> list[Abandoned]:
    """Return the abandoned runs of each batch.

    A batch without running ones needs no query.
    """
    return [
        _find_abandoned(queries, list_member_runs(queries, info.id, is_running=True)[:MAX_CHECKED_RUNS])
        if numbers[0]
        else Abandoned()
        for info, numbers in zip(infos, counts, strict=True)
    ]


def read_batch(queries: Queries, batch_id: str) -> BatchSnapshot | None:
    """Return the current state of a batch, or None."""
    text = queries.client.execute_one("HGET", queries.keys.batches, batch_id)
    info = _decode_declaration(text)
    if info is None:
        return None
    (counts,) = _count_members(queries, [info.id])
    (abandoned,) = _find_abandoned_of(queries, [info], [counts])
    return _build_snapshot(queries, info, counts, abandoned)


def read_batches(queries: Queries, query: BatchQuery) -> list[BatchSnapshot]:
    """Return batches: unfinished ones first, then the newest first, then by id."""
    listed_at = None if query.after is None else query.after.listed_at
    last = None if query.after is None else cursor_sort_key(query.after)
    stored: dict[bytes, bytes] = queries.client.execute_one("HGETALL", queries.keys.batches)
    infos = [info for text in stored.values() if (info := _decode_declaration(text)) is not None]
    now = queries.read_time().now
    found = []
    members = _count_members(queries, [info.id for info in infos])
    every = _find_abandoned_of(queries, infos, members)
    for info, counts, abandoned in zip(infos, members, every, strict=True):
        tally = _build_tally(counts, ())
        summary = summarise(
            info, tally, (), (), now, running=counts[0], running_ratio=0.0, abandoned=abandoned
        )
        rank = sort_key(
            was_finished_at(summary.is_finished, summary.ended_at, listed_at), info.started_at, info.id
        )
        if last is None or rank > last:
            found.append((rank, info, counts, abandoned))
    found.sort(key=lambda item: item[0])
    return [
        _build_snapshot(queries, info, counts, abandoned)
        for _, info, counts, abandoned in found[: query.limit]
    ]


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


def _build_snapshot(
    queries: Queries, info: BatchDeclaration, counts: Sequence[int], abandoned: Abandoned
) -> BatchSnapshot:
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
    return summarise(
        info, tally, active, failed, now, running=running, running_ratio=ratio, abandoned=abandoned
    )


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
