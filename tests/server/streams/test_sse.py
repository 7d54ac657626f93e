"""Server-sent events over a real server: the full set, what changes, resuming, and what is refused."""

from __future__ import annotations

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
from tests.support.api_server import PATIENCE_S, Told, get, serving, serving_nothing, stream, until
from tests.support.factories import batch, ended
from tests.support.server_threads import threads_end
from tests.support.servers import poll


def test_the_full_set_then_ready_then_changes(recorder: Recorder) -> None:
    """A client has everything active, is told so, and then each change with its place in the sequence."""
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
        poll(lambda: not server.hub.followers)


def test_resuming_over_the_wire(recorder: Recorder) -> None:
    """With its last id a client gets what it missed and nothing else; with a foreign one a reset and the full set."""
    with (
        progress.operation("survey", id="one", total=10) as one,
        progress.operation("survey", id="two"),
        serving(recorder) as server,
    ):
        with stream(server) as told:
            last = until(told, "ready")[-1].id
        one.increment()
        poll(lambda: server.hub.head > int(last.partition("-")[2]))  # until it is there to be missed
        with stream(server, **{"Last-Event-ID": last}) as told:
            missed = until(told, "ready")
        assert [event.document.get("operation_id") for event in missed] == ["one", None]
        with stream(server, **{"Last-Event-ID": "0123-7"}) as told:
            again = until(told, "ready")
        assert [event.kind for event in again] == ["reset", "snapshot", "snapshot", "ready"]


def test_by_id_with_levels_and_items(recorder: Recorder) -> None:
    """Who names an operation can have its levels, and is told of its items."""
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
            found: dict[str, Told] = {}
            while len(found) < 2:
                event = next(told)
                if event.kind == "item" or event.document.get("levels"):
                    found[event.kind] = event
        assert found["item"].document["name"] == "a.py"
        assert found["snapshot"].document["operation_id"] == "one"
        assert [level["path"] for level in found["snapshot"].document["levels"]] == ["folder:src"]


def test_by_type(recorder: Recorder) -> None:
    """A type filters, also operations that begin later."""
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
    """A server with small limits, the same for all tests."""
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
        ("?batch=a&batch=b", 422),
        ("?operation=a&operation=b&operation=c", 422),
        ("?type=%ff", 400),
        ("?operation=a&operation=b&levels=true", 503),
    ],
)
def test_what_cannot_be_followed_is_refused(small: Server, query: str, status: int) -> None:
    """A wrong query gets a problem document that says what was expected, and no stream."""
    answer = get(f"{small.url}api/v1/stream{query}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 20
    assert not small.hub.followers


def test_heartbeats_and_retry(recorder: Recorder) -> None:
    """A browser is told to come back soon, and a silent stream shows that it lives."""
    with (
        serving(recorder, streams=StreamLimits(heartbeat_s=0.05)) as server,
        httpx.stream(
            "GET", f"{server.url}api/v1/stream", timeout=PATIENCE_S, trust_env=False, verify=False
        ) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "retry: 1000"
        assert any(line == ": heartbeat" for line in lines)


def test_too_many_clients_are_refused(recorder: Recorder) -> None:
    """One more than the limit is told to come back later, and counted; those who are there stay."""
    with serving(recorder, streams=StreamLimits(clients=1)) as server, stream(server) as told:
        until(told, "ready")
        answer = get(f"{server.url}api/v1/stream")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert {("clients",): 1} in server.counts.read().values()


def test_the_token_is_asked_for(recorder: Recorder) -> None:
    """Without it nothing is told; in the header or the query it opens the stream."""
    with serving(recorder, token="correct-horse-battery") as server:
        assert get(f"{server.url}api/v1/stream").status_code == 401
        with stream(server, "?access_token=correct-horse-battery") as told:
            until(told, "ready")
        with stream(server, Authorization="Bearer correct-horse-battery") as told:
            until(told, "ready")


def test_what_is_deleted_is_told_at_once(tmp_path: Path) -> None:
    """DELETE is followed by `gone`, also for who asked by its id for what ended before the server began; never again is it shown."""
    journal = SqliteJournal(tmp_path / "progress.db")
    root = ended(operation_id="old", id="old", run="run-old")
    journal.write(batch(root))
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


def test_a_plain_request_to_the_socket_is_told_what_it_is(small: Server) -> None:
    """Without an upgrade the WebSocket's path answers 426, and with what to use."""
    answer = get(f"{small.url}api/v1/ws")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert "/api/v1/stream" in answer.json()["detail"]
