"""One operation over REST: its documents, whatever its id is made of, and what is kept beside it."""

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
from otel_progress.codec import decode_operation
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.operations import OperationSnapshot
from otel_progress.records import CancelRequest
from otel_progress.server.schemas import (
    Batch,
    BatchSummary,
    Category,
    Event,
    Exported,
    Level,
    Levels,
    Log,
    Operation,
    OperationTree,
    Progress,
    Sample,
)
from otel_progress.server.settings import Limits
from otel_progress.testing import Recorder
from tests.support.factories import WALL, batch, ended, instance, snapshot
from tests.support.servers import poll

FRIDAY = "/api/v1/operations/friday-42"
EVIL = f"/api/v1/operations/{quote(EVIL_ID, safe='')}"


def test_the_tree_is_the_operation_as_the_reader_has_it(client: Any, journal: SqliteJournal) -> None:
    """The document decodes to what the journal returns: nothing is lost on the way."""
    assert decode_operation(client.json(FRIDAY)) == journal.get("friday-42")
    assert "levels" not in client.json(f"{FRIDAY}?levels=false")


def test_an_id_of_any_characters_is_found(client: Any) -> None:
    """Slashes, percent signs, escapes and markup in an id are just characters of it, in every path below it too."""
    assert client.json(EVIL)["operation_id"] == EVIL_ID
    assert client.json(f"{EVIL}/progress")["operation_id"] == EVIL_ID
    assert client.json(f"{EVIL}/levels")["levels"][0]["name"] == EVIL_TEXT
    assert client.json("/api/v1/batches/b%2F1")["id"] == "b/1"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    id_=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
        lambda text: text not in {".", ".."}
    )
)
def test_ids_round_trip_through_paths(client: Any, id_: str) -> None:
    """Whatever an id is, percent-encoded it reaches the reader unchanged: the problem names it, or it is found."""
    answer = client.get(f"/api/v1/operations/{quote(id_, safe='')}/progress")
    if answer.status_code == 200:
        assert answer.json()["operation_id"] == id_
    else:
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("There is no operation")


def test_progress_is_small_and_says_the_same(client: Any) -> None:
    """The few figures are those of the whole document."""
    whole, few = client.json(FRIDAY), client.json(f"{FRIDAY}/progress")
    assert few == {name: whole[name] for name in few}
    assert (few["percentage"], few["status"], few["condition"]) == (30.0, "running", "abandoned")


def test_levels_of_a_part_of_the_tree(client: Any) -> None:
    """``path`` chooses where to begin and ``depth`` how far to go down."""

    def paths(**query: Any) -> list[str]:
        return [level["path"] for level in client.json(f"{FRIDAY}/levels", params=query)["levels"]]

    assert paths() == ["", SONG, VERSE]
    assert paths(depth=1) == ["", SONG]
    assert paths(path=SONG, depth=0) == [SONG]
    assert paths(path=SONG) == [SONG, VERSE]
    assert paths(path=VERSE) == [VERSE]
    client.problem(404, f"{FRIDAY}/levels?path=song:0")


def test_events_are_filtered(client: Any) -> None:
    """Items come by outcome, place and time."""
    url = f"{FRIDAY}/events"
    names = [event["name"] for event in client.json(url)["events"]]
    assert names == ["one", EVIL_TEXT]
    assert [event["number"] for event in client.json(f"{url}?outcome=failed")["events"]] == [2]
    assert [event["number"] for event in client.json(f"{url}?limit=1")["events"]] == [2]
    assert [event["number"] for event in client.json(url, params={"since": str(WALL + 2)})["events"]] == [2]
    assert client.json(url, params={"path": VERSE})["events"] == []


def test_logs_are_filtered_and_followed(client: Any) -> None:
    """Log records come by severity (name or number), place, time, and after the last one seen."""
    url = f"{FRIDAY}/logs"

    def numbers(**query: Any) -> list[int]:
        return [record["number"] for record in client.json(url, params=query)["logs"]]

    assert numbers() == [1, 2, 3]
    assert numbers(severity="error") == numbers(severity="40") == [2]
    assert numbers(path=SONG) == [2, 3]
    assert numbers(after=2) == [3]
    assert numbers(since="2023-11-14T22:13:22+00:00") == [2, 3]
    assert "CRITICAL or a number" in client.problem(422, f"{url}?severity=loud")["detail"]


def test_resources_are_listed(client: Any) -> None:
    """Samples of the process come with the operation they belong to."""
    (sample,) = client.json(f"{FRIDAY}/resources")["samples"]
    assert (sample["at"], sample["memory_bytes"]) == (WALL + 30.0, 100_000_000)


@pytest.mark.parametrize(
    "path",
    ["", "/progress", "/levels", "/events", "/logs", "/resources", "/previews", "/previews/1", "/export"],
)
def test_an_unknown_operation_is_a_problem_everywhere(client: Any, path: str) -> None:
    """Below an id that is not there nothing is there."""
    assert "'nobody'" in client.problem(404, f"/api/v1/operations/nobody{path}")["detail"]


def test_export_in_every_format(client: Any) -> None:
    """An export is the same as the command's: one document, lines, or rows that no spreadsheet runs."""
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


def test_the_name_of_an_export_is_harmless(client: Any) -> None:
    """An id cannot break out of the header it names the file in, nor name a path."""
    header = client.get(f"{EVIL}/export").headers["content-disposition"]
    assert header.isascii()
    assert header.isprintable()
    plain, _, true = header.removeprefix('attachment; filename="').partition('"')
    assert set(plain) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not set(true) & set('/\\"\r\n')


def test_an_operation_is_sent_again_only_when_something_happened(client: Any, journal: SqliteJournal) -> None:
    """The ETag holds while nothing changes, is compared weakly, and goes with the levels' being there."""
    tag = client.get(FRIDAY).headers["etag"]
    same = client.get(FRIDAY, headers={"if-none-match": f'"other", {tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert client.get(f"{FRIDAY}?levels=false", headers={"if-none-match": tag}).status_code == 200
    journal.write(batch(snapshot(sequence=7, current=4)))
    assert client.get(FRIDAY, headers={"if-none-match": tag}).status_code == 200


def test_batches(client: Any) -> None:
    """Batches are listed without their operations, and each has them."""
    (summary,) = client.json("/api/v1/batches")["batches"]
    assert (summary["id"], summary["finished"], "active" in summary) == ("b/1", 4, False)
    whole = client.json("/api/v1/batches/b%2F1")
    assert [operation["operation_id"] for operation in whole["failed"]] == ["broken"]
    assert whole["counts"]["completed"] == 3
    client.problem(404, "/api/v1/batches/b")


def test_stages_have_weights_and_starts(client: Any) -> None:
    """Every category is there, its stages in order from 0."""
    found = {one["category"]: one["stages"] for one in client.json("/api/v1/stages")["stages"]}
    assert {"default", "image", "video", "audio"} <= set(found)
    assert found["image"][1] == {"name": "model_loading", "weight": 0.15, "start": 0.05}


def test_metrics_show_operations_and_refusals(client: Any) -> None:
    """The scrape has the operations, and what the server refused; OpenMetrics when asked for."""
    client.problem(421, "/healthz", headers={"host": "evil.example"})
    answer = client.get("/metrics")
    assert 'progress_operation_ratio{operation_id="friday-42",operation_type="setlist"} 0.3' in answer.text
    assert 'progress_server_refused_total{reason="host"} 1.0' in answer.text
    accepted = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert accepted.text.endswith("# EOF\n")


def test_health_and_readiness(client: Any, journal: SqliteJournal) -> None:
    """Readiness fails with what is wrong while the journal cannot be read; health does not depend on it."""
    assert client.json("/healthz") == client.json("/readyz") == {"status": "ok"}
    journal.close()
    for path in journal.path.parent.glob("progress.db*"):
        path.unlink(missing_ok=True)  # the last connection takes the files beside the journal away itself
    journal.path.mkdir()
    assert str(journal.path) in client.problem(503, "/readyz")["detail"]
    client.problem(503, FRIDAY)
    assert client.json("/healthz") == {"status": "ok"}


def test_a_reader_that_takes_too_long_is_a_problem(serve: Callable[..., Any], journal: SqliteJournal) -> None:
    """A journal that hangs costs a bounded number of threads and each client a bounded time, and health goes on."""
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
    client.app.state.services.asking._limits = Limits(
        answer_s=60.0
    )  # how long a good answer takes is a matter of the machine
    release.set()
    poll(lambda: client.get(FRIDAY).status_code == 200)
    hanging.close()


def test_too_many_questions_at_once_are_refused(serve: Callable[..., Any], journal: SqliteJournal) -> None:
    """Beyond the threads and the queue a request is refused at once, and told to come again."""
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


def test_a_defect_is_a_problem_document_and_one_log_line(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks in a reader reaches the client as a problem without its text, and the log once."""

    class Broken(SqliteJournal):
        def get(self, operation_id: str) -> OperationSnapshot | None:
            assert operation_id
            raise ZeroDivisionError("secret")

    monkeypatch.setattr(diagnostics, "internal_error_counts", Counter())
    client = serve(Broken(Path("/nowhere")))
    for _ in range(2):
        document = client.problem(500, FRIDAY)
    assert "secret" not in document["detail"]
    told = [record for record in caplog.records if "a request could not be answered" in record.getMessage()]
    assert [(record.name, record.levelname) for record in told] == [("otel_progress", "WARNING")]
    assert diagnostics.internal_error_counts["server"] == 2


def test_cancelling_reaches_the_worker(client: Any, journal: SqliteJournal) -> None:
    """A request to stop is kept where the worker looks for it, with its reason."""
    answer = client.post(f"{FRIDAY}/cancel", json={"reason": "too loud"})
    assert (answer.status_code, answer.json()["reason"], answer.json()["run"]) == (202, "too loud", "run-1")
    (request,) = journal.cancel_requests("instance-1")
    assert isinstance(request, CancelRequest)
    assert (request.operation_id, request.reason) == ("friday-42", "too loud")
    assert client.json(FRIDAY)["cancel_requested_at"] is not None


def test_cancelling_without_a_body(client: Any) -> None:
    """The reason may be left out."""
    assert client.post(f"{FRIDAY}/cancel").status_code == 202


def test_cancelling_works_on_a_live_store(recorder: Recorder, serve: Callable[..., Any]) -> None:
    """Served from the worker itself, the handle hears of the request at once."""
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
def test_bad_bodies_are_refused_and_change_nothing(
    client: Any, journal: SqliteJournal, content: bytes
) -> None:
    """A body that is not what the document says is refused, and nothing was asked of the worker."""
    headers = {"content-type": "application/json"}
    answer = client.post(f"{FRIDAY}/cancel", content=content, headers=headers)
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert not journal.cancel_requests("instance-1")


def test_what_has_ended_cannot_be_cancelled_nor_what_runs_deleted(
    client: Any, journal: SqliteJournal
) -> None:
    """Both are conflicts that say how it stands."""
    journal.write(batch(at=NOW_WALL, clock=NOW_CLOCK))  # a sign of life
    assert "completed" in client.problem(409, "/api/v1/operations/done-0/cancel", "POST")["detail"]
    assert "has not ended" in client.problem(409, FRIDAY, "DELETE")["detail"]
    client.problem(404, "/api/v1/operations/nobody/cancel", "POST")
    client.problem(404, "/api/v1/operations/nobody", "DELETE")


def test_deleting_forgets_an_ended_operation(client: Any, journal: SqliteJournal) -> None:
    """A deleted operation is gone, and only that one."""
    answer = client.delete("/api/v1/operations/done-1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert journal.get("done-1") is None
    assert journal.get("done-0") is not None
    client.problem(404, "/api/v1/operations/done-1", "DELETE")


def test_what_was_abandoned_is_deleted_once_its_process_is_gone_for_certain(
    client: Any, journal: SqliteJournal
) -> None:
    """While it may only be unheard it is a conflict that says when; the work of others stays."""
    for minutes, id_ in ((9, "silent"), (11, "lost")):
        journal.write(
            batch(
                snapshot(run=id_, operation_id=id_, instance=id_),
                instance=instance(id_),
                at=NOW_WALL - 60.0 * minutes,
            )
        )
    detail = client.problem(409, "/api/v1/operations/silent", "DELETE")["detail"]
    assert "10 minutes after its last sign of life" in detail
    assert client.delete("/api/v1/operations/lost").status_code == 204
    assert journal.get("lost") is None
    assert journal.get("silent") is not None


def test_without_a_controller_nothing_can_be_changed(
    serve: Callable[..., Any], journal: SqliteJournal
) -> None:
    """A server that only reads says so."""
    client = serve(journal)
    client.problem(501, f"{FRIDAY}/cancel", "POST")
    client.problem(501, "/api/v1/operations/done-0", "DELETE")
    assert journal.get("done-0") is not None


def _models(schema: Any, value: Any, path: str = "$") -> Iterator[str]:
    """Yield where a document has other fields than its model."""
    expected = {field.alias or name: field for name, field in schema.model_fields.items()}
    if set(value) != set(expected):
        yield f"{path}: {set(value) ^ set(expected)}"


@pytest.mark.parametrize(
    ("url", "model", "key"),
    [
        (FRIDAY, OperationTree, None),
        (f"{FRIDAY}/progress", Progress, None),
        (f"{FRIDAY}/levels", Levels, None),
        (f"{FRIDAY}/levels", Level, "levels"),
        (f"{FRIDAY}/events", Event, "events"),
        (f"{FRIDAY}/logs", Log, "logs"),
        (f"{FRIDAY}/resources", Sample, "samples"),
        (f"{FRIDAY}/export", Exported, None),
        ("/api/v1/operations", Operation, "operations"),
        ("/api/v1/batches", BatchSummary, "batches"),
        ("/api/v1/batches/b%2F1", Batch, None),
        ("/api/v1/stages", Category, "stages"),
    ],
)
def test_documents_have_exactly_the_fields_of_their_models(
    client: Any, url: str, model: Any, key: str | None
) -> None:
    """The OpenAPI document names every field there is, and none that is not."""
    document = client.json(url)
    if key is None:
        assert list(_models(model, document)) == []
        return
    assert set(document) == {"schema", key, "next"}
    (first, *_) = document[key]
    # An operation's own level among levels has its batch, too.
    assert (
        list(
            _models(
                model,
                {name: value for name, value in first.items() if name != "batch" or key == "operations"},
            )
        )
        == []
    )
    model.model_validate(first)


def test_numbers_that_json_has_not_become_null(client: Any, journal: SqliteJournal) -> None:
    """A worker that wrote infinities breaks no document."""
    journal.write(
        batch(
            ended(operation_id="odd", id="odd", run="run-odd", ratio=float("inf"), stall_after_s=float("inf"))
        )
    )
    assert json.loads(client.get("/api/v1/operations/odd").content)["ratio"] is None


def test_a_journal_error_names_the_file(serve: Callable[..., Any], tmp_path: Any) -> None:
    """A journal that is not there yet is a 503 that says where it was looked for."""
    journal = SqliteJournal(tmp_path / "none.db", read_only=True)
    with pytest.raises(JournalError):
        journal.check()
    assert "none.db" in serve(journal).problem(503, "/api/v1/operations")["detail"]
