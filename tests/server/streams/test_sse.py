"""Server-sent events over a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

import otel_progress as progress
from otel_progress.journal import SqliteJournal
from otel_progress.server.settings import StreamLimits
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import Recorder
from tests.support.api_server import PATIENCE_S, StreamEvent, get, serving, serving_nothing, stream, until
from tests.support.factories import ended, make_change_set
from tests.support.server_threads import threads_end
from tests.support.servers import poll


def test_client_receives_full_set_then_ready_then_changes(recorder: Recorder) -> None:
    """Each change has its id in the sequence."""
    with (
        progress.operation("survey", "One", id="one", total=10) as one,
        progress.operation("survey", id="two"),
        serving(recorder) as server,
    ):
        with stream(server) as told:
            first = until(told, "ready")
            assert {event.document["operation_id"] for event in first[:-1]} == {"one", "two"}
            one.increment(message="a\nb\r\n\n: \u2028 event: gone")
            change = until(told, "snapshot")[-1]
        assert change.document["current"] == 1
        assert change.document["message"] == "a\nb\r\n\n: \u2028 event: gone"
        assert "levels" not in change.document
        poll(lambda: not server.hub.subscribers)


def test_client_with_last_event_id_receives_missed_messages(recorder: Recorder) -> None:
    """An unknown id gets a reset and the full set."""
    with (
        progress.operation("survey", id="one", total=10) as one,
        progress.operation("survey", id="two"),
        serving(recorder) as server,
    ):
        with stream(server) as told:
            last = until(told, "ready")[-1].id
        one.increment()
        # Wait until the hub has the change that the client misses.
        poll(lambda: server.hub.last_number > int(last.partition("-")[2]))
        with stream(server, **{"Last-Event-ID": last}) as told:
            missed = until(told, "ready")
        assert [event.document.get("operation_id") for event in missed] == ["one", None]
        with stream(server, **{"Last-Event-ID": "0123-7"}) as told:
            again = until(told, "ready")
        assert [event.kind for event in again] == ["reset", "snapshot", "snapshot", "ready"]


def test_client_by_id_receives_levels_and_items(recorder: Recorder) -> None:
    """Other operations are not sent."""
    with (
        progress.operation("survey", id="one") as one,
        progress.operation("survey", id="two"),
        serving(recorder) as server,
    ):
        with (
            stream(server, "?operation=one&operation=absent&levels=true") as told,
            one.level("folder", id="src") as folder,
        ):
            until(told, "ready")
            folder.item("a.py", outcome="failed")
            recorder.tick()
            found: dict[str, StreamEvent] = {}
            while len(found) < 2:
                event = next(told)
                if event.kind == "item" or event.document.get("levels"):
                    found[event.kind] = event
        assert found["item"].document["name"] == "a.py"
        assert found["snapshot"].document["operation_id"] == "one"
        assert [level["path"] for level in found["snapshot"].document["levels"]] == ["folder:src"]


def test_client_by_type_receives_only_that_type(recorder: Recorder) -> None:
    """Operations that start later are filtered, too."""
    with (
        progress.operation("video", id="a"),
        progress.operation("audio", id="b"),
        serving(recorder) as server,
    ):
        with stream(server, "?type=audio") as told:
            first = until(told, "ready")
            with progress.operation("video", id="c"), progress.operation("audio", id="d"):
                later = until(told, "snapshot")
        assert [event.document.get("operation_id") for event in (*first, *later)] == ["b", None, "d"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits for all tests."""
    with serving_nothing(
        tmp_path_factory.mktemp("small"), streams=StreamLimits(subscriptions=2, trees=1)
    ) as server:
        yield server


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?levels=true", 422),
        ("?operation=", 422),
        ("?operation=" + "x" * 300, 422),
        ("?levels=maybe", 422),
        ("?operation=a&all=maybe", 422),
        ("?batch=a&batch=b", 422),
        ("?operation=a&operation=b&operation=c", 422),
        ("?type=%ff", 400),
        ("?operation=a&operation=b&levels=true", 503),
    ],
)
def test_invalid_query_is_refused(small: Server, query: str, status: int) -> None:
    """The problem says what was expected, and no stream starts."""
    answer = get(f"{small.url}api/v1/stream{query}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 20
    assert not small.hub.subscribers


def test_stream_sends_retry_time_and_heartbeats(recorder: Recorder) -> None:
    """A heartbeat shows that a silent stream is alive."""
    with (
        serving(recorder, streams=StreamLimits(heartbeat_s=0.05)) as server,
        httpx.stream(
            "GET", f"{server.url}api/v1/stream", timeout=PATIENCE_S, trust_env=False, verify=False
        ) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "retry: 1000"
        assert any(line == ": heartbeat" for line in lines)


def test_stream_without_own_changes_receives_heartbeats(recorder: Recorder) -> None:
    """Also while other operations change more often than heartbeats are due."""
    over = threading.Event()
    with (
        progress.operation("survey", id="still"),
        progress.operation("survey", id="busy") as busy,
        serving(recorder, streams=StreamLimits(heartbeat_s=1.0, interval_s=0.05)) as server,
        httpx.stream(
            "GET", f"{server.url}api/v1/stream?operation=still", timeout=PATIENCE_S, trust_env=False
        ) as answer,
    ):

        def work() -> None:
            while not over.wait(0.02):
                busy.increment()

        worker = threading.Thread(target=work)
        worker.start()
        try:
            assert any(line == ": heartbeat" for line in answer.iter_lines())
        finally:
            over.set()
            worker.join()


def test_client_beyond_the_limit_is_refused(recorder: Recorder) -> None:
    """It is counted. Connected clients stay."""
    with serving(recorder, streams=StreamLimits(clients=1)) as server, stream(server) as told:
        until(told, "ready")
        answer = get(f"{server.url}api/v1/stream")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert {("clients",): 1} in server.counts.read().values()


def test_stream_requires_the_token(recorder: Recorder) -> None:
    """The token can be in the header or in the query."""
    with serving(recorder, token="correct-horse-battery") as server:
        assert get(f"{server.url}api/v1/stream").status_code == 401
        with stream(server, "?access_token=correct-horse-battery") as told:
            until(told, "ready")
        with stream(server, Authorization="Bearer correct-horse-battery") as told:
            until(told, "ready")


def test_deleted_operation_is_reported_immediately(tmp_path: Path) -> None:
    """A client by id also receives it for an operation that ended earlier."""
    journal = SqliteJournal(tmp_path / "progress.db")
    root = ended(operation_id="old", id="old", run="run-old")
    journal.write(make_change_set(root))
    server = Server(journal, port=0, controller=journal)
    with threads_end(), closing(journal), server, stream(server, "?operation=old&levels=true") as told:
        assert until(told, "ready")[0].document["operation_id"] == "old"
        answer = httpx.delete(
            f"{server.url}api/v1/operations/old", timeout=PATIENCE_S, trust_env=False, verify=False
        )
        assert answer.status_code == 204
        assert until(told, "gone")[-1].document == {"run": "run-old", "operation_id": "old"}
        with stream(server, "?operation=old&levels=true") as later:
            assert "snapshot" not in [event.kind for event in until(later, "ready")]


def test_websocket_path_without_upgrade_answers_426(small: Server) -> None:
    """The problem names the alternative."""
    answer = get(f"{small.url}api/v1/ws")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert "/api/v1/stream" in answer.json()["detail"]


def test_stream_of_all_and_named_operations_has_each_of_them(recorder: Recorder) -> None:
    """The named ones come with their levels. A reconnect resumes all."""
    first, second = (progress.operation("job", id=id_, total=9).start() for id_ in ("first", "second"))
    first.level("part", "a").start()
    query = "?operation=first&levels=true&all=true"
    with serving(recorder) as server:
        with stream(server, query) as told:
            initial = until(told, "ready")
            found = [(one.document["operation_id"], "levels" in one.document) for one in initial[:-1]]
            assert sorted(found) == [("first", False), ("first", True), ("second", False)]
            second.increment()
            change = next(told)
            assert (change.document["operation_id"], change.document["current"]) == ("second", 1)
        second.increment()
        third = progress.operation("job", id="third", total=9).start()
        headers = {"last-event-id": change.id}
        with stream(server, f"{query}&operation=second", **headers) as told:
            resumed = until(told, "ready")
        assert "reset" not in {one.kind for one in resumed}
        snapshots = [one.document for one in resumed if one.kind == "snapshot"]
        # The trees of both named operations, and what changed since.
        assert {one["operation_id"] for one in snapshots if "levels" in one} == {"first", "second"}
        changed = {one["operation_id"]: one["current"] for one in snapshots if "levels" not in one}
        assert changed == {"second": 2, "third": 0}
        for operation in (first, second, third):
            operation.complete()


def test_numbers_of_a_merged_stream_ascend(recorder: Recorder) -> None:
    """So a client can resume after any message."""
    operations = [progress.operation("job", id=f"job-{n}", total=9).start() for n in range(120)]
    query = "?all=true&levels=true" + "".join(f"&operation=job-{n}" for n in range(60))
    with serving(recorder) as server, stream(server, query) as told:
        numbers = [int(one.id.rpartition("-")[2]) for one in until(told, "ready")]
        assert numbers == sorted(numbers)
        for operation in operations:
            operation.complete()
        ended: set[str] = set()
        while len(ended) < 120:
            event = next(told)
            numbers.append(int(event.id.rpartition("-")[2]))
            if event.kind == "snapshot" and event.document["status"] == "completed":
                ended.add(event.document["operation_id"])
        assert numbers == sorted(numbers)
