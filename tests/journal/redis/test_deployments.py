"""Sentinels, clusters and TLS."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from otel_progress.errors import JournalError
from otel_progress.journal import open_journal
from otel_progress.journal.redis import client
from otel_progress.protocols import HistoryQuery
from tests.support.factories import (
    batch_info,
    ended,
    event,
    instance,
    log,
    make_change_set,
    make_trajectory_entry,
    preview,
    sample,
    snapshot,
)
from tests.support.redis_servers import RedisServer
from tests.support.servers import free_port, poll, require

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Three masters."""
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
            server = RedisServer(tmp_path / f"node-{number}", *options, port=_find_cluster_port())
            stack.callback(server.stop)
            server.start()
            servers.append(server)
        nodes = [f"127.0.0.1:{server.port}" for server in servers]
        subprocess.run(
            [require("redis-cli"), "--cluster", "create", *nodes, "--cluster-yes"],
            check=True,
            capture_output=True,
            timeout=120,
        )
        for server in servers:
            poll(lambda server=server: b"cluster_state:ok" in _read_cluster(server), what="the cluster")
        yield servers


def _find_cluster_port() -> int:
    """Return a port whose cluster bus port is valid."""
    return next(port for port in iter(free_port, None) if port < 55_000)


def _read_cluster(server: RedisServer) -> bytes:
    found = server.execute("CLUSTER", "INFO")
    return found if isinstance(found, bytes) else repr(found).replace("': '", ":").encode()


def test_cluster_stores_and_reads_all_records(cluster: list[RedisServer]) -> None:
    """Runs are distributed over all nodes. The watch reads changes of each of them."""
    journal, reader = open_journal(cluster[0].url), open_journal(cluster[1].url)
    watch = reader.watch(0.5)
    runs = [f"r{number}" for number in range(30)]
    journal.write(make_change_set())
    for _ in range(2):
        # The second time it waits for an entry of the feed.
        next(watch)
    journal.write(
        make_change_set(
            *(snapshot(run=run, operation_id=run, batch="b") for run in runs),
            *(snapshot("song:1", run=run, operation_id=run) for run in runs),
            events=[event(1, run=run, operation_id=run) for run in runs],
            logs=[log(1, run=run, operation_id=run) for run in runs],
            previews=[preview(1, run=run, operation_id=run) for run in runs],
            trajectories=[make_trajectory_entry("r0")],
            batches=[batch_info("b")],
            sample=sample(),
        )
    )
    found = poll(lambda: next(watch), what="changes")
    assert {operation.run for operation in found} == set(runs)
    for run in runs:
        found = reader.get(run)
        assert found is not None
        assert [level.path for level in found.levels] == ["song:1"]
        assert len(reader.events(run)) == len(reader.logs(run)) == len(reader.previews(run)) == 1
    assert all(server.connect().dbsize() > 0 for server in cluster)
    assert reader.request_cancel("r3", "stop") is True
    assert [request.run for request in journal.cancel_requests("instance-1")] == ["r3"]
    journal.write(make_change_set(*(ended(run=run, operation_id=run, batch="b") for run in runs)))
    assert len(reader.history(HistoryQuery(limit=100))) == 30
    batch = reader.batch("b")
    assert batch is not None
    assert batch.finished_count == 30
    assert reader.delete("r3") == 1
    for each in (watch, journal, reader):
        each.close()  # type: ignore[union-attr]


def test_cluster_without_a_node_recovers(cluster: list[RedisServer]) -> None:
    """Writes fail while a node is gone, and are complete after they are repeated."""
    journal = open_journal(cluster[0].url)
    runs = [f"r{number}" for number in range(12)]
    journal.write(make_change_set(*(snapshot(run=run, operation_id=run) for run in runs)))
    cluster[2].kill()
    change_set = make_change_set(
        *(snapshot(run=run, operation_id=run, sequence=2, current=5) for run in runs)
    )
    with pytest.raises(JournalError) as caught:
        journal.write(change_set)
    assert caught.value.is_temporary is True
    cluster[2].start()

    def write() -> bool:
        try:
            journal.write(change_set)
        except JournalError:
            return False
        return True

    poll(write, timeout=60.0, what="a successful write")
    # The node had no persistence, so its runs are written again.
    journal.write(make_change_set(*change_set.snapshots))
    reader = open_journal(cluster[0].url)
    assert [reader.get(run).root.current for run in runs] == [5] * 12  # type: ignore[union-attr]
    for each in (journal, reader):
        each.close()  # type: ignore[attr-defined]


def test_sentinels_find_the_new_master(tmp_path: Path) -> None:
    """The writer continues with the replica after the master was killed."""
    with ExitStack() as stack:
        master, replica = (RedisServer(tmp_path / name) for name in ("master", "replica"))
        for server in (master, replica):
            stack.callback(server.stop)
            server.start()
        replica.execute("REPLICAOF", "127.0.0.1", str(master.port))
        poll(lambda: replica.connect().info("replication")["master_link_status"] == "up", what="a replica")
        ports = []
        for number in range(3):
            port = free_port()
            folder = tmp_path / f"sentinel-{number}"
            folder.mkdir()
            (folder / "sentinel.conf").write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor main 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
            )
            command = [require("redis-server"), str(folder / "sentinel.conf"), "--sentinel"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            ports.append(port)

        def count_sentinels() -> bool:
            try:
                with redis.Redis(host="127.0.0.1", port=ports[0], socket_timeout=5) as sentinel:
                    state = sentinel.execute_command("SENTINEL", "MASTER", "main")
            except redis.RedisError:
                return False
            # Why both: versions of redis-py differ.
            pairs = state.items() if isinstance(state, dict) else zip(state[::2], state[1::2], strict=True)
            known = {_text(key): _text(value) for key, value in pairs}
            return known.get("num-other-sentinels") == "2" and known.get("num-slaves") == "1"

        poll(count_sentinels, timeout=60.0, what="Sentinels that know each other")
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        journal = open_journal(f"redis+sentinel://{hosts}/main/0")
        process = instance()
        journal.write(make_change_set(snapshot(), instance=process))
        poll(lambda: replica.connect().dbsize() >= 5, what="replicated keys")
        master.kill()
        deadline = time.monotonic() + 120.0
        number = 1
        while time.monotonic() < deadline:
            number += 1
            try:
                journal.write(make_change_set(snapshot(sequence=number, current=number), instance=process))
                break
            except JournalError as error:
                assert error.is_temporary, error  # noqa: PT017
                time.sleep(0.2)
        found = journal.get("friday-42")
        assert found is not None
        assert found.root.current == number
        assert replica.connect().info("replication")["role"] == "master"
        journal.close()


def test_tls_server_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the certificate of its authority it is rejected.

    The error names the fix.
    """
    monkeypatch.setattr(client, "TIMEOUT_S", 10.0)
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            require("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", str(key),
            "-out", str(certificate), "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    server = RedisServer(
        tmp_path / "redis",
        *("--port", "0", "--tls-port"), "0", *("--tls-cert-file", str(certificate)),
        *("--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"),
    )  # fmt: skip
    server.options[3] = str(server.port)
    try:
        server.start(is_ready=False)
        url = f"rediss://127.0.0.1:{server.port}/0"
        trusting = open_journal(f"{url}?ssl_ca_certs={certificate}")

        def write() -> bool:
            try:
                trusting.write(make_change_set(snapshot()))
            except JournalError:
                return False
            return True

        poll(write, what="a write over TLS")
        other = open_journal(url)
        with pytest.raises(JournalError, match=r"ssl_ca_certs=/path/ca\.crt"):
            other.active()
        assert len(trusting.active()) == 1
        for each in (trusting, other):
            each.close()  # type: ignore[attr-defined]
    finally:
        server.stop()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
