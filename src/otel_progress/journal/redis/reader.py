"""Queries of the journal: history, records of one run, and trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from otel_progress.journal import rows
from otel_progress.journal.invalid_rows import count_invalid_row
from otel_progress.journal.redis.client import command
from otel_progress.journal.redis.keys import (
    DIGEST_CHARS,
    TIME_CHARS,
    clamp_number,
    digest,
    encode_number,
    encode_time,
)
from otel_progress.journal.redis.queries import Queries, decode_request, end_of, select_range, to_text
from otel_progress.journal.redis.records import RECORD_ID_CHARS, decode_row
from otel_progress.journal.redis.writer import encode_trajectory_key
from otel_progress.journal.trajectory_codec import MIN_OWN_TRAJECTORIES, decode_trajectory
from otel_progress.operations import Event, OperationSnapshot
from otel_progress.processes import QUEUE_INSTANCE
from otel_progress.protocols import EventQuery, HistoryQuery, LogQuery, PreviewQuery, ResourceQuery
from otel_progress.records import CancelRequest, LogRecord, Preview, ResourceSample, Trajectory, TrajectoryKey

_MAX_PAGE: Final = 500
"""Members that one command reads. More are read in pages."""


_LOG_TEXT: Final = RECORD_ID_CHARS + DIGEST_CHARS


_TRAJECTORY_TEXT: Final = 2 * DIGEST_CHARS + 16 + 2 * DIGEST_CHARS


T = TypeVar("T", Event, LogRecord, Preview)


def read_newest_run(queries: Queries, operation_id: str) -> OperationSnapshot | None:
    """Return the newest run of an operation with its levels."""
    run = queries.find_newest_run(operation_id)
    found = [] if run is None else queries.load_operations([run], levels=True)
    return found[0] if found else None


def read_active(queries: Queries, *, levels: bool) -> list[OperationSnapshot]:
    """Return active operations, newest first."""
    found = queries.client.execute_one("ZREVRANGE", queries.keys.active, 0, -1)
    operations = queries.load_operations([to_text(run) for run in found], levels=levels)
    # Why: an operation may have ended since.
    return [operation for operation in operations if not operation.root.status.finished]


def read_history(queries: Queries, query: HistoryQuery) -> list[OperationSnapshot]:
    """Return ended operations without their levels, the last one first.

    Operations that cannot be decoded are skipped without shortening the page.
    """
    key, prefix = queries.keys.ended, ""
    if query.operation_type is not None:
        key, prefix = queries.keys.types, digest(query.operation_type)
    low = f"[{prefix}" if query.since is None else f"[{prefix}{encode_time(query.since)}"
    high: str | bytes = end_of(prefix)
    if query.before is not None:
        end, run = query.before
        high = f"({prefix}{encode_time(end)}{run}"
    found: list[OperationSnapshot] = []
    while len(found) < query.limit:
        size = min(query.limit - len(found), _MAX_PAGE)
        page = select_range(queries.client, key, low, high, size)
        if not page:
            break
        found += queries.load_operations([each[len(prefix) + TIME_CHARS :] for each in page], levels=False)
        high = f"({page[-1]}"
    return found


def read_events(queries: Queries, operation_id: str, query: EventQuery) -> list[Event]:
    """Return the newest matching events of the newest run, oldest first."""

    def matches(event: Event) -> bool:
        return (
            is_below(event.path, query.path)
            and query.outcome in {None, event.outcome}
            and (query.since is None or event.at >= query.since)
        )

    key, decode, high = queries.keys.events, rows.decode_event_row, _get_high(query.max_number)
    return _read_newest(queries, operation_id, key, decode, RECORD_ID_CHARS, "-", high, matches, query.limit)


def read_logs(queries: Queries, operation_id: str, query: LogQuery) -> list[LogRecord]:
    """Return the newest matching log records of the newest run, oldest first."""

    def matches(record: LogRecord) -> bool:
        return (
            is_below(record.path, query.path)
            and record.severity >= query.severity
            and (query.since is None or record.at >= query.since)
        )

    key, decode, high = queries.keys.logs, rows.decode_log_row, _get_high(query.max_number)
    low = b"(" + clamp_number(query.after).encode() + b"\xff"
    return _read_newest(queries, operation_id, key, decode, _LOG_TEXT, low, high, matches, query.limit)


def read_previews(queries: Queries, operation_id: str, query: PreviewQuery) -> list[Preview]:
    """Return the newest matching previews of the newest run, oldest first."""

    def matches(preview: Preview) -> bool:
        return is_below(preview.path, query.path)

    key, decode, high = queries.keys.previews, rows.decode_preview_row, _get_high(query.max_number)
    return _read_newest(queries, operation_id, key, decode, RECORD_ID_CHARS, "-", high, matches, query.limit)


def read_samples(queries: Queries, operation_id: str, query: ResourceQuery) -> list[ResourceSample]:
    """Return samples that were made during the newest run, oldest first."""
    run = queries.find_newest_run(operation_id)
    operations = [] if run is None else queries.load_operations([run], levels=False)
    if not operations:
        return []
    root = operations[0].root
    started, duration = root.info.started_clock, root.duration_s
    low = "-" if started is None else f"[{encode_time(started)}"
    highest = None if started is None or duration is None else started + duration
    limits = [limit for limit in (highest, query.max_clock) if limit is not None]
    high: str | bytes = end_of(encode_time(min(limits))) if limits else "+"
    key = queries.keys.samples(root.info.instance)
    found: list[ResourceSample] = []
    for text in _iterate_pages(queries, key, low, high, query.limit):
        row = decode_row(text[TIME_CHARS:])
        sample = None if row is None else rows.decode_sample_row(row)
        if sample is None:
            count_invalid_row("resource sample", root.info.instance, text)
        elif query.since is None or sample.at >= query.since:
            found.append(sample)
            if len(found) >= query.limit:
                break
    return found[::-1]


def read_trajectories(queries: Queries, key: TrajectoryKey, limit: int) -> list[Trajectory]:
    """Return the newest trajectories of a key, oldest first.

    If they are few, trajectories of other classes of host come first.
    """
    if limit <= 0:
        return []
    data, full = queries.keys.trajectories, encode_trajectory_key(key)
    common = full[:DIGEST_CHARS]
    own = _decode_trajectories(select_range(queries.client, data, f"[{full}", end_of(full), limit))
    if len(own) >= MIN_OWN_TRAJECTORIES:
        return own
    found = queries.client.execute_one("ZRANGEBYLEX", data, f"[{common}", end_of(common))
    others = [text for text in map(to_text, found) if not text.startswith(full)]
    others.sort(key=lambda text: text[2 * DIGEST_CHARS : 2 * DIGEST_CHARS + 16], reverse=True)
    left = limit - len(own)
    return _decode_trajectories(others[:left]) + own if left > 0 else own


def read_requests(queries: Queries, instance: str) -> tuple[CancelRequest, ...]:
    """Return the requests for the active operations of a process."""
    # Why two keys: a run may have been pending when the request was made.
    keys = [queries.keys.requests(instance), queries.keys.requests(QUEUE_INSTANCE)]
    found: list[dict[bytes, bytes]] = queries.client.execute([command("HGETALL", key) for key in keys])
    if not any(found):
        return ()
    entries = queries.read_entries([to_text(run) for stored in found for run in stored])
    requests = []
    for key, stored in zip(keys, found, strict=True):
        ended = []
        for run, text in stored.items():
            entry, request = entries.get(to_text(run)), decode_request(to_text(text))
            if entry is None or entry.is_ended or request is None:
                ended.append(to_text(run))
            elif key == keys[0] or entry.instance == instance:
                requests.append(CancelRequest(entry.run, entry.operation_id, *request))
        if ended:
            queries.client.execute([command("HDEL", key, *ended)])
    return tuple(requests)


def is_below(path: str, above: str | None) -> bool:
    """Return True if a level is ``above`` or in its subtree.

    An empty one selects everything.
    """
    return not above or path == above or path.startswith(f"{above}/")


def _read_newest(
    queries: Queries,
    operation_id: str,
    get_key: Callable[[str], str],
    decode: Callable[[str, str, str, Sequence[Any]], T | None],
    text_start: int,
    low: str | bytes,
    high: str | bytes,
    matches: Callable[[T], bool],
    limit: int,
) -> list[T]:
    run = queries.find_newest_run(operation_id)
    if run is None or limit <= 0:
        return []
    key = get_key(run)
    operation_type = _read_type(queries, run)
    found: list[T] = []
    for text in _iterate_pages(queries, key, low, high, limit):
        row = decode_row(text[text_start:])
        record = None if row is None else decode(operation_id, operation_type, run, row)
        if record is None:
            count_invalid_row("record", key, text)
        elif matches(record):
            found.append(record)
            if len(found) >= limit:
                break
    return found[::-1]


def _read_type(queries: Queries, run: str) -> str:
    entry = queries.read_entries([run]).get(run)
    return "" if entry is None else entry.operation_type


def _iterate_pages(
    queries: Queries, key: str, low: str | bytes, high: str | bytes, limit: int
) -> Iterator[str]:
    """Yield the members between two bounds, the highest first."""
    size = min(limit, _MAX_PAGE)
    while page := select_range(queries.client, key, low, high, size):
        yield from page
        if len(page) < size:
            return
        high, size = f"({page[-1]}", _MAX_PAGE


def _get_high(max_number: int | None) -> str | bytes:
    return "+" if max_number is None else end_of(encode_number(max_number))


def _decode_trajectories(members: Sequence[str]) -> list[Trajectory]:
    """Return the trajectories of members, which are sorted newest first."""
    decoded = (decode_trajectory(text[_TRAJECTORY_TEXT:]) for text in reversed(members))
    return [trajectory for trajectory in decoded if trajectory is not None]
