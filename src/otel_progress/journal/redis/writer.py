"""Writes change sets: one script call per run, and one for the indexes."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, TypeVar

from otel_progress.batches import BatchDeclaration
from otel_progress.diagnostics import report_internal_error
from otel_progress.errors import JournalError
from otel_progress.journal import rows
from otel_progress.journal.duplicate_ids import DuplicateIdResolver
from otel_progress.journal.fencing import leave_out_runs
from otel_progress.journal.redis import batches, scripts
from otel_progress.journal.redis.client import Command, RedisClient, call, command
from otel_progress.journal.redis.contributions import build_contribution_calls
from otel_progress.journal.redis.entries import encode_root_entry, encode_rootless_entry
from otel_progress.journal.redis.keys import JournalKeys, clamp_number, digest, encode_time
from otel_progress.journal.redis.limits import (
    MAX_CACHED_LEVELS,
    MAX_EVENTS_PER_RUN,
    MAX_LOGS_PER_LEVEL,
    MAX_LOGS_PER_RUN,
    MAX_SAMPLES_PER_PROCESS,
    MIN_TTL_S,
    RedisLimits,
)
from otel_progress.journal.redis.queries import Queries
from otel_progress.journal.redis.records import (
    RECORD_ID_CHARS,
    decode_heartbeat,
    decode_row,
    dumps,
    encode_completed_key,
    encode_heartbeat,
    encode_info,
    encode_record_id,
    encode_row,
    encode_state,
)
from otel_progress.journal.redis.schema import SCHEMA_VERSION, check_version, create_journal_id
from otel_progress.journal.redis.totals import build_totals_calls
from otel_progress.journal.rows import PREVIEW
from otel_progress.journal.sanitize import sanitize_change_set
from otel_progress.journal.snapshots import include_relayed
from otel_progress.journal.trajectory_codec import encode_trajectory
from otel_progress.model import Instance, LevelInfo, LevelSnapshot
from otel_progress.operations import Event
from otel_progress.protocols import ChangeSet, RenameRun
from otel_progress.records import (
    MAX_TRAJECTORIES_PER_KEY,
    LogRecord,
    Preview,
    TrajectoryEntry,
    TrajectoryKey,
)

_INVALID_VALUE_ERRORS: Final = (OverflowError, ValueError, TypeError)


_REFRESH_CHECK_S: Final = 60.0
"""Time between two searches for runs whose time to live is renewed, in seconds."""


_NO_RUNS: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
"""No runs to check."""


_DUPLICATES: Final = 3
"""Position of the runs with duplicate ids in the answer of FEED."""


_LOCATION: Final = PREVIEW.index("location")


_Record = TypeVar("_Record", Event, LogRecord, Preview)


@dataclass(slots=True)
class _RunCache:
    """Rows of a run that this process has written.

    ``number`` is that of its last call, and ``entry`` its text in the indexes.
    """

    number: str = ""
    entry: str = ""
    infos: dict[str, tuple[LevelInfo, str]] = field(default_factory=dict)
    refreshed_clock: float = float("-inf")


@dataclass(slots=True)
class _RunChanges:
    """Changes of one run within a change set, parents before children."""

    snapshots: list[LevelSnapshot] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)


class Writer:
    """Writes change sets, with a cache of the constant values that it wrote.

    ``read_clock`` returns monotonic seconds, and ``read_server_time`` the time for the server as
    text, empty for its own. ``retention_s`` is the time that ended runs are stored, in seconds.
    """

    def __init__(
        self,
        client: RedisClient,
        keys: JournalKeys,
        limits: RedisLimits,
        retention_s: float,
        *,
        read_clock: Callable[[], float],
        read_server_time: Callable[[], str],
        queries: Queries,
        rename_run: RenameRun | None = None,
    ) -> None:
        self.duplicate_ids = DuplicateIdResolver(rename_run)
        self._queries = queries
        self._client = client
        self._keys = keys
        self._limits = limits
        self._read_clock = read_clock
        self._read_server_time = read_server_time
        ttl_s = retention_s + MIN_TTL_S
        self.ttl_ms = int(ttl_s * 1000) if ttl_s * 1000 < 2**53 else 0
        self.dropped_events = 0
        """Events that the limit of a run deleted."""
        self.dropped_contributions = 0
        """Contributions beyond the limit of a run."""
        self.unreferenced: list[str] = []
        """Locations of previews that the last write deleted and that are unreferenced now."""
        self.superseded: dict[str, str] = {}
        """Runs whose changes were left out, and the runs that have continued them."""
        self.needs_resend = False
        """True if the server lost changes. The sink writes everything live again."""
        self._restart()

    def _restart(self) -> None:
        """Start without a cache and under a new name, as a forked child does."""
        self._pid = os.getpid()
        self._token = secrets.token_hex(8)
        self._number = 0
        self._heartbeats: dict[str, int] = {}
        self._journal: str | None = None
        self._revision = -1
        self._next_refresh_check = float("-inf")
        self.reset_cache()

    def reset_cache(self) -> None:
        """Drop the cache, so that constant values are written again."""
        self._runs: dict[str, _RunCache] = {}
        self._encoded: dict[tuple[str, str], tuple[LevelInfo, str]] = {}
        self._entries: dict[str, str] = {}
        self._cached_count = 0
        self._batches: dict[str, float] = {}
        self._lineages: dict[str, str] = {}
        self._fenced: dict[str, str] = {}

    def write(self, change_set: ChangeSet) -> None:
        """Write a change set. Raises JournalError if it may be incomplete."""
        if self._pid != os.getpid():
            self._restart()
        if self._cached_count > MAX_CACHED_LEVELS:
            self.reset_cache()
        self.unreferenced = []
        self._number += 1
        try:
            self._write(change_set, is_sanitized=False)
        except _INVALID_VALUE_ERRORS:
            # Why only now: sanitizing all values takes time.
            self._write(sanitize_change_set(change_set), is_sanitized=True)

    def write_ends(self, change_set: ChangeSet) -> None:
        """Write ended operations that a dead process left in a file.

        Its heartbeat does not change, and neither does an operation that was stored before. Raises
        JournalError.
        """
        calls, entries = [], []
        for snapshot in sanitize_change_set(change_set).snapshots:
            run = snapshot.info.run
            text, info_digest = encode_info(snapshot.info)
            values = (snapshot.path, encode_state(snapshot, info_digest), text)
            # Why another writer: the number of a call is that of its process.
            head = (secrets.token_hex(8), "0" * 16, "", self.ttl_ms, 0)
            calls.append(call(scripts.WRITE_RUN, self._keys.list_run_keys(run), *head, *values))
            entries.append(encode_root_entry(snapshot))
        self._client.execute(calls)
        now = self._read_server_time()
        for start in range(0, len(entries), scripts.MAX_CALL_RUNS):
            part = entries[start : start + scripts.MAX_CALL_RUNS]
            self._client.execute([build_feed_call(self._keys, part, [entry[0] for entry in part], now)])
        self._write_batches(change_set)

    # --- one change set --------------------------------------------------------------------------

    def _write(self, change_set: ChangeSet, *, is_sanitized: bool) -> None:
        change_set = leave_out_runs(include_relayed(change_set), self._fenced.keys())
        change_set = self.duplicate_ids.apply(change_set)
        new = self.duplicate_ids.select_new_runs(change_set, self._runs.__contains__)
        # Why first: no level may be counted in the journal without its key.
        self._write_keys(change_set)
        runs = _group_by_run(change_set)
        # Why before the operations: a declaration may start a new run of its batch.
        if change_set.batches:
            batches.merge_declarations(self._queries, change_set.batches, change_set.at)
        self._encoded.clear()
        self._entries.clear()
        first = [self._build_heartbeat(change_set)]
        written: list[tuple[str, int]] = []
        for run, changes in runs.items():
            if run in new and self.duplicate_ids.has_renamed(run):
                # Why: an earlier write of the run may have failed after it was renamed.
                first += self._build_delete_calls(run, changes)
            calls = self._build_run_calls(run, changes, expected=True)
            written += ((run, len(first) + offset) for offset in range(len(calls)))
            first += calls
        events = self._build_record_calls(
            change_set,
            change_set.events,
            rows.encode_event_row,
            self._keys.events,
            MAX_EVENTS_PER_RUN,
            is_sanitized,
        )
        previews = self._build_record_calls(
            change_set,
            change_set.previews,
            rows.encode_preview_row,
            self._keys.previews,
            self._limits.previews_per_operation,
            is_sanitized,
        )
        records_start = len(first)
        first += [each for _, each in events]
        previews_start = len(first)
        first += [each for _, each in previews]
        contributions_start = len(first)
        first += build_contribution_calls(self._keys, change_set.contributions, self.ttl_ms)
        contributions_end = len(first)
        first += self._build_log_calls(change_set, is_sanitized)
        first += self._build_value_calls(change_set)
        if change_set.totals is not None:
            first += build_totals_calls(self._keys, change_set.totals, self.ttl_ms)
        feed = self._build_feed(change_set, runs, dict.fromkeys(new, ()))
        last = [*feed, *self._build_trajectory_calls(change_set)]
        last += self._build_reference_calls(change_set, is_sanitized)
        if self._client.get_server().is_cluster:
            # Why separately: a reader of the feed finds the changes of all nodes.
            answers = self._client.execute(first)
            indexed = self._client.execute(last)[: len(feed)]
        else:
            answers = self._client.execute([*first, *last])
            indexed = answers[len(first) : len(first) + len(feed)]
        states = {run: _to_texts(answers[index])[0] for run, index in written}
        for run, index in written:
            if states[run] == "superseded":
                self._fence(run, _to_texts(answers[index])[1])
        repeated = [run for run, state in states.items() if state in {"lost", "incomplete"}]
        if repeated:
            self._write_again(change_set, runs, repeated, new)
        duplicates = self._check_feeds(indexed)
        if duplicates:
            self._rename_duplicates(change_set, new, duplicates)
        self._check_heartbeat(change_set.instance.id, answers[0], is_lost="lost" in states.values())
        self._acknowledge(runs)
        for relayed in change_set.relayed:
            self._drop_run(relayed.info.run)
        for run, index in written:
            if _to_texts(answers[index])[0] == "kept":
                # Why: the stored constant values are others than those in the cache.
                self._drop_run(run)
        for dropped in answers[records_start:previews_start]:
            self.dropped_events += len(dropped[1])
        for count in answers[contributions_start:contributions_end]:
            self.dropped_contributions += int(count)
        self._drop_references(previews, answers[previews_start : previews_start + len(previews)])
        self._write_batches(change_set)
        self._refresh_idle_runs()

    def _rename_duplicates(
        self, change_set: ChangeSet, new: Mapping[str, str], found: Mapping[str, Sequence[str]]
    ) -> None:
        """Register new runs whose ids other processes use.

        Runs get another id if such a process is alive. ``new`` are the ids by run, and ``found``
        the other processes. Readers do not find these runs yet, because no index contains them.
        """
        rounds = iter([found])

        def find_owners(ids: Mapping[str, str]) -> dict[str, Instance]:
            first = next(rounds, None)
            conflicts = self._write_renamed(change_set, ids) if first is None else first
            return self._register_unless_alive(change_set, conflicts)

        kept = self.duplicate_ids.resolve({run: new[run] for run in found}, find_owners)
        if kept:
            self._register(change_set, kept, {})

    def _write_renamed(self, change_set: ChangeSet, ids: Mapping[str, str]) -> dict[str, list[str]]:
        """Write runs that were renamed, and register them.

        Return the conflicts of :meth:`_register`.
        """
        groups = _group_by_run(self.duplicate_ids.apply(change_set))
        runs = {run: changes for run, changes in groups.items() if run in ids}
        calls: list[Command] = []
        for run, changes in runs.items():
            self._drop_run(run)
            calls += self._build_delete_calls(run, changes)
            calls += self._build_run_calls(run, changes, expected=False)
        self._client.execute(calls)
        return self._register(change_set, list(ids), dict.fromkeys(ids, ()))

    def _build_delete_calls(self, run: str, changes: _RunChanges) -> list[Command]:
        """Return the calls that delete levels of a renamed run that is not registered yet.

        Why: a level is only replaced by one with a higher sequence number.
        """
        paths = [snapshot.info.path for snapshot in changes.snapshots]
        keys, step = (self._keys.levels(run), self._keys.infos(run)), scripts.MAX_CALL_LEVELS
        return [
            command("HDEL", key, *paths[start : start + step])
            for start in range(0, len(paths), step)
            for key in keys
        ]

    def _register_unless_alive(
        self, change_set: ChangeSet, conflicts: Mapping[str, Sequence[str]]
    ) -> dict[str, Instance]:
        """Register runs whose ids only dead processes use.

        Return a live process of each other run.
        """
        owners: dict[str, Instance] = {}
        dead: dict[str, list[str]] = {}
        while conflicts:
            heartbeats = self._queries.read_heartbeats(
                {each for found in conflicts.values() for each in found}
            )
            moment = self._queries.read_time()
            alive = {
                key: each.instance for key, each in heartbeats.items() if moment.get_liveness(each).alive
            }
            checked: dict[str, Sequence[str]] = {}
            for run, processes in conflicts.items():
                living = [alive[each] for each in processes if each in alive]
                if living:
                    owners[run] = living[0]
                else:
                    checked[run] = dead[run] = [*dead.get(run, ()), *processes]
            # Why checked again: another process may have registered the id in the meantime.
            conflicts = self._register(change_set, list(checked), checked) if checked else {}
        return owners

    def _register(
        self, change_set: ChangeSet, runs: Sequence[str], checked: Mapping[str, Sequence[str]]
    ) -> dict[str, list[str]]:
        """Register runs with their current ids, and add them to the feed.

        Return the processes that use the ids of runs that were not registered. Only those of
        ``checked`` are searched, without the processes that it names.
        """
        roots = [each for each in self.duplicate_ids.apply(change_set).snapshots if not each.info.path]
        entries = [encode_root_entry(root) for root in roots if root.info.run in runs]
        self._entries.update((run, text) for run, _, text in entries)
        now, step = self._read_server_time(), scripts.MAX_CALL_RUNS
        calls = []
        for start in range(0, len(entries), step):
            part = entries[start : start + step]
            changed = [run for run, _, _ in part]
            selected = {run: checked[run] for run in changed if run in checked} if checked else None
            calls.append(build_feed_call(self._keys, part, changed, now, checked=selected))
        return self._check_feeds(self._client.execute(calls))

    def _check_feeds(self, answers: Sequence[Any]) -> dict[str, list[str]]:
        """Check the answers of FEED.

        Return the processes that use the ids of new runs, by run.
        """
        found: dict[str, list[str]] = {}
        for answer in answers:
            texts = _to_texts(answer)
            self._check_feed(texts[:_DUPLICATES])
            if len(texts) > _DUPLICATES:
                found.update(json.loads(texts[_DUPLICATES]))
        return found

    def _fence(self, run: str, successor: str) -> None:
        """Leave out a run from now on, because another process has continued it."""
        self._fenced[run] = self.superseded[run] = successor

    def _write_keys(self, change_set: ChangeSet) -> None:
        """Add completed keys to their lineages."""
        by_run: dict[str, list[bytes]] = {}
        for entry in change_set.completed_keys:
            by_run.setdefault(entry.run, []).append(
                encode_completed_key(entry.scope, entry.key, entry.weight)
            )
        if not by_run:
            return
        unknown = [run for run in by_run if run not in self._lineages]
        found = self._client.execute(
            [command("HGET", self._keys.run_meta(run), "lineage") for run in unknown]
        )
        for run, lineage in zip(unknown, found, strict=True):
            self._lineages[run] = run if lineage is None else _to_text(lineage)
        calls = []
        for run, members in by_run.items():
            lineage = self._lineages[run]
            names = (self._keys.completed(lineage), self._keys.owner(lineage))
            for start in range(0, len(members), scripts.MAX_CALL_RECORDS):
                part = members[start : start + scripts.MAX_CALL_RECORDS]
                calls.append((run, call(scripts.ADD_KEYS, names, run, self.ttl_ms, *part)))
        answers = self._client.execute([each for _, each in calls])
        for (run, _), answer in zip(calls, answers, strict=True):
            state, owner = _to_texts(answer)
            if state == "superseded":
                self._fence(run, owner)

    def _write_again(
        self,
        change_set: ChangeSet,
        runs: dict[str, _RunChanges],
        repeated: Sequence[str],
        new: Iterable[str],
    ) -> None:
        """Write the changes of runs again with all constant values.

        The server lost them, or another process evicted a level above.
        """
        for run in repeated:
            self._drop_run(run)
        calls = [each for run in repeated for each in self._build_run_calls(run, runs[run], expected=False)]
        self._client.execute(calls)
        self._client.execute(self._build_feed(change_set, runs, dict.fromkeys(new, ())))

    def _acknowledge(self, runs: dict[str, _RunChanges]) -> None:
        """Add what was written to the cache, and drop ended levels and runs from it."""
        for run, changes in runs.items():
            cache = self._runs.setdefault(run, _RunCache())
            cache.number = self._get_number()
            cache.entry = self._entries.get(run, cache.entry)
            if self._is_refresh_due(cache):
                cache.refreshed_clock = self._read_clock()
            for path in changes.evicted:
                self._cached_count -= cache.infos.pop(path, None) is not None
            for snapshot in changes.snapshots:
                info = snapshot.info
                known = cache.infos.get(info.path)
                if snapshot.status.finished:
                    self._cached_count -= cache.infos.pop(info.path, None) is not None
                elif (run, info.path) in self._encoded:
                    self._cached_count += known is None
                    cache.infos[info.path] = self._encoded[run, info.path]
            if any(not snapshot.info.path and snapshot.status.finished for snapshot in changes.snapshots):
                self._drop_run(run)

    def _drop_run(self, run: str) -> None:
        self._lineages.pop(run, None)
        cache = self._runs.pop(run, None)
        if cache is not None:
            self._cached_count -= len(cache.infos)

    # --- levels ----------------------------------------------------------------------------------

    def _build_run_calls(self, run: str, changes: _RunChanges, *, expected: bool) -> list[Command]:
        """Return the calls that write the levels of a run."""
        cache = self._runs.get(run)
        infos = {} if cache is None else cache.infos
        evicted = frozenset(changes.evicted)
        arguments: list[tuple[str, str, str]] = []
        for snapshot in changes.snapshots:
            info = snapshot.info
            known = infos.get(info.path)
            if known is not None and known[0] is info and not _is_evicted(info.path, evicted):
                text, info_digest = "", known[1]
            else:
                text, info_digest = encode_info(info)
                self._encoded[run, info.path] = (info, info_digest)
            arguments.append((info.path, encode_state(snapshot, info_digest), text))
        every = self._keys.list_run_keys(run)
        common = (self._token, self._get_number(), cache.number if cache is not None and expected else "")
        calls = []
        for start in range(0, max(1, len(arguments)), scripts.MAX_CALL_LEVELS):
            part = arguments[start : start + scripts.MAX_CALL_LEVELS]
            removed = changes.evicted if start == 0 else []
            is_refreshed = start == 0 and self._is_refresh_due(cache)
            head = (*common, self.ttl_ms if is_refreshed else 0, len(removed), *removed)
            # Why not always all keys: each takes time, and only their time to live is renewed.
            keys = every if is_refreshed else every[: scripts.WRITTEN_KEYS]
            calls.append(call(scripts.WRITE_RUN, keys, *head, *chain.from_iterable(part)))
        return calls

    def _is_refresh_due(self, cache: _RunCache | None) -> bool:
        """Return True if a quarter of the time to live of a run has passed."""
        return cache is None or self._read_clock() - cache.refreshed_clock > self.ttl_ms / 4000

    def _refresh_idle_runs(self) -> None:
        """Renew the time to live of active runs that were not written for long."""
        now = self._read_clock()
        if not self.ttl_ms or now < self._next_refresh_check:
            return
        self._next_refresh_check = now + _REFRESH_CHECK_S
        due = [run for run, cache in self._runs.items() if self._is_refresh_due(cache)]
        commands = [call(scripts.REFRESH, self._keys.list_run_keys(run), self.ttl_ms) for run in due]
        for lineage in (self._lineages[run] for run in due if run in self._lineages):
            names = (self._keys.completed(lineage), self._keys.owner(lineage))
            commands.append(call(scripts.REFRESH, names, self.ttl_ms))
        self._client.execute(commands)
        for run in due:
            self._runs[run].refreshed_clock = now

    def _get_number(self) -> str:
        return f"{self._number:016d}"

    # --- heartbeat and indexes -------------------------------------------------------------------

    def _build_heartbeat(self, change_set: ChangeSet) -> Command:
        process, sample = change_set.instance, change_set.sample
        text = encode_heartbeat(process, change_set.at, change_set.clock, self._token, self._number)
        keys = (self._keys.heartbeat(process.id), self._keys.samples(process.id))
        encoded = ""
        if sample is not None and all(map(isfinite, (sample.at, sample.clock, sample.cpu_ratio))):
            encoded = f"{encode_time(sample.clock)}{encode_row(rows.encode_sample_row(sample))}"
        now = self._read_server_time()
        return call(scripts.BEAT, keys, text, now, self.ttl_ms, encoded, MAX_SAMPLES_PER_PROCESS)

    def _check_heartbeat(self, instance: str, answer: Any, *, is_lost: bool) -> None:
        """Detect that the server was emptied, or went back to an earlier state."""
        known = self._heartbeats.get(instance)
        stored = None if answer is None else decode_heartbeat(_to_text(answer))
        if known is not None:
            is_lost = is_lost or stored is None or (stored[0] == self._token and stored[1] < known)
        self._heartbeats = {instance: self._number}
        if is_lost:
            self._report_loss()

    def _build_feed(
        self,
        change_set: ChangeSet,
        runs: dict[str, _RunChanges],
        checked: Mapping[str, Sequence[str]] = _NO_RUNS,
    ) -> list[Command]:
        """Return the calls that register runs. The last one adds an entry to the feed.

        Runs of ``checked`` are not registered if another process uses their id.
        """
        entries: dict[str, tuple[str, str, str]] = {}
        for snapshot in change_set.snapshots:
            info = snapshot.info
            if not info.path:
                entry = encode_root_entry(snapshot)
                known = self._runs.get(info.run)
                if known is None or known.entry != entry[2]:
                    entries[info.run] = entry
                    self._entries[info.run] = entry[2]
            elif info.run not in entries and info.run not in self._runs:
                entries[info.run] = encode_rootless_entry(
                    info.run, info.operation_id, info.operation_type, info.instance
                )
        records: list[Event | LogRecord | Preview] = [*change_set.events, *change_set.logs]
        records += change_set.previews
        for record in records:
            if record.run not in entries and record.run not in self._runs:
                entries[record.run] = encode_rootless_entry(
                    record.run, record.operation_id, record.operation_type, change_set.instance.id
                )
        changed = dict.fromkeys((*runs, *(request.run for request in change_set.cancel_requests)))
        now, values = self._read_server_time(), list(entries.values())
        step = scripts.MAX_CALL_RUNS
        parts = [values[start : start + step] for start in range(0, len(values), step)] or [[]]
        calls = []
        for part in parts:
            runs_of_feed = changed if part is parts[-1] else ()
            # Why also without runs: the last call leaves out those that were not registered.
            selected = {run: checked[run] for run, _, _ in part if run in checked} if checked else None
            calls.append(build_feed_call(self._keys, part, runs_of_feed, now, checked=selected))
        return calls

    def _check_feed(self, answer: Sequence[str]) -> None:
        """Check the schema, and detect that the server lost the indexes."""
        if answer[0] == "schema":
            check_version(answer[1], str(self._client.address))
            msg = (
                f"The journal at {self._client.address} has an older schema. It is migrated at the next use."
            )
            self.reset_cache()
            raise JournalError(msg)
        _, journal, revision = answer
        is_lost = self._journal not in {None, journal} or int(revision) < self._revision
        self._journal, self._revision = journal, int(revision)
        if is_lost:
            self._report_loss()

    def _report_loss(self) -> None:
        """Report that the server lost data, and request a resend."""
        if not self.needs_resend:
            msg = (
                f"The Redis server {self._client.address} lost changes that it had stored. "
                "The state of this process is written again"
            )
            report_internal_error("journal", msg)
        self.needs_resend = True
        self._runs.clear()
        self._batches.clear()
        self._cached_count = 0

    # --- records ---------------------------------------------------------------------------------

    def _build_record_calls(
        self,
        change_set: ChangeSet,
        records: Sequence[_Record],
        encode: Callable[[_Record], Sequence[Any]],
        get_key: Callable[[str], str],
        limit: int,
        is_sanitized: bool,
    ) -> list[tuple[str, Command]]:
        """Return the runs and calls that add numbered records.

        A preview without a location is removed.
        """
        writer = change_set.instance.id
        by_run: dict[str, list[str]] = {}
        for record in records:
            try:
                identity = encode_record_id(record.number, writer)
                is_removed = isinstance(record, Preview) and not record.location
                text = "" if is_removed else encode_row(encode(record))
            except _INVALID_VALUE_ERRORS:
                if not is_sanitized:
                    raise
                continue
            by_run.setdefault(record.run, []).extend((identity, text))
        calls = []
        for run, values in by_run.items():
            for start in range(0, len(values), 2 * scripts.MAX_CALL_RECORDS):
                part = values[start : start + 2 * scripts.MAX_CALL_RECORDS]
                calls.append((run, call(scripts.ADD_RECORDS, (get_key(run),), self.ttl_ms, limit, *part)))
        return calls

    def _build_log_calls(self, change_set: ChangeSet, is_sanitized: bool) -> list[Command]:
        writer = change_set.instance.id
        by_run: dict[str, list[str]] = {}
        for record in change_set.logs:
            try:
                values = (
                    digest(record.path),
                    encode_record_id(record.number, writer),
                    encode_row(rows.encode_log_row(record)),
                )
            except _INVALID_VALUE_ERRORS:
                if not is_sanitized:
                    raise
                continue
            by_run.setdefault(record.run, []).extend(values)
        calls = []
        for run, texts in by_run.items():
            keys = (self._keys.logs(run), self._keys.log_levels(run))
            for start in range(0, len(texts), 3 * scripts.MAX_CALL_RECORDS):
                part = texts[start : start + 3 * scripts.MAX_CALL_RECORDS]
                limits = (self.ttl_ms, MAX_LOGS_PER_LEVEL, MAX_LOGS_PER_RUN)
                calls.append(call(scripts.ADD_LOGS, keys, *limits, *part))
        return calls

    def _build_value_calls(self, change_set: ChangeSet) -> list[Command]:
        """Return the calls that store cancel requests and other values of runs."""
        by_run: dict[str, list[str]] = {}
        for run, use in change_set.resources.items():
            by_run.setdefault(run, []).extend(("set", "use", rows.encode_use_column(use)))
        for request in change_set.cancel_requests:
            text = dumps((request.reason, float(request.at)))
            by_run.setdefault(request.run, []).extend(("first", "cancel", text))
        for run, text in change_set.checkpoints.items():
            by_run.setdefault(run, []).extend(("set", "checkpoint", text))
        for preview in change_set.previews:
            if preview.location and type(preview.number) is int:
                values = ("highest", "previews", clamp_number(preview.number))
                by_run.setdefault(preview.run, []).extend(values)
        return [
            call(
                scripts.SET_RUN_VALUES,
                (self._keys.levels(run), self._keys.run_meta(run)),
                self.ttl_ms,
                *values,
            )
            for run, values in by_run.items()
        ]

    def _build_trajectory_calls(self, change_set: ChangeSet) -> list[Command]:
        keys = self._keys
        numbers: Counter[tuple[TrajectoryKey, str]] = Counter()
        values: list[str] = []
        for entry in change_set.trajectories:
            text = encode_trajectory(entry.trajectory)
            if text is None:
                continue
            # Levels of one shape are distinguished by their order in the run.
            number = numbers[entry.key, entry.run]
            numbers[entry.key, entry.run] += 1
            values += (encode_trajectory_key(entry.key), _identify(entry, number), entry.run, text)
        if not values:
            return []
        names = (
            keys.trajectories,
            keys.trajectory_keys,
            keys.trajectory_owners,
            keys.trajectory_number,
            keys.runs,
        )
        limits = (MAX_TRAJECTORIES_PER_KEY, self._limits.trajectories)
        step = 4 * scripts.MAX_CALL_RECORDS
        return [
            call(scripts.ADD_TRAJECTORIES, names, *limits, *values[start : start + step])
            for start in range(0, len(values), step)
        ]

    # --- previews --------------------------------------------------------------------------------

    def _build_reference_calls(self, change_set: ChangeSet, is_sanitized: bool) -> list[Command]:
        values: list[str] = []
        for preview in change_set.previews:
            if preview.location:
                try:
                    identity = encode_record_id(preview.number, change_set.instance.id)
                except _INVALID_VALUE_ERRORS:
                    if not is_sanitized:
                        raise
                    continue
                values += ("+", digest(preview.location), f"{digest(preview.run)}{identity}")
        if not values:
            return []
        return [call(scripts.CHANGE_REFERENCES, (self._keys.locations,), *values)]

    def _drop_references(self, calls: Sequence[tuple[str, Command]], answers: Sequence[Any]) -> None:
        """Remove the references of previews that were deleted.

        Report locations without one.
        """
        values: list[str] = []
        reported: dict[str, str] = {}
        for (run, _), (removed, dropped) in zip(calls, answers, strict=True):
            for member in (*removed, *dropped):
                location, reference = parse_reference(run, _to_text(member))
                if location is not None:
                    values += ("-", digest(location), reference)
                    if member in dropped:
                        reported[digest(location)] = location
        if values:
            found = self._client.run_script(scripts.CHANGE_REFERENCES, (self._keys.locations,), *values)
            self.unreferenced += (
                reported[each] for each in dict.fromkeys(_to_texts(found)) if each in reported
            )

    # --- batches ---------------------------------------------------------------------------------

    def _write_batches(self, change_set: ChangeSet) -> None:
        """Store placeholders of batches that new operations name."""
        declarations: list[BatchDeclaration] = []
        for snapshot in change_set.snapshots:
            batch = snapshot.info.batch
            if snapshot.info.path or batch is None:
                continue
            started = snapshot.info.started_at
            started_at = snapshot.observed_at if started is None else started
            if started_at < self._batches.get(batch, float("inf")):
                declarations.append(rows.create_placeholder(batch, started_at))
        batches.merge_declarations(self._queries, declarations, change_set.at)
        if len(self._batches) > MAX_CACHED_LEVELS:
            self._batches.clear()
        for declaration in declarations:
            known = self._batches.get(declaration.id, float("inf"))
            self._batches[declaration.id] = min(known, declaration.started_at)


def build_feed_call(
    keys: JournalKeys,
    entries: Iterable[tuple[str, str, str]],
    changed: Iterable[str],
    now: str,
    lease: tuple[str, str] | None = None,
    checked: Mapping[str, Sequence[str]] | None = None,
) -> Command:
    """Return the call that registers runs, and adds changed ones to the feed.

    Runs of ``checked`` are not registered if a process that it does not name uses their id. Unless
    it is None, runs without an entry are left out of the feed. With ``lease``, which is a key and a
    fence, nothing changes if the lease has another owner.
    """
    names = (
        keys.meta, keys.revision, keys.order, keys.runs, keys.active, keys.ids, keys.ended, keys.types,
        keys.members, keys.expiry, keys.feed,
    )  # fmt: skip
    runs = list(changed)
    texts = (
        dumps(runs) if runs else "",
        "" if checked is None else dumps({run: list(owners) for run, owners in checked.items()}),
    )
    head = (SCHEMA_VERSION, create_journal_id(), now, scripts.MAX_FEED_ENTRIES, *texts)
    if lease is not None:
        return call(scripts.FEED, (*names, lease[0]), *head, *chain.from_iterable(entries), lease[1])
    return call(scripts.FEED, names, *head, *chain.from_iterable(entries))


def encode_trajectory_key(key: TrajectoryKey) -> str:
    """Return the digests of a trajectory key: without the host class, and of it."""
    common = "\0".join((key.operation_type, key.level, key.eta_key))
    return f"{digest(common)}{digest(key.host_class)}"


def parse_reference(run: str, member: str) -> tuple[str | None, str]:
    """Return the location of a stored preview, or None, and the rest of its reference."""
    row = decode_row(member[RECORD_ID_CHARS:])
    location = row[_LOCATION] if row is not None and len(row) > _LOCATION else None
    return location if type(location) is str else None, f"{digest(run)}{member[:RECORD_ID_CHARS]}"


def _identify(entry: TrajectoryEntry, number: int) -> str:
    return digest(f"{entry.run}\0{number}")


def _is_evicted(path: str, evicted: frozenset[str]) -> bool:
    """Return True if a level or a level above it is evicted by the same call."""
    while evicted and path:
        if path in evicted:
            return True
        path = path.rpartition("/")[0]
    return False


def _group_by_run(change_set: ChangeSet) -> dict[str, _RunChanges]:
    runs: dict[str, _RunChanges] = {}
    for snapshot in change_set.snapshots:
        runs.setdefault(snapshot.info.run, _RunChanges()).snapshots.append(snapshot)
    for run, path in change_set.evicted:
        if path:
            runs.setdefault(run, _RunChanges()).evicted.append(path)
    return runs


def _to_text(answer: Any) -> str:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)


def _to_texts(answer: Any) -> list[str]:
    return [_to_text(each) for each in answer]
