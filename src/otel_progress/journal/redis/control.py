"""Requests about runs: cancel, delete, and mark as failed."""

from __future__ import annotations

import secrets
from itertools import chain
from typing import Any

from otel_progress.batches import MAX_ENDS
from otel_progress.journal.liveness import ReadTime
from otel_progress.journal.redis import batches, scripts
from otel_progress.journal.redis.client import call, command
from otel_progress.journal.redis.entries import RunEntry, encode_root_entry
from otel_progress.journal.redis.keys import digest
from otel_progress.journal.redis.queries import Queries, to_text
from otel_progress.journal.redis.records import dumps, encode_info, encode_state
from otel_progress.journal.redis.writer import build_feed_call, parse_reference
from otel_progress.journal.snapshots import end_abandoned_level
from otel_progress.model import Status
from otel_progress.operations import OperationSnapshot
from otel_progress.processes import UNVERIFIED_TIMEOUT_S


def request_cancel(queries: Queries, operation_id: str, reason: str, at: float, now: str) -> bool:
    """Store a request for the newest active run of an operation.

    Return False if no run is active. The first request of a run is kept.
    """
    runs = queries.find_runs(operation_id)
    entries = queries.read_entries(runs)
    for run in runs:
        entry = entries.get(run)
        if entry is None or entry.is_ended or not entry.has_root:
            continue
        if _store_request(queries, entry, reason, at, now):
            return True
    return False


def cancel_batch(queries: Queries, batch_id: str, reason: str, at: float, now: str) -> int:
    """Store a request for each active run of a batch. Return their number."""
    entries = queries.read_entries(batches.list_member_runs(queries, batch_id, is_running=True))
    return sum(_store_request(queries, entry, reason, at, now) for entry in entries.values())


def _store_request(queries: Queries, entry: RunEntry, reason: str, at: float, now: str) -> bool:
    """Store a request for a run, unless it has one.

    Return False if the run is not stored.
    """
    keys, run = queries.keys, entry.run
    text = dumps((reason, float(at)))
    is_new = queries.client.run_script(
        scripts.SET_RUN_VALUES, (keys.levels(run), keys.run_meta(run)), 0, "first", "cancel", text
    )
    stored = queries.client.execute_one("HGET", keys.run_meta(run), "cancel")
    if stored is None:
        return False
    # Why also if it is not new: the process that stored it may have failed in between.
    queries.client.execute([command("HSETNX", keys.requests(entry.instance), run, stored)])
    if is_new:
        queries.client.execute([build_feed_call(keys, (), [run], now)])
    return True


def delete_batch(queries: Queries, batch_id: str) -> tuple[bool, list[str]]:
    """Delete a batch with its operations and the earlier sessions of resumed ones.

    Return False, and delete nothing, if the batch is unknown or may have a running operation. The
    second value is as in ``delete_finished_runs``.
    """
    entries = queries.read_entries(batches.list_member_runs(queries, batch_id, is_running=False))
    moment = queries.read_time()
    running = [entry for entry in entries.values() if not entry.is_ended]
    if not all(_is_gone(queries, entry, moment) for entry in running):
        return False, []
    unreferenced: list[str] = []
    for entry in entries.values():
        # Why the sessions first: they are found through the run that continues them.
        for each in (*_list_earlier_sessions(queries, entry), entry):
            unreferenced += delete_run(queries, each.run, each.instance)[1]
        _delete_trajectories(queries, entry.operation_id)
    return batches.delete_declaration(queries, batch_id), unreferenced


def _list_earlier_sessions(queries: Queries, entry: RunEntry) -> list[RunEntry]:
    """Return the runs that a run continues, the first one first.

    It continues them directly, or through others.
    """
    others = queries.read_entries(queries.find_runs(entry.operation_id))
    sessions, continued = [], {entry.run}
    # Why one pass: find_runs returns the newest run first.
    for other in others.values():
        if other.superseded_by in continued:
            continued.add(other.run)
            sessions.append(other)
    return sessions[::-1]


def fail_abandoned_run(queries: Queries, operation_id: str, reason: str, now: str) -> bool:
    """Mark the newest active run of an operation as failed.

    Its process must have certainly ended. Return False if no such run exists, or if its process may
    still run.
    """
    keys = queries.keys
    runs = queries.find_runs(operation_id)
    entries = queries.read_entries(runs)
    for run in runs:
        entry = entries.get(run)
        if entry is None or entry.is_ended or not entry.has_root:
            continue
        moment = queries.read_time()
        if not _is_gone(queries, entry, moment):
            return False
        (operation,) = queries.load_operations([run], levels=True)
        values = _end_levels(operation, reason, moment)
        root = end_abandoned_level(operation.root, operation, reason, moment)
        head = (secrets.token_hex(8), "0" * 16, "", 0, 0)
        answer = queries.client.run_script(scripts.WRITE_RUN, keys.list_run_keys(run), *head, *values)
        queries.client.execute([build_feed_call(keys, [encode_root_entry(root)], [run], now)])
        return bool(answer[0] == b"ok")
    return False


def delete_finished_runs(queries: Queries, operation_id: str) -> tuple[int, list[str]]:
    """Delete the finished runs of an operation with their trajectories.

    Finished runs are ended ones and those whose processes have certainly ended. Return the number
    of deleted runs, and the locations of previews that are unreferenced now.
    """
    count = 0
    unreferenced: list[str] = []
    runs = queries.find_runs(operation_id)
    moment = queries.read_time()
    for entry in queries.read_entries(runs).values():
        if entry.is_ended or _is_gone(queries, entry, moment):
            is_deleted, locations = delete_run(queries, entry.run, entry.instance)
            count += is_deleted and entry.has_root
            unreferenced += locations
    _delete_trajectories(queries, operation_id)
    return count, unreferenced


def _delete_trajectories(queries: Queries, operation_id: str) -> None:
    names = (queries.keys.trajectories, queries.keys.trajectory_owners)
    queries.client.run_script(scripts.DELETE_TRAJECTORIES, names, digest(operation_id))


def delete_run(queries: Queries, run: str, instance: str, fence: str = "") -> tuple[bool, list[str]]:
    """Delete a run from the indexes, and then its keys.

    ``fence`` is that of the lease of the retention. Return whether the run existed, and the
    locations of previews that are unreferenced now.
    """
    keys, client = queries.keys, queries.client
    stored = client.execute_one("ZRANGE", keys.previews(run), 0, -1)
    references = [parse_reference(run, to_text(member)) for member in stored]
    known = [(location, rest) for location, rest in references if location is not None]
    names = (
        keys.meta, keys.revision, keys.order, keys.runs, keys.active, keys.ids, keys.ended, keys.types,
        keys.members, keys.expiry, keys.tallies, keys.tally_ends, keys.locations, keys.retention_lease,
    )  # fmt: skip
    values = chain.from_iterable((digest(location), rest) for location, rest in known)
    lineage = client.execute_one("HGET", keys.run_meta(run), "lineage")
    first_run = run if lineage is None else to_text(lineage)
    state, *digests = client.run_script(scripts.DELETE_RUN, names, run, fence, MAX_ENDS, *values)
    if state == b"fenced":
        return False, []
    client.execute(
        [
            call(scripts.DELETE_KEYS, (keys.completed(first_run), keys.owner(first_run)), run),
            command("UNLINK", keys.list_run_keys(run)[0], *keys.list_run_keys(run)[1:]),
            command("HDEL", keys.requests(instance), run),
        ]
    )
    locations = {digest(location): location for location, _ in known}
    found = dict.fromkeys(to_text(each) for each in digests)
    return state == b"deleted", [locations[each] for each in found if each in locations]


def is_gone_since(queries: Queries, entry: RunEntry, moment: ReadTime, age_s: float) -> bool:
    """Return True if the process of a run is dead for ``age_s`` seconds."""
    heartbeat = queries.read_heartbeats([entry.instance]).get(entry.instance)
    if heartbeat is None:
        return moment.now - entry.registered_at > age_s
    liveness = moment.get_liveness(heartbeat)
    is_dead = not liveness.alive or liveness.not_reporting_since is not None
    return is_dead and moment.now - heartbeat.heartbeat_at > age_s


def _is_gone(queries: Queries, entry: RunEntry, moment: ReadTime) -> bool:
    heartbeat = queries.read_heartbeats([entry.instance]).get(entry.instance)
    if heartbeat is not None:
        return moment.is_gone(heartbeat)
    return moment.now - entry.registered_at > UNVERIFIED_TIMEOUT_S


def _end_levels(operation: OperationSnapshot, reason: str, moment: ReadTime) -> list[Any]:
    values: list[Any] = []
    for level in (operation.root, *operation.levels):
        if level.status is Status.RUNNING or not level.path:
            ended = end_abandoned_level(level, operation, reason, moment)
            text, info_digest = encode_info(ended.info)
            values += (ended.path, encode_state(ended, info_digest), text)
    return values
