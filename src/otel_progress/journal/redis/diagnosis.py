"""Checks of a Redis server for the command ``doctor``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from otel_progress.journal.protocol import JournalFinding
from otel_progress.journal.redis.client import Command, RedisClient, ServerInfo
from otel_progress.journal.redis.keys import JournalKeys
from otel_progress.journal.redis.schema import SCHEMA_VERSION, read_version

MAX_CLOCK_DIFFERENCE_S: Final = 5.0
"""Difference of the clocks of server and process beyond which it is a note, in seconds."""


_SAFE_POLICIES: Final = frozenset({"noeviction", "volatile-ttl"})


def diagnose_server(client: RedisClient, keys: JournalKeys) -> Iterator[JournalFinding]:
    """Check the server without changing it. Never raises."""
    try:
        server = client.get_server()
        version = read_version(client, keys)
        seconds, _ = client.execute([Command(keys.meta, ("TIME",))])[0]
    except Exception as error:
        yield JournalFinding("server", "problem", str(error))
        return
    yield JournalFinding("server", "ok", f"{client.address}, version {server.version or 'unknown'}")
    if version not in {None, SCHEMA_VERSION}:
        msg = (
            f"the journal has schema {version}, and this installation {SCHEMA_VERSION}: upgrade the older one"
        )
        yield JournalFinding("schema", "problem", msg)
    yield from _check_memory(server)
    yield from _check_persistence(server)
    yield from _check_role(server)
    difference_s = abs(time.time() - float(seconds))
    if difference_s > MAX_CLOCK_DIFFERENCE_S:
        msg = f"the clocks of the server and of this machine differ by {difference_s:.0f} s; synchronize them"
        yield JournalFinding("clock", "note", msg)


def _check_memory(server: ServerInfo) -> Iterator[JournalFinding]:
    policy = str(server.fields.get("maxmemory_policy", ""))
    limit = server.fields.get("maxmemory", 0)
    if not policy:
        return
    if policy in _SAFE_POLICIES:
        yield JournalFinding("memory", "ok", f"maxmemory-policy is {policy}")
    else:
        state = "problem" if limit else "note"
        msg = f"maxmemory-policy {policy} deletes operations silently; set noeviction or volatile-ttl"
        yield JournalFinding("memory", state, msg)  # type: ignore[arg-type]
    if not limit:
        yield JournalFinding("memory", "note", "maxmemory is not set, so the server may use all memory")


def _check_persistence(server: ServerInfo) -> Iterator[JournalFinding]:
    enabled = server.fields.get("aof_enabled")
    if enabled is None:
        return
    if str(enabled) == "1":
        yield JournalFinding("persistence", "ok", "appendonly is on")
    else:
        msg = "appendonly is off, so a restart of the server loses ended operations; set appendonly yes"
        yield JournalFinding("persistence", "note", msg)


def _check_role(server: ServerInfo) -> Iterator[JournalFinding]:
    if server.is_cluster:
        yield JournalFinding("role", "ok", "the server is a node of a cluster")
    elif server.role in {"slave", "replica"}:
        msg = "the server is a read-only replica; use the address of the master, or redis+sentinel://"
        yield JournalFinding("role", "problem", msg)
    else:
        yield JournalFinding("role", "ok", "the server is a master")
