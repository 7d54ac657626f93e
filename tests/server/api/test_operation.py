"""One operation over REST: documents, ids, records and control."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.sample_operations import EVIL_ID, EVIL_TEXT, NOW_CLOCK, NOW_WALL, SONG, VERSE

pytest.importorskip("fastapi", reason="the extra 'server' is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_progress import diagnostics
from otel_progress.codec import (
    BatchDocument,
    BatchSummaryDocument,
    EventDocument,
    LogDocument,
    OperationDocument,
    OperationTreeDocument,
    SampleDocument,
    TreeLevelDocument,
    decode_operation,
)
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.operations import OperationSnapshot
from otel_progress.records import CancelRequest
from otel_progress.server.schemas import (
    CategoryDocument,
    ExportedDocument,
    LevelsDocument,
    ProgressDocument,
    build_model,
)
from otel_progress.server.settings import Limits
from otel_progress.testing import Recorder
from tests.support.examples import scale_examples
from tests.support.factories import WALL, ended, instance, make_change_set, snapshot
from tests.support.servers import poll

FRIDAY = "/api/v1/operations/friday-42"
EVIL = f"/api/v1/operations/{quote(EVIL_ID, safe='')}"


def test_operation_document_decodes_to_the_record_of_the_reader(client: Any, journal: SqliteJournal) -> None:
    """No field is lost."""
    assert decode_operation(client.json(FRIDAY)) == journal.get("friday-42")
    assert "levels" not in client.json(f"{FRIDAY}?levels=false")


def test_operation_id_with_any_characters_is_found(client: Any) -> None:
    """Slashes, percent signs and markup are normal characters."""
    assert client.json(EVIL)["operation_id"] == EVIL_ID
    assert client.json(f"{EVIL}/progress")["operation_id"] == EVIL_ID
    assert client.json(f"{EVIL}/levels")["levels"][0]["name"] == EVIL_TEXT
    assert client.json("/api/v1/batches/b%2F1")["id"] == "b/1"


@settings(
    max_examples=scale_examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    id_=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
        lambda text: text not in {".", ".."}
    )
)
def test_operation_id_round_trips_through_paths(client: Any, id_: str) -> None:
    """The percent-encoded id reaches the reader unchanged."""
    answer = client.get(f"/api/v1/operations/{quote(id_, safe='')}/progress")
    if answer.status_code == 200:
        assert answer.json()["operation_id"] == id_
    else:
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("Unknown operation")


def test_progress_equals_the_fields_of_the_operation(client: Any) -> None:
    """The document is small."""
    whole, few = client.json(FRIDAY), client.json(f"{FRIDAY}/progress")
    assert few == {name: whole[name] for name in few}
    assert (few["percentage"], few["status"], few["condition"]) == (30.0, "running", "abandoned")


def test_levels_are_selected_by_path_and_depth(client: Any) -> None:
    """``path`` is the top level, ``depth`` the number of levels below it."""

    def paths(**query: Any) -> list[str]:
        return [level["path"] for level in client.json(f"{FRIDAY}/levels", params=query)["levels"]]

    assert paths() == ["", SONG, VERSE]
    assert paths(depth=1) == ["", SONG]
    assert paths(path=SONG, depth=0) == [SONG]
    assert paths(path=SONG) == [SONG, VERSE]
    assert paths(path=VERSE) == [VERSE]
    client.problem(404, f"{FRIDAY}/levels?path=song:0")


def test_events_are_filtered_by_outcome_path_and_time(client: Any) -> None:
    """Only items are listed."""
    url = f"{FRIDAY}/events"
    names = [event["name"] for event in client.json(url)["events"]]
    assert names == ["one", EVIL_TEXT]
    assert [event["number"] for event in client.json(f"{url}?outcome=failed")["events"]] == [2]
    assert [event["number"] for event in client.json(f"{url}?limit=1")["events"]] == [2]
    assert [event["number"] for event in client.json(url, params={"since": str(WALL + 2)})["events"]] == [2]
    assert client.json(url, params={"path": VERSE})["events"] == []


def test_logs_are_filtered_and_continued_after_a_number(client: Any) -> None:
    """The severity is a name or a number."""
    url = f"{FRIDAY}/logs"

    def numbers(**query: Any) -> list[int]:
        return [record["number"] for record in client.json(url, params=query)["logs"]]

    assert numbers() == [1, 2, 3]
    assert numbers(severity="error") == numbers(severity="40") == [2]
    assert numbers(path=SONG) == [2, 3]
    assert numbers(after=2) == [3]
    assert numbers(since="2023-11-14T22:13:22+00:00") == [2, 3]
    assert "CRITICAL or a number" in client.problem(422, f"{url}?severity=loud")["detail"]


def test_resources_of_an_operation_are_listed(client: Any) -> None:
    """Samples belong to the process of the operation."""
    (sample,) = client.json(f"{FRIDAY}/resources")["samples"]
    assert (sample["at"], sample["memory_bytes"]) == (WALL + 30.0, 100_000_000)


@pytest.mark.parametrize(
    "path",
    ["", "/progress", "/levels", "/events", "/logs", "/resources", "/previews", "/previews/1", "/export"],
)
def test_unknown_operation_is_a_problem_on_every_path(client: Any, path: str) -> None:
    """The status is 404."""
    assert "'nobody'" in client.problem(404, f"/api/v1/operations/nobody{path}")["detail"]


def test_export_equals_the_export_of_the_command(client: Any) -> None:
    """No spreadsheet executes a cell."""
    whole = json.loads(client.get(f"{FRIDAY}/export").content)
    assert [len(whole["levels"]), len(whole["events"])] == [2, 2]
    lines = client.get(f"{FRIDAY}/export?format=jsonl")
    assert lines.headers["content-type"] == "application/jsonl"
    assert [json.loads(line)["record"] for line in lines.text.splitlines()] == [
        "operation",
        "level",
        "level",
        "event",
        "event",
    ]
    table = client.get(f"{EVIL}/export?format=csv")
    (row,) = csv.DictReader(io.StringIO(table.text))
    assert not set(table.text) & set("\x1b\x07\x00")
    assert row["status"] == "running"
    assert "=" not in row["operation_id"][:1]


def test_export_file_name_is_escaped(client: Any) -> None:
    """An id cannot leave the header, or name a path."""
    header = client.get(f"{EVIL}/export").headers["content-disposition"]
    assert header.isascii()
    assert header.isprintable()
    plain, _, true = header.removeprefix('attachment; filename="').partition('"')
    assert set(plain) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not set(true) & set('/\\"\r\n')


def test_operation_without_a_change_is_not_sent_again(client: Any, journal: SqliteJournal) -> None:
    """The ETag is compared weakly, and depends on the levels."""
    tag = client.get(FRIDAY).headers["etag"]
    same = client.get(FRIDAY, headers={"if-none-match": f'"other", {tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert client.get(f"{FRIDAY}?levels=false", headers={"if-none-match": tag}).status_code == 200
    journal.write(make_change_set(snapshot(sequence=7, current=4)))
    assert client.get(FRIDAY, headers={"if-none-match": tag}).status_code == 200


def test_batch_list_has_no_operations(client: Any) -> None:
    """A single batch has them."""
    (summary,) = client.json("/api/v1/batches")["batches"]
    assert (summary["id"], summary["finished"], "active" in summary) == ("b/1", 4, False)
    whole = client.json("/api/v1/batches/b%2F1")
    assert [operation["operation_id"] for operation in whole["failed"]] == ["broken"]
    assert whole["counts"]["completed"] == 3
    client.problem(404, "/api/v1/batches/b")


def test_stages_have_weights_and_starts(client: Any) -> None:
    """The first stage of a category starts at 0."""
    found = {one["category"]: one["stages"] for one in client.json("/api/v1/stages")["stages"]}
    assert {"default", "image", "video", "audio"} <= set(found)
    assert found["image"][1] == {"name": "model_loading", "weight": 0.15, "start": 0.05}


def test_metrics_have_operations_and_refusals(client: Any) -> None:
    """Accept selects OpenMetrics."""
    client.problem(421, "/healthz", headers={"host": "evil.example"})
    answer = client.get("/metrics")
    assert 'progress_operation_ratio{operation_id="friday-42",operation_type="setlist"} 0.3' in answer.text
    assert 'progress_server_refused_total{reason="host"} 1.0' in answer.text
    accepted = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert accepted.text.endswith("# EOF\n")


def test_readiness_fails_without_a_journal(client: Any, journal: SqliteJournal) -> None:
    """Health does not depend on the journal."""
    assert client.json("/healthz") == client.json("/readyz") == {"status": "ok"}
    journal.close()
    for path in journal.path.parent.glob("progress.db*"):
        # The last connection removes the additional files of the journal itself.
        path.unlink(missing_ok=True)
    journal.path.mkdir()
    assert str(journal.path) in client.problem(503, "/readyz")["detail"]
    client.problem(503, FRIDAY)
    assert client.json("/healthz") == {"status": "ok"}


def test_slow_reader_is_a_problem_and_health_still_answers(
    serve: Callable[..., Any], journal: SqliteJournal
) -> None:
    """It occupies a bounded number of threads."""
    import threading

    release = threading.Event()

    class Hanging(SqliteJournal):
        def get(self, operation_id: str) -> OperationSnapshot | None:
            release.wait(60)
            return super().get(operation_id)

    hanging = Hanging(journal.path)
    client = serve(hanging, limits=Limits(answer_s=0.05, readers=1, waiting=1))
    assert "did not answer within" in client.problem(503, FRIDAY)["detail"]
    client.problem(503, FRIDAY)
    assert client.json("/healthz") == {"status": "ok"}
    # A busy machine may need longer for a correct answer.
    client.app.state.services.reader_pool._limits = Limits(answer_s=60.0)
    release.set()
    poll(lambda: client.get(FRIDAY).status_code == 200)
    hanging.close()


def test_request_beyond_the_queue_is_refused(serve: Callable[..., Any], journal: SqliteJournal) -> None:
    """The response says when to retry."""
    import asyncio
    import threading

    import httpx

    release = threading.Event()

    class Hanging(SqliteJournal):
        def get(self, operation_id: str) -> OperationSnapshot | None:
            release.wait(60)
            return super().get(operation_id)

    hanging = Hanging(journal.path)
    app = serve(hanging, limits=Limits(answer_s=60.0, readers=1, waiting=1)).app

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://localhost"
        ) as client:
            waiting = [asyncio.create_task(client.get(FRIDAY)) for _ in range(5)]
            done: set[Any] = set()
            while len(done) < 3:
                done, _ = await asyncio.wait(waiting, timeout=0.01)
            release.set()
            return [await one for one in waiting]

    answers = asyncio.run(flood())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"1"}
    hanging.close()


def test_unexpected_exception_is_a_problem_and_one_log_line(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The problem does not contain its text."""

    class Broken(SqliteJournal):
        def get(self, operation_id: str) -> OperationSnapshot | None:
            assert operation_id
            raise ZeroDivisionError("secret")

    monkeypatch.setattr(diagnostics, "internal_error_counts", Counter())
    client = serve(Broken(Path("/nowhere")))
    for _ in range(2):
        document = client.problem(500, FRIDAY)
    assert "secret" not in document["detail"]
    logged = [record for record in caplog.records if "A request could not be answered" in record.getMessage()]
    assert [(record.name, record.levelname) for record in logged] == [("otel_progress", "WARNING")]
    assert diagnostics.internal_error_counts["server"] == 2


def test_cancel_request_is_stored_with_its_reason(client: Any, journal: SqliteJournal) -> None:
    """The process reads it from the journal."""
    answer = client.post(f"{FRIDAY}/cancel", json={"reason": "too loud"})
    assert (answer.status_code, answer.json()["reason"], answer.json()["run"]) == (202, "too loud", "run-1")
    (request,) = journal.cancel_requests("instance-1")
    assert isinstance(request, CancelRequest)
    assert (request.operation_id, request.reason) == ("friday-42", "too loud")
    assert client.json(FRIDAY)["cancel_requested_at"] is not None


def test_cancel_without_a_body_is_accepted(client: Any) -> None:
    """The reason is optional."""
    assert client.post(f"{FRIDAY}/cancel").status_code == 202


def test_cancel_on_a_live_store_reaches_the_handle(recorder: Recorder, serve: Callable[..., Any]) -> None:
    """The server runs in the instrumented process."""
    import otel_progress as progress

    store = recorder.runtime._store
    client = serve(store.reader, controller=store)
    with progress.operation("survey", id="a/b") as operation:
        assert client.post("/api/v1/operations/a%2Fb/cancel", json={"reason": "enough"}).status_code == 202
        assert operation.cancel_requested
    client.problem(409, "/api/v1/operations/a%2Fb/cancel", "POST")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 50_000,
        b"[]",
        b'{"reason": 5}',
        b'{"reason": "\\ud800"}',
        b'{"reason": "x", "\\ud800\\u001b": 1}',
        b'{"reason": "' + b"x" * 1025 + b'"}',
        b'{"because": "x"}',
        b'{"reason": ' + b"9" * 5000 + b"}",
    ],
)
def test_invalid_body_is_refused(client: Any, journal: SqliteJournal, content: bytes) -> None:
    """No request is stored."""
    headers = {"content-type": "application/json"}
    answer = client.post(f"{FRIDAY}/cancel", content=content, headers=headers)
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert not journal.cancel_requests("instance-1")


def test_cancel_of_an_ended_and_delete_of_a_running_operation_conflict(
    client: Any, journal: SqliteJournal
) -> None:
    """The problem contains the status."""
    # A heartbeat.
    journal.write(make_change_set(at=NOW_WALL, clock=NOW_CLOCK))
    assert "completed" in client.problem(409, "/api/v1/operations/done-0/cancel", "POST")["detail"]
    assert "is still running" in client.problem(409, FRIDAY, "DELETE")["detail"]
    client.problem(404, "/api/v1/operations/nobody/cancel", "POST")
    client.problem(404, "/api/v1/operations/nobody", "DELETE")


def test_delete_removes_an_ended_operation(client: Any, journal: SqliteJournal) -> None:
    """Other operations stay."""
    answer = client.delete("/api/v1/operations/done-1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert journal.get("done-1") is None
    assert journal.get("done-0") is not None
    client.problem(404, "/api/v1/operations/done-1", "DELETE")


def test_abandoned_operation_is_deleted_after_the_timeout(client: Any, journal: SqliteJournal) -> None:
    """Before that the problem says when it can be deleted."""
    for minutes, id_ in ((9, "silent"), (11, "lost")):
        journal.write(
            make_change_set(
                snapshot(run=id_, operation_id=id_, instance=id_),
                instance=instance(id_),
                at=NOW_WALL - 60.0 * minutes,
            )
        )
    detail = client.problem(409, "/api/v1/operations/silent", "DELETE")["detail"]
    assert "10 minutes after the last heartbeat" in detail
    assert client.delete("/api/v1/operations/lost").status_code == 204
    assert journal.get("lost") is None
    assert journal.get("silent") is not None


def test_abandoned_operation_is_marked_as_failed(client: Any, journal: SqliteJournal) -> None:
    """Running and ended operations conflict."""
    for minutes, id_ in ((9, "silent"), (11, "lost")):
        journal.write(
            make_change_set(
                snapshot(run=id_, operation_id=id_, instance=id_),
                instance=instance(id_),
                at=NOW_WALL - 60.0 * minutes,
            )
        )
    journal.write(make_change_set(at=NOW_WALL, clock=NOW_CLOCK))
    detail = client.problem(409, "/api/v1/operations/silent/fail", "POST")["detail"]
    assert "10 minutes after the last heartbeat" in detail
    answer = client.post("/api/v1/operations/lost/fail", json={"reason": "out of memory"})
    assert (answer.status_code, answer.json()["run"], answer.json()["reason"]) == (
        200,
        "lost",
        "out of memory",
    )
    document = client.json("/api/v1/operations/lost")
    assert (document["status"], document["error"]["message"]) == ("failed", "out of memory")
    assert "has already ended" in client.problem(409, "/api/v1/operations/lost/fail", "POST")["detail"]
    assert "is running" in client.problem(409, f"{FRIDAY}/fail", "POST")["detail"]
    client.problem(404, "/api/v1/operations/nobody/fail", "POST")


def test_change_without_a_controller_is_refused(serve: Callable[..., Any], journal: SqliteJournal) -> None:
    """The server is read-only."""
    client = serve(journal)
    client.problem(501, f"{FRIDAY}/cancel", "POST")
    client.problem(501, f"{FRIDAY}/fail", "POST")
    client.problem(501, "/api/v1/operations/done-0", "DELETE")
    assert journal.get("done-0") is not None


def _models(model: Any, value: Any, path: str = "$") -> Iterator[str]:
    """Yield where a document has other fields than its model."""
    expected = {field.alias or name: field for name, field in model.model_fields.items()}
    if set(value) != set(expected):
        yield f"{path}: {set(value) ^ set(expected)}"


@pytest.mark.parametrize(
    ("url", "document_type", "key"),
    [
        (FRIDAY, OperationTreeDocument, None),
        (f"{FRIDAY}/progress", ProgressDocument, None),
        (f"{FRIDAY}/levels", LevelsDocument, None),
        (f"{FRIDAY}/levels", TreeLevelDocument, "levels"),
        (f"{FRIDAY}/events", EventDocument, "events"),
        (f"{FRIDAY}/logs", LogDocument, "logs"),
        (f"{FRIDAY}/resources", SampleDocument, "samples"),
        (f"{FRIDAY}/export", ExportedDocument, None),
        ("/api/v1/operations", OperationDocument, "operations"),
        ("/api/v1/batches", BatchSummaryDocument, "batches"),
        ("/api/v1/batches/b%2F1", BatchDocument, None),
        ("/api/v1/stages", CategoryDocument, "stages"),
    ],
)
def test_document_has_exactly_the_fields_of_its_model(
    client: Any, url: str, document_type: Any, key: str | None
) -> None:
    """The OpenAPI document is complete."""
    document, model = client.json(url), build_model(document_type)
    if key is None:
        assert list(_models(model, document)) == []
        return
    assert set(document) == {"schema", key, "next"}
    (first, *_) = document[key]
    # The level of the operation itself has its batch and its parent, too.
    assert (
        list(
            _models(
                model,
                {
                    name: value
                    for name, value in first.items()
                    if name not in {"batch", "parent"} or key == "operations"
                },
            )
        )
        == []
    )
    model.model_validate(first)


def test_infinity_becomes_null(client: Any, journal: SqliteJournal) -> None:
    """Another process may have written it."""
    journal.write(
        make_change_set(
            ended(operation_id="odd", id="odd", run="run-odd", ratio=float("inf"), stall_after_s=float("inf"))
        )
    )
    assert json.loads(client.get("/api/v1/operations/odd").content)["ratio"] is None


def test_missing_journal_is_a_problem_with_its_path(serve: Callable[..., Any], tmp_path: Any) -> None:
    """The status is 503."""
    journal = SqliteJournal(tmp_path / "none.db", read_only=True)
    with pytest.raises(JournalError):
        journal.check()
    assert "none.db" in serve(journal).problem(503, "/api/v1/operations")["detail"]
