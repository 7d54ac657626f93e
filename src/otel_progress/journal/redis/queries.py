"""Reads operations with their levels, heartbeats and time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import isfinite
from threading import Lock
from typing import Any, Final, TypeAlias

from otel_progress.journal.invalid_rows import count_invalid_row
from otel_progress.journal.liveness import Heartbeat, ReadTime
from otel_progress.journal.redis.client import Command, RedisClient, call, command
from otel_progress.journal.redis.entries import RunEntry, decode_entry
from otel_progress.journal.redis.keys import JournalKeys, digest
from otel_progress.journal.redis.records import (
    compute_info_digest,
    decode_heartbeat,
    decode_row,
    decode_state,
    get_info_digest,
)
from otel_progress.journal.redis.scripts import MAX_READ_RUNS, READ_ROOTS
from otel_progress.journal.snapshots import build_operation, sort_depth_first
from otel_progress.model import LevelSnapshot
from otel_progress.operations import OperationSnapshot

MAX_CACHED_INFOS: Final = 50_000
"""Constant values of levels in the cache of a reader. The least recently used ones are evicted."""


_META_FIELDS: Final = ("use", "cancel", "previews")


_Infos: TypeAlias = "dict[tuple[str, str, str], str]"


class InfoCache:
    """Cache of the constant values of levels by run, path and digest."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        self._lock = Lock()

    def find(self, wanted: Iterable[tuple[str, str, str]]) -> _Infos:
        """Return the known texts. While another thread uses the cache, none is known."""
        found: _Infos = {}
        # Why without waiting: after a fork, the lock may stay locked.
        if not self._lock.acquire(blocking=False):
            return found
        try:
            for key in wanted:
                text = self._texts.get(key)
                if text is not None:
                    self._texts.move_to_end(key)
                    found[key] = text
        finally:
            self._lock.release()
        return found

    def add(self, texts: _Infos) -> None:
        """Add texts, and evict the least recently used ones."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._texts.update(texts)
            while len(self._texts) > MAX_CACHED_INFOS:
                self._texts.popitem(last=False)
        finally:
            self._lock.release()


class Queries:
    """Reads operations.

    ``read_now`` and ``read_clock`` return Unix and monotonic seconds.

    ``read_server_time`` returns the time for the server in microseconds as text, empty for its own.
    """

    def __init__(
        self,
        client: RedisClient,
        keys: JournalKeys,
        read_time: Callable[[], ReadTime],
        read_server_time: Callable[[], str],
        cache: InfoCache | None = None,
    ) -> None:
        self.client = client
        self.keys = keys
        self.read_time = read_time
        self._read_server_time = read_server_time
        self._cache = cache

    def find_runs(self, operation_id: str) -> list[str]:
        """Return the runs of an operation, the newest first."""
        prefix = digest(operation_id)
        found = self.client.execute_one("ZREVRANGEBYLEX", self.keys.ids, end_of(prefix), f"[{prefix}")
        return [to_text(member)[len(prefix) + 16 :] for member in found]

    def find_newest_run(self, operation_id: str) -> str | None:
        """Return the newest run of an operation, or None."""
        prefix = digest(operation_id)
        found = select_range(self.client, self.keys.ids, f"[{prefix}", end_of(prefix), 1)
        return found[0][len(prefix) + 16 :] if found else None

    def read_entries(self, runs: Sequence[str]) -> dict[str, RunEntry]:
        """Return the index entries of runs, without missing and invalid ones."""
        if not runs:
            return {}
        stored = self.client.execute_one("HMGET", self.keys.runs, *runs)
        entries = {}
        for run, text in zip(runs, stored, strict=True):
            entry = None if text is None else decode_entry(run, to_text(text))
            if entry is not None:
                entries[run] = entry
        return entries

    def load_operations(self, runs: Sequence[str], *, levels: bool) -> list[OperationSnapshot]:
        """Return the operations of runs in their order, without those that have no root.

        Without ``levels`` they are read without the levels below them.
        """
        if not runs:
            return []
        is_cluster = self.client.get_server().is_cluster
        answers = self._read_runs(runs, levels=levels) if levels or is_cluster else self._read_roots(runs)
        states: dict[str, dict[str, str]] = {}
        meta: dict[str, Sequence[Any]] = {}
        for run, found, values in zip(runs, answers[::2], answers[1::2], strict=True):
            if found:
                known = found if levels else {b"": found}
                states[run] = {to_text(path): to_text(state) for path, state in known.items()}
                meta[run] = values
        infos = self._read_infos(states)
        trees = {run: self._decode_tree(run, levels_of, infos) for run, levels_of in states.items()}
        roots = {run: tree[0] for run, tree in trees.items() if tree[0] is not None}
        heartbeats = self.read_heartbeats({root.info.instance for root in roots.values()})
        moment = self.read_time()
        result = []
        for run in runs:
            root = roots.get(run)
            if root is None:
                continue
            use, cancelled, previews = map(_to_text_or_none, meta[run])
            if previews is not None and previews.isdigit():
                root = replace(root, previews=max(root.previews, int(previews) - 2**63))
            operation = build_operation(
                root, heartbeats.get(root.info.instance), use, _decode_request_time(cancelled), moment
            )
            below = sort_depth_first(trees[run][1])
            result.append(replace(operation, levels=below, _index={}) if below else operation)
        return result

    def _read_runs(self, runs: Sequence[str], *, levels: bool) -> list[Any]:
        """Return the states of the levels or the root, and the meta fields, of each run."""
        commands: list[Command] = []
        for run in runs:
            name = self.keys.levels(run)
            commands.append(command("HGETALL", name) if levels else command("HGET", name, ""))
            commands.append(command("HMGET", self.keys.run_meta(run), *_META_FIELDS))
        return self.client.execute(commands)

    def _read_roots(self, runs: Sequence[str]) -> list[Any]:
        """Return for each run the state of its root, and the meta fields.

        Why a script: two commands per run take a fifth of the processor time of a reader.
        """
        calls: list[Command] = []
        for start in range(0, len(runs), MAX_READ_RUNS):
            names: list[str] = []
            for run in runs[start : start + MAX_READ_RUNS]:
                names += (self.keys.levels(run), self.keys.run_meta(run))
            calls.append(call(READ_ROOTS, names, *_META_FIELDS))
        return [value for answer in self.client.execute(calls) for value in answer]

    def read_heartbeats(self, instances: Iterable[str]) -> dict[str, Heartbeat]:
        """Return the last heartbeats of processes by id, in the time of this process.

        Clocks of machines differ, so the server adds its time to each heartbeat.
        """
        ids = [each for each in instances if each]
        if not ids:
            return {}
        commands = [command("GET", self.keys.heartbeat(each)) for each in ids]
        given = self._read_server_time()
        answers = self.client.execute(commands)
        server_now = int(given) / 1e6 if given else self._read_server_now()
        started_at = 0.0 if given else self.client.get_server().started_at
        now = self.read_time().now
        heartbeats = {}
        for identity, text in zip(ids, answers, strict=True):
            decoded = None if text is None else decode_heartbeat(to_text(text))
            if decoded is None:
                if text is not None:
                    count_invalid_row("process", identity)
                continue
            _, _, received_at, heartbeat = decoded
            # Why: while the server was down, no process could send a heartbeat.
            outage_s = max(0.0, started_at - received_at)
            heartbeats[heartbeat.instance.id] = Heartbeat(
                heartbeat.instance,
                now - (server_now - received_at - outage_s),
                heartbeat.heartbeat_clock + outage_s,
            )
        return heartbeats

    def sum_ratios(self, runs: Sequence[str]) -> float:
        """Return the sum of the ratios of runs, each from 0 to 1."""
        answers = self.client.execute([command("HGET", self.keys.levels(run), "") for run in runs])
        total = 0.0
        for answer in answers:
            row = None if answer is None else decode_row(to_text(answer)[24:])
            ratio = None if row is None or len(row) < 3 else row[2]
            if isinstance(ratio, (int, float)) and isfinite(ratio):
                total += min(1.0, max(0.0, ratio))
        return total

    def _read_server_now(self) -> float:
        seconds, microseconds = self.client.execute([Command(self.keys.meta, ("TIME",))])[0]
        return float(seconds) + float(microseconds) / 1e6

    def _read_infos(self, states: dict[str, dict[str, str]]) -> _Infos:
        """Return the constant values of all levels, from the cache as far as possible."""
        wanted = [
            (run, path, get_info_digest(state))
            for run, found in states.items()
            for path, state in found.items()
        ]
        known = {} if self._cache is None else self._cache.find(wanted)
        missing: dict[str, list[tuple[str, str, str]]] = {}
        for key in wanted:
            if key not in known:
                missing.setdefault(key[0], []).append(key)
        if missing:
            commands = [
                command("HMGET", self.keys.infos(run), *(path for _, path, _ in entries))
                for run, entries in missing.items()
            ]
            read: _Infos = {}
            for entries, texts in zip(missing.values(), self.client.execute(commands), strict=True):
                read.update(
                    (key, to_text(text)) for key, text in zip(entries, texts, strict=True) if text is not None
                )
            if self._cache is not None:
                # Why: another process may have changed them since the states were read.
                self._cache.add(
                    {key: text for key, text in read.items() if compute_info_digest(text) == key[2]}
                )
            known.update(read)
        return known

    def _decode_tree(
        self, run: str, states: dict[str, str], infos: _Infos
    ) -> tuple[LevelSnapshot | None, list[LevelSnapshot]]:
        """Return the root, or None if it is missing or invalid, and the levels below it."""
        root, levels = None, []
        for path, state in states.items():
            info = infos.get((run, path, get_info_digest(state)))
            # Without constant values, the level is written again soon.
            if info is None:
                continue
            level = decode_state(info, state)
            if level is None or level.path != path:
                count_invalid_row("level" if path else "operation", run, path)
            elif path:
                levels.append(level)
            else:
                root = level
        return root, levels


def select_range(client: RedisClient, key: str, low: str | bytes, high: str | bytes, limit: int) -> list[str]:
    """Return the highest members of an index between two bounds, the highest first."""
    if limit <= 0:
        return []
    found = client.execute_one("ZREVRANGEBYLEX", key, high, low, "LIMIT", 0, limit)
    return [to_text(member) for member in found]


def end_of(prefix: str) -> bytes:
    """Return the upper bound of the members that start with a text."""
    return b"[" + prefix.encode() + b"\xff"


def to_text(answer: Any) -> str:
    """Return the text of an answer. Invalid bytes are replaced."""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)


def decode_request(text: str | None) -> tuple[str, float] | None:
    """Return reason and time of a stored cancel request, or None."""
    row = None if text is None else decode_row(text)
    if row is None or len(row) != 2 or type(row[0]) is not str or type(row[1]) is not float:
        return None
    return (row[0], row[1]) if isfinite(row[1]) else None


def _decode_request_time(text: str | None) -> float | None:
    request = decode_request(text)
    return None if request is None else request[1]


def _to_text_or_none(answer: Any) -> str | None:
    return None if answer is None else to_text(answer)
