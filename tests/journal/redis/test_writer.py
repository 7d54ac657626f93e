"""Repeated, late and lost writes of a Redis journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from otel_progress.errors import JournalError
from otel_progress.journal.redis import scripts
from otel_progress.journal.redis.journal import RedisJournal
from otel_progress.journal.redis.limits import MAX_EVENTS_PER_RUN
from otel_progress.protocols import EventQuery
from otel_progress.records import Contribution
from tests.support.factories import ended, event, instance, log, make_change_set, preview, snapshot
from tests.support.fake_time import FakeTime
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.server

Opener = Callable[..., RedisJournal]


def _get_state(journal: RedisJournal) -> object:
    found = journal.get("friday-42")
    assert found is not None
    return (found.root, found.levels, list(journal.events("friday-42")), list(journal.logs("friday-42")))


def test_change_sets_in_any_repetition_have_one_result(open_another: Opener) -> None:
    """Each change set may be written twice, also by another journal object."""
    one, other = open_another(), open_another()
    change_sets = [
        make_change_set(
            snapshot(), snapshot("song:1"), events=[event(1)], logs=[log(1)], previews=[preview(1)]
        ),
        make_change_set(snapshot(sequence=2, current=1), snapshot("song:1", sequence=2), events=[event(2)]),
        make_change_set(snapshot(sequence=3, current=2), logs=[log(2)]),
    ]
    for change_set in change_sets:
        one.write(change_set)
    expected = _get_state(one)
    for change_set in (*change_sets, *reversed(change_sets)):
        other.write(change_set)
        one.write(change_set)
    assert _get_state(one) == expected
    assert len(one.previews("friday-42")) == 1


def test_late_call_of_a_writer_changes_nothing(open_another: Opener, redis_server: RedisServer) -> None:
    """A call that timed out may run after later ones.

    Its evictions must not delete new levels.
    """
    journal = open_another()
    journal.write(make_change_set(snapshot(), snapshot("song:1")))
    journal.write(make_change_set(snapshot("song:1", sequence=5, attempt=2)))
    keys, writer = journal._keys.list_run_keys("run-1"), journal._writer
    head = (writer._token, "0" * 15 + "1", "", 0, 1, "song:1")
    answer = redis_server.execute("EVAL", scripts.WRITE_RUN.text, len(keys), *keys, *head)
    assert answer == [b"late"]
    found = journal.get("friday-42")
    assert found is not None
    assert [level.info.attempt for level in found.levels] == [2]


def test_constant_values_of_a_refused_snapshot_are_stored_with_a_later_one(open_another: Opener) -> None:
    """The writer does not take them for stored."""
    journal = open_another()
    first, refused = snapshot(), snapshot(order=7)
    journal.write(make_change_set(first))
    journal.write(make_change_set(refused))
    found = journal.get("friday-42")
    assert found is not None
    assert found.root == first
    later = replace(refused, sequence=2)
    journal.write(make_change_set(later))
    found = journal.get("friday-42")
    assert found is not None
    assert found.root == later


def test_snapshot_with_equal_sequence_is_refused(open_another: Opener) -> None:
    """The stored one stays."""
    journal = open_another()
    journal.write(make_change_set(snapshot(sequence=3, current=1)))
    open_another().write(make_change_set(snapshot(sequence=3, current=7)))
    found = journal.get("friday-42")
    assert found is not None
    assert found.root.current == 1


def test_sequences_beyond_floats_are_compared_exactly(open_another: Opener) -> None:
    """Lua has only floats."""
    journal = open_another()
    journal.write(make_change_set(snapshot(sequence=2**53 + 1, current=1)))
    open_another().write(make_change_set(snapshot(sequence=2**53, current=7)))
    found = journal.get("friday-42")
    assert found is not None
    assert found.root.current == 1


def test_constant_values_are_written_once(open_another: Opener, redis_server: RedisServer) -> None:
    """A change of the state alone does not repeat them."""
    journal = open_another()
    root = snapshot(name="n" * 1000)
    journal.write(make_change_set(root))
    before = redis_server.connect().info("stats")["total_net_input_bytes"]
    journal.write(make_change_set(replace(root, sequence=2)))
    sent = redis_server.connect().info("stats")["total_net_input_bytes"] - before
    assert sent < 10_000
    redis_server.execute("HDEL", journal._keys.infos("run-1"), "")
    reader = open_another()
    assert reader.get("friday-42") is None
    journal.write(make_change_set(replace(root, sequence=2)))
    assert reader.get("friday-42") is not None


def test_level_below_an_evicted_one_is_stored_again(open_another: Opener) -> None:
    """Another process still works on it. Its constant values were evicted."""
    parent, child = open_another(), open_another()
    helper = instance("child")
    level = snapshot("song:1/verse:1", instance="child")
    parent.write(make_change_set(snapshot(), snapshot("song:1")))
    child.write(make_change_set(level, instance=helper))
    parent.write(make_change_set(evicted=[("run-1", "song:1")]))
    child.write(make_change_set(replace(level, sequence=2, current=7), instance=helper))
    found = open_another().get("friday-42")
    assert found is not None
    assert [(each.path, each.current) for each in found.levels] == [("song:1/verse:1", 7)]
    assert child.needs_resend is False


def test_scripts_that_the_server_lost_are_loaded_again(
    open_another: Opener, redis_server: RedisServer
) -> None:
    """The pipeline is repeated, which changes nothing."""
    journal = open_another()
    journal.write(make_change_set(snapshot(), events=[event(1)]))
    redis_server.execute("SCRIPT", "FLUSH")
    journal.write(make_change_set(snapshot(sequence=2), events=[event(2)]))
    assert [each.number for each in journal.events("friday-42")] == [1, 2]


@pytest.mark.parametrize("lost", ["everything", "run", "indexes", "heartbeat"])
def test_lost_keys_request_a_resend(open_another: Opener, redis_server: RedisServer, lost: str) -> None:
    """The writer detects it at the next write, and the run of that write is complete."""
    journal = open_another()
    root = snapshot()
    journal.write(make_change_set(root, snapshot("song:1")))
    assert journal.needs_resend is False
    keys = journal._keys
    selected = {
        "everything": redis_server.connect().keys(f"otelp:{keys.name}:*"),
        "run": keys.list_run_keys("run-1"),
        "indexes": [*keys.indexes],
        "heartbeat": [keys.heartbeat("instance-1")],
    }[lost]
    redis_server.execute("DEL", *selected)
    journal.write(make_change_set(replace(root, sequence=2, current=4)))
    assert journal.needs_resend is True
    journal.needs_resend = False
    journal.write(make_change_set(replace(root, sequence=2, current=4), snapshot("song:1")))
    found = open_another().get("friday-42")
    assert found is not None
    assert (found.root.current, [level.path for level in found.levels]) == (4, ["song:1"])
    assert [operation.run for operation in journal.active()] == ["run-1"]
    journal.write(make_change_set(replace(root, sequence=3)))
    assert journal.needs_resend is False


def test_earlier_state_of_the_server_requests_a_resend(
    open_another: Opener, redis_server: RedisServer
) -> None:
    """A server with an old dump has fewer writes than it acknowledged."""
    journal = open_another()
    root = snapshot()
    journal.write(make_change_set(root))
    client, keys = redis_server.connect(), journal._keys
    dumps = {key: client.dump(key) for key in client.keys(f"otelp:{keys.name}:*")}
    for number in (2, 3):
        journal.write(make_change_set(replace(root, sequence=number, current=number)))
    for key, value in dumps.items():
        client.restore(key, 0, value, replace=True)
    journal.write(make_change_set())
    assert journal.needs_resend is True


def test_event_limit_of_run_deletes_and_counts_the_oldest(open_another: Opener) -> None:
    """Other journals drop them by size."""
    journal = open_another()
    journal.write(make_change_set(snapshot()))
    events = [event(number) for number in range(1, MAX_EVENTS_PER_RUN + 51)]
    journal.write(make_change_set(events=events))
    found = journal.events("friday-42", EventQuery(limit=100_000))
    assert [each.number for each in found] == list(range(51, MAX_EVENTS_PER_RUN + 51))
    assert journal.dropped == 50


def test_keys_of_runs_expire_after_the_retention(
    open_another: Opener, redis_server: RedisServer, fake_time: FakeTime
) -> None:
    """If no process deletes them, the server does. Active runs are renewed."""
    journal = open_another(retention_s=3600.0)
    root = snapshot()
    share = Contribution(root, "child/0", is_share=True, is_counted=True)
    records = {"events": [event(1)], "logs": [log(1)], "previews": [preview(1)], "contributions": [share]}
    journal.write(make_change_set(root, **records))
    client, keys = redis_server.connect(), journal._keys
    ttls = [client.pttl(key) for key in keys.list_run_keys("run-1")]
    assert all(3600_000 < ttl <= 25 * 3600_000 for ttl in ttls)
    for key in keys.list_run_keys("run-1"):
        client.pexpire(key, 1_000_000)
    fake_time.pass_(7 * 3600.0)
    journal.write(make_change_set(at=fake_time.now, clock=fake_time.clock))
    assert client.pttl(keys.levels("run-1")) > 2_000_000


def test_journal_of_newer_schema_is_rejected(open_another: Opener, redis_server: RedisServer) -> None:
    """A process that runs during the upgrade of another one stops writing, too."""
    running = open_another()
    running.write(make_change_set(snapshot()))
    redis_server.execute("HSET", running._keys.meta, "schema", "99")
    for journal in (running, open_another()):
        with pytest.raises(JournalError, match=r"newer otel-progress \(schema 99"):
            journal.write(make_change_set(snapshot(sequence=2)))
    with pytest.raises(JournalError, match="schema 99"):
        open_another(read_only=True).active()


def test_invalid_rows_are_left_out(open_another: Opener, redis_server: RedisServer) -> None:
    """Damaged levels, records and heartbeats raise no error."""
    journal = open_another()
    journal.write(make_change_set(snapshot(), snapshot("song:1"), ended(run="x", operation_id="o2")))
    keys = journal._keys
    state = redis_server.execute("HGET", keys.levels("run-1"), "song:1")
    redis_server.execute("HSET", keys.levels("run-1"), "song:1", state[:24] + b"[]")
    redis_server.execute("HSET", keys.levels("x"), "", b"\xff\xfe")
    redis_server.execute("ZADD", keys.events("run-1"), 0, b"\xff" * 50)
    redis_server.execute("SET", keys.heartbeat("instance-1"), b"1" * 16 + b"{")
    found = journal.get("friday-42")
    assert found is not None
    assert found.levels == ()
    assert list(journal.events("friday-42")) == []
    assert list(journal.history()) == []
