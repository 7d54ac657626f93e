"""Leases, retention, migrations and checks of a Redis journal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from otel_progress.errors import JournalError
from otel_progress.journal.redis import control, schema
from otel_progress.journal.redis.journal import RedisJournal
from otel_progress.journal.redis.leases import Lease
from tests.support.factories import WALL, batch_info, ended, make_change_set, snapshot
from tests.support.fake_time import FakeTime
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.server

Opener = Callable[..., RedisJournal]


def test_lease_has_one_owner_and_increasing_fences(open_another: Opener, redis_server: RedisServer) -> None:
    """It is renewed by its owner, and free after its release or its expiry."""
    journal = open_another()
    key = f"otelp:{journal._keys.name}:{{lease}}"
    one, other = (Lease(journal._client, key, 60.0) for _ in range(2))
    first = one.acquire()
    assert first is not None
    assert (one.acquire(), other.acquire()) == (first, None)
    other.release()
    assert other.acquire() is None
    redis_server.execute("DEL", key)
    second = other.acquire()
    assert second is not None
    assert second > first
    one.release()
    assert one.acquire() is None
    other.release()
    third = one.acquire()
    assert third is not None
    assert third > second


def test_deletion_with_an_old_fence_changes_nothing(open_another: Opener) -> None:
    """A process whose lease expired during its pass must not delete."""
    journal = open_another()
    journal.write(make_change_set(ended()))
    old = Lease(journal._client, journal._keys.retention_lease, 60.0)
    fence = old.acquire()
    assert fence is not None
    old.release()
    with Lease(journal._client, journal._keys.retention_lease, 60.0) as current:
        assert current is not None
        assert control.delete_run(journal._queries, "run-1", "instance-1", fence) == (False, [])
        assert len(journal.history()) == 1
        assert control.delete_run(journal._queries, "run-1", "instance-1", current) == (True, [])
    assert list(journal.history()) == []


def test_expired_runs_are_deleted_by_one_process(
    open_another: Opener, fake_time: FakeTime, redis_server: RedisServer
) -> None:
    """Ended and abandoned runs expire.

    Their batch keeps its counts until it expires too.
    """
    one, other = open_another(retention_s=600.0), open_another(retention_s=600.0)
    one.write(
        make_change_set(
            ended(run="old", operation_id="old", batch="thumbnails", ended_at=WALL + 400),
            snapshot(run="gone", operation_id="gone", instance="dead"),
            snapshot(),
            batches=[batch_info()],
        )
    )
    runs = []
    for _ in range(12):
        fake_time.pass_(60.0)
        for journal in (one, other):
            journal.write(make_change_set(at=fake_time.now, clock=fake_time.clock))
        runs.append({operation.run for operation in (*one.active(), *one.history())})
    assert runs[0] == {"old", "gone", "run-1"}
    assert runs[-1] == {"run-1"}
    batch = one.batch("thumbnails")
    assert batch is not None
    assert batch.finished_count == 1
    assert redis_server.connect().exists(*one._keys.list_run_keys("old")) == 0
    fake_time.pass_(1200.0)
    one.write(make_change_set(at=fake_time.now, clock=fake_time.clock))
    assert one.batch("thumbnails") is None


def test_wrong_wall_clock_of_a_process_deletes_nothing(open_real: Opener) -> None:
    """Ended runs expire by the time of the server."""
    journal = open_real(retention_s=3600.0)
    journal.write(make_change_set(ended(ended_at=WALL - 10 * 86_400)))
    journal._retention._next = float("-inf")
    journal.write(make_change_set())
    assert len(journal.history()) == 1


def test_full_server_loses_its_oldest_ended_runs(open_real: Opener, own_server: RedisServer) -> None:
    """They are counted. Active runs stay."""
    journal = open_real(own_server)
    journal.write(make_change_set(snapshot(), *(ended(run=f"r{n}", operation_id=f"o{n}") for n in range(5))))
    used = own_server.connect().info("memory")["used_memory"]
    own_server.execute("CONFIG", "SET", "maxmemory", int(used * 1.05))
    journal._retention._next = float("-inf")
    journal.write(make_change_set())
    assert journal.dropped == 5
    assert [operation.run for operation in journal.active()] == ["run-1"]
    assert list(journal.history()) == []


def test_older_journal_is_migrated_once(open_another: Opener) -> None:
    """Each step runs under a lease, and the version is raised after it."""
    journal = open_another()
    journal.write(make_change_set(snapshot()))
    done: list[str] = []
    steps = [lambda client, keys, name=name: done.append(name) for name in ("two", "three")]
    for _ in range(2):
        schema.migrate(journal._client, journal._keys, steps)  # type: ignore[arg-type]
    assert done == ["two", "three"]
    assert schema.read_version(journal._client, journal._keys) == "3"


def test_migration_by_another_process_is_a_temporary_error(open_another: Opener) -> None:
    """It is not repeated at the same time."""
    journal = open_another()
    journal.write(make_change_set(snapshot()))
    other = Lease(journal._client, f"{journal._keys.meta}:lease", 60.0)
    with other, pytest.raises(JournalError, match="is being migrated") as caught:
        schema.migrate(journal._client, journal._keys, [lambda client, keys: None])
    assert caught.value.is_temporary is True


def test_diagnosis_names_unsafe_settings(open_real: Opener, own_server: RedisServer) -> None:
    """Each finding says how to fix it."""
    journal = open_real(own_server)
    findings = {(each.check, each.state): each.text for each in journal.diagnose()}
    assert ("server", "ok") in findings
    assert "maxmemory is not set" in findings["memory", "note"]
    assert "appendonly" in findings["persistence", "note"]
    own_server.execute("CONFIG", "SET", "maxmemory", "100mb")
    own_server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    own_server.execute("CONFIG", "SET", "appendonly", "yes")
    journal.close()
    findings = {(each.check, each.state): each.text for each in journal.diagnose()}
    assert "set noeviction" in findings["memory", "problem"]
    assert ("persistence", "ok") in findings
    own_server.execute("REPLICAOF", "127.0.0.1", "1")
    journal.close()
    findings = {(each.check, each.state): each.text for each in journal.diagnose()}
    assert "replica" in findings["role", "problem"]
    own_server.kill()
    (finding,) = journal.diagnose()
    assert (finding.check, finding.state) == ("server", "problem")


def test_two_names_are_two_journals(open_real: Opener, redis_server: RedisServer) -> None:
    """They share a server without seeing each other."""
    from otel_progress.journal import open_journal

    journal = open_real()
    journal.write(make_change_set(snapshot()))
    other = open_journal(f"{redis_server.url}?name=another-name")
    assert list(other.active()) == []
    other.close()
