"""Ended spans that arrive before the spans above them."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_progress import semconv
from otel_progress.errors import JournalError
from otel_progress.journal import SqliteJournal
from otel_progress.model import LevelSnapshot, Status
from otel_progress.otlp.event_codec import build_level_event
from otel_progress.otlp.sdk_compat import LogEvent
from otel_progress.protocols import ChangeSet
from otel_progress.receivers import json_encoding, protobuf
from otel_progress.receivers.receiver import Receiver, ReceiverLimits
from otel_progress.receivers.reports import MAX_DEPTH
from otel_progress.receivers.waiting_spans import MAX_WAITING_S, SpanAbove, WaitingSpans
from otel_progress.records import LogRecord
from tests.support.fake_time import FakeTime
from tests.support.otlp_records import SPAN, TRACE, WALL, level, make_span
from tests.support.otlp_requests import build_protobuf_request, build_span_request

LOCAL, REMOTE = 0x100, 0x300
ROOT, MIDDLE, LEAF = "1" * 16, "2" * 16, "3" * 16
FLUSH_S = 60.0


@dataclass
class StoredLevels:
    """Sink that keeps the newest snapshot of each level by run and path."""

    levels: dict[tuple[str, str], LevelSnapshot] = field(default_factory=dict)
    logs: list[LogRecord] = field(default_factory=list)

    def write(self, change_set: ChangeSet) -> None:
        """Store a change set."""
        for found in change_set.snapshots:
            self.levels[found.info.run, found.path] = found
        self.logs += change_set.logs

    def close(self) -> None:
        """Do nothing."""

    def describe(self) -> dict[str, dict[str, object]]:
        """Return the levels by path of all operations by id."""
        found: dict[str, dict[str, object]] = {}
        for (_, path), stored in self.levels.items():
            values = (
                stored.info.name,
                stored.status,
                stored.current,
                stored.info.started_at,
                stored.ended_at,
            )
            found.setdefault(stored.info.operation_id, {})[path] = values
        return found

    def list_paths(self) -> dict[str, set[str]]:
        """Return the paths of all operations by id."""
        return {id_: set(paths) for id_, paths in self.describe().items()}


@pytest.fixture
def fake_time() -> FakeTime:
    """Clock of the receiver."""
    return FakeTime(WALL + 60.0)


@pytest.fixture
def stored() -> StoredLevels:
    """Sink of the receiver."""
    return StoredLevels()


@pytest.fixture
def receiver(stored: StoredLevels, fake_time: FakeTime) -> Receiver:
    """A receiver that writes to the sink."""
    return Receiver(stored, wall=fake_time.read_now)


def make_ended(
    span_id: str, parent: str | None = None, *, progress: bool = True, flags: int = LOCAL, **fields: Any
) -> dict[str, Any]:
    """Return an ended span whose name is the first digit of its id."""
    attributes = {semconv.CURRENT: 3, semconv.TOTAL: 3} if progress else {}
    parents = {} if parent is None else {"parentSpanId": parent}
    fields = {"start": 1.0, "end": 4.0, "attributes": attributes, "flags": flags, **parents, **fields}
    return make_span(span_id[0], span_id, **fields)


def send(receiver: Receiver, *spans: dict[str, Any], **options: Any) -> int:
    """Send spans in one request. Return the number of rejected ones."""
    return receiver.receive_spans(build_span_request(*spans, **options), "json").rejected


def heartbeat(receiver: Receiver) -> None:
    """Send a request of another sender, without spans that have progress."""
    send(receiver, make_ended("f" * 16, progress=False), resource={"service.instance.id": "other"})


@st.composite
def trees(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return the ended spans of one trace of a process, parents first."""
    ids = [f"{number:016x}" for number in range(1, draw(st.integers(1, 12)) + 1)]
    flags, parent = draw(st.sampled_from(((LOCAL, None), (REMOTE, "e" * 16))))
    spans = []
    for number, id_ in enumerate(ids):
        if number:
            flags, parent = LOCAL, ids[draw(st.integers(0, number - 1))]
        start = draw(st.integers(0, 2)) * 0.5
        spans.append(make_ended(id_, parent, flags=flags, progress=draw(st.booleans()), start=start))
    return spans


def receive_all(batches: Sequence[Sequence[dict[str, Any]]]) -> dict[str, dict[str, object]]:
    """Return what a new receiver stores for requests of spans."""
    stored = StoredLevels()
    receiver = Receiver(stored, wall=lambda: WALL + 60.0)
    assert sum(send(receiver, *batch) for batch in batches) == 0
    before = stored.describe()
    receiver.close()
    assert stored.describe() == before  # no span waits for a parent that has arrived
    return before


@given(trees(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_of_arrival_does_not_matter(
    spans: list[dict[str, Any]], rng: random.Random, batch_size: int
) -> None:
    """Spans in any order are the same tree as parents first.

    They are repeated, and split into requests of any size.
    """
    expected = receive_all([[span] for span in spans])
    shuffled = [*spans, *rng.choices(spans, k=len(spans) // 2)]
    rng.shuffle(shuffled)
    batches = [shuffled[at : at + batch_size] for at in range(0, len(shuffled), batch_size)]
    assert receive_all(batches) == expected
    with_progress = {span["spanId"] for span in spans if span["attributes"]}
    assert sum(map(len, expected.values())) == len(with_progress)
    if spans[0]["attributes"]:
        assert set(expected) == {spans[0]["spanId"]}


def test_child_is_a_level_when_its_parent_has_arrived(receiver: Receiver, stored: StoredLevels) -> None:
    """The span between them has no progress. The response accepts the child."""
    receipt = receiver.receive_spans(build_span_request(make_ended(LEAF, MIDDLE)), "json")
    assert (receipt.accepted, receipt.rejected) == (1, 0)
    send(receiver, make_ended(MIDDLE, ROOT, progress=False))
    assert not stored.levels
    send(receiver, make_ended(ROOT))
    assert stored.list_paths() == {ROOT: {"", f"3:{LEAF}"}}


def test_spans_below_a_root_without_progress_are_operations(receiver: Receiver, stored: StoredLevels) -> None:
    """The topmost ones. Those below them are their levels."""
    send(receiver, make_ended(LEAF, MIDDLE))
    send(receiver, make_ended(MIDDLE, ROOT))
    assert not stored.levels
    send(receiver, make_ended(ROOT, progress=False))
    assert stored.list_paths() == {MIDDLE: {"", f"3:{LEAF}"}}


@pytest.mark.parametrize("flags", [None, 0, 1, REMOTE, "many"], ids=str)
def test_span_without_a_local_parent_does_not_wait(
    receiver: Receiver, stored: StoredLevels, flags: object
) -> None:
    """Its parent is in another process, or an older exporter does not state it."""
    send(receiver, {**make_ended(LEAF, ROOT), "flags": flags})
    assert stored.list_paths() == {LEAF: {""}}


def test_decoders_read_the_same_flags() -> None:
    """A text in JSON is accepted, like other integers."""
    for flags, parent, expected in (
        (LOCAL, ROOT, True),
        (LOCAL | 1, ROOT, True),
        (REMOTE, ROOT, False),
        (1, ROOT, False),
        (LOCAL, None, False),
    ):
        request = ExportTraceServiceRequest()
        span = request.resource_spans.add().scope_spans.add().spans.add()
        span.trace_id, span.span_id = bytes.fromhex(TRACE), bytes.fromhex(LEAF)
        span.parent_span_id, span.flags = bytes.fromhex(parent or ""), flags
        (decoded,) = protobuf.decode_spans(request.SerializeToString(), WALL).records
        assert decoded.has_local_parent is expected
        for value in (flags, str(flags)):
            body = build_span_request({**make_ended(LEAF, parent), "flags": value})
            (decoded,) = json_encoding.decode_spans(body, WALL).records
            assert decoded.has_local_parent is expected


def test_waiting_span_becomes_an_operation_after_ten_minutes(
    receiver: Receiver, stored: StoredLevels, fake_time: FakeTime
) -> None:
    """With the next request of any sender. Spans that waited for it are its levels."""
    send(receiver, make_ended(LEAF, MIDDLE))
    fake_time.pass_(MAX_WAITING_S / 2)
    send(receiver, make_ended(MIDDLE, ROOT))
    fake_time.pass_(MAX_WAITING_S / 2 - 1.0)
    heartbeat(receiver)
    assert not stored.levels
    fake_time.pass_(1.0)
    heartbeat(receiver)
    assert stored.list_paths() == {MIDDLE: {"", f"3:{LEAF}"}}
    send(receiver, make_ended(ROOT), make_ended(MIDDLE, ROOT))
    assert stored.list_paths() == {MIDDLE: {"", f"3:{LEAF}"}, ROOT: {""}}


def test_repeated_span_does_not_wait_longer(
    receiver: Receiver, stored: StoredLevels, fake_time: FakeTime
) -> None:
    """Exporters repeat a request until it is confirmed."""
    for _ in range(2):
        send(receiver, make_ended(LEAF, ROOT))
        fake_time.pass_(MAX_WAITING_S / 2)
    heartbeat(receiver)
    assert stored.list_paths() == {LEAF: {""}}


@pytest.mark.parametrize("limit", ["spans_per_sender", "waiting_spans"])
def test_oldest_waiting_spans_beyond_a_limit_are_operations(
    stored: StoredLevels, fake_time: FakeTime, limit: str
) -> None:
    """None is rejected."""
    limits = ReceiverLimits(**{limit: 2})
    receiver = Receiver(stored, wall=fake_time.read_now, limits=limits)
    ids = [f"{number}{'a' * 15}" for number in range(1, 5)]
    for id_ in ids:
        assert send(receiver, make_ended(id_, "e" * 16)) == 0
    assert set(stored.list_paths()) == set(ids[:2])
    send(receiver, make_ended("e" * 16))
    assert set(stored.list_paths()) == {*ids[:2], "e" * 16}


def test_close_stores_all_waiting_spans(receiver: Receiver, stored: StoredLevels) -> None:
    """As operations, because their parents may never arrive."""
    send(receiver, make_ended(LEAF, MIDDLE), make_ended(MIDDLE, ROOT), make_ended("4" * 16, "5" * 16))
    assert not stored.levels
    receiver.close()
    assert stored.list_paths() == {MIDDLE: {"", f"3:{LEAF}"}, "4" * 16: {""}}
    receiver.close()
    assert len(stored.levels) == 3


def test_running_span_releases_the_spans_below_it(receiver: Receiver, stored: StoredLevels) -> None:
    """It is shown at once, also without a parent."""
    send(receiver, make_ended(LEAF, MIDDLE))
    send(receiver, make_span("2", MIDDLE, 1.0, parentSpanId=ROOT, flags=LOCAL))
    assert stored.list_paths() == {MIDDLE: {"", f"3:{LEAF}"}}
    assert {found.status for found in stored.levels.values()} == {Status.RUNNING, Status.COMPLETED}


def test_late_start_of_a_waiting_span_shows_it_as_ended(receiver: Receiver, stored: StoredLevels) -> None:
    """The requests of a live exporter can arrive in any order."""
    send(receiver, make_ended(LEAF, ROOT))
    send(receiver, make_span("3", LEAF, 1.0, parentSpanId=ROOT, flags=LOCAL))
    (found,) = stored.levels.values()
    assert (found.path, found.status, found.current) == ("", Status.COMPLETED, 3)


def test_span_below_the_span_of_an_event_is_an_operation(receiver: Receiver, stored: StoredLevels) -> None:
    """Events describe the level of the span above. Its end releases the span."""
    send(receiver, make_ended(LEAF, SPAN))
    event = build_level_event(semconv.EVENT_STARTED, level(operation_id="clip-7", run="r1"), WALL)
    attributes = {key: value for key, value in event.attributes.items() if key != semconv.RUN}
    named = LogEvent(event.name, "", WALL, TRACE, SPAN, attributes)
    receiver.receive_logs(build_protobuf_request([named]), "protobuf")
    own = {semconv.OPERATION_ID: "clip-7", semconv.PATH: "", semconv.SEQUENCE: 9, semconv.STATUS: "completed"}
    send(receiver, make_span("encode", SPAN, end=5.0, attributes=own))
    assert stored.list_paths() == {"clip-7": {""}, LEAF: {""}}
    assert all(found.status.finished for found in stored.levels.values())


def test_log_record_of_a_waiting_span_is_added_with_it(receiver: Receiver, stored: StoredLevels) -> None:
    """Its level is known when the parent has arrived."""
    send(receiver, make_ended(LEAF, ROOT))
    receiver.receive_logs(
        build_protobuf_request([LogEvent(None, "halfway", WALL + 2.0, TRACE, LEAF, {})]), "protobuf"
    )
    assert not stored.logs
    send(receiver, make_ended(ROOT))
    assert [(log.operation_id, log.path, log.message) for log in stored.logs] == [
        (ROOT, f"3:{LEAF}", "halfway")
    ]


def test_invalid_span_is_rejected_at_once_and_passed_over(receiver: Receiver, stored: StoredLevels) -> None:
    """Spans below it are levels of the span above it."""
    invalid = {**make_ended(MIDDLE, ROOT), "attributes": {semconv.CURRENT: "many"}}
    assert send(receiver, make_ended(LEAF, MIDDLE)) == 0
    assert send(receiver, invalid) == 1
    assert send(receiver, make_ended(ROOT)) == 0
    assert stored.list_paths() == {ROOT: {"", f"3:{LEAF}"}}


@pytest.mark.parametrize("is_parent_first", [True, False])
def test_spans_beyond_the_maximum_depth_are_next_to_their_parents(
    receiver: Receiver, stored: StoredLevels, is_parent_first: bool
) -> None:
    """None is rejected, in any order."""
    ids = [f"{number:016x}" for number in range(1, MAX_DEPTH + 4)]
    spans = [make_ended(ids[0]), *(make_ended(id_, above) for above, id_ in itertools.pairwise(ids))]
    for span in spans if is_parent_first else reversed(spans):
        assert send(receiver, span) == 0
    (paths,) = stored.list_paths().values()
    depths = Counter(path.count("/") + 1 for path in paths if path)
    assert depths == {**dict.fromkeys(range(1, MAX_DEPTH), 1), MAX_DEPTH: 3}


def test_level_that_is_rejected_later_counts_in_the_request_of_its_parent(
    stored: StoredLevels, fake_time: FakeTime
) -> None:
    """The number of levels of a run is limited."""
    receiver = Receiver(stored, wall=fake_time.read_now, limits=ReceiverLimits(levels_per_run=2))
    assert send(receiver, make_ended(LEAF, MIDDLE), make_ended(MIDDLE, ROOT)) == 0
    receipt = receiver.receive_spans(build_span_request(make_ended(ROOT)), "json")
    assert (receipt.accepted, receipt.rejected, receipt.reason) == (1, 1, "a run has at most 2 levels")
    assert stored.list_paths() == {ROOT: {"", f"2:{MIDDLE}"}}


@pytest.mark.parametrize("progress", [True, False])
def test_parents_that_are_a_cycle_do_not_hang(
    receiver: Receiver, stored: StoredLevels, progress: bool
) -> None:
    """Ids of invalid senders can be anything."""
    send(receiver, make_ended("4" * 16, LEAF))
    send(receiver, make_ended(MIDDLE, LEAF, progress=progress))
    send(receiver, make_ended(LEAF, MIDDLE, progress=progress))
    send(receiver, make_ended(ROOT, ROOT, progress=progress), make_ended("5" * 16, ROOT))
    receiver.close()
    ids = {found.info.span_id for found in stored.levels.values()}
    assert ids == {"4" * 16, "5" * 16} | ({ROOT, MIDDLE, LEAF} if progress else set())


def test_span_still_waits_after_an_error_of_the_journal(
    receiver: Receiver, stored: StoredLevels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter repeats the request."""
    send(receiver, make_ended(LEAF, ROOT))
    apply_report = receiver._apply_report

    def fail_below(state: Any, report: Any) -> None:
        if report.path:
            raise JournalError("disk full")
        apply_report(state, report)

    with monkeypatch.context() as patch:
        patch.setattr(receiver, "_apply_report", fail_below)
        with pytest.raises(JournalError):
            send(receiver, make_ended(ROOT))
    send(receiver, make_ended(ROOT))
    assert stored.list_paths() == {ROOT: {"", f"3:{LEAF}"}}


def test_more_children_than_remembered_spans_are_levels_of_their_parents(
    stored: StoredLevels, fake_time: FakeTime
) -> None:
    """The place of a parent is known while spans below it arrive or are released."""
    limits = ReceiverLimits(spans_per_sender=100)
    root = make_ended(ROOT)
    middles = [f"2{number:015x}" for number in range(30)]
    spans = [make_ended(id_, ROOT) for id_ in middles]
    spans += [make_ended(f"3{id_[1:]}", id_) for id_ in middles]
    for order in ([*spans, root], [root, *spans[:30]]):
        receiver = Receiver(stored, wall=fake_time.read_now, limits=limits)
        for span in order:
            assert send(receiver, span) == 0
        assert set(stored.list_paths()) == {ROOT}
        assert len(stored.levels) == (61 if order[0] is not root else 31)
        stored.levels.clear()


def test_passed_spans_are_limited() -> None:
    """The oldest ones are dropped."""
    waiting = WaitingSpans(max_spans=9, max_spans_per_sender=9, max_passed=2)
    body = build_span_request(*(make_ended(LEAF, f"{number:016x}") for number in range(1, 4)))
    spans = json_encoding.decode_spans(body, WALL).records
    root = SpanAbove(("s", TRACE, ROOT), True)
    for number in range(1, 4):
        waiting.pass_over(("s", TRACE, f"{number:016x}"), root)
    found = [waiting.find_above("s", span) for span in spans]
    assert found == [SpanAbove(("s", TRACE, f"{1:016x}"), True), root, root]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """An empty journal."""
    with closing(SqliteJournal(tmp_path / "progress.db")) as journal:
        yield journal


@pytest.mark.server
def test_trace_of_the_real_sdk_is_one_operation(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each child is exported in a batch before its parent."""
    pytest.importorskip("fastapi", reason="the extra 'server' is not installed")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from otel_progress.server.uvicorn_server import Server

    monkeypatch.setenv("no_proxy", "*")
    with Server(journal, port=0, receiver=Receiver(journal)) as server:
        provider = TracerProvider(resource=Resource({"service.name": "importer"}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{server.url}v1/traces", timeout=FLUSH_S)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("importer")
        with tracer.start_as_current_span("import", attributes={semconv.TOTAL: 2, semconv.CURRENT: 2}):
            for table in ("users", "orders"):
                with tracer.start_as_current_span("transaction"):
                    values = {semconv.TOTAL: 5, semconv.CURRENT: 5, semconv.LEVEL_ID: table}
                    with tracer.start_as_current_span("table", attributes=values):
                        pass
                    assert provider.force_flush(int(FLUSH_S * 1000))
                assert provider.force_flush(int(FLUSH_S * 1000))
            assert not journal.active()
            assert not journal.history()
        assert provider.force_flush(int(FLUSH_S * 1000))
        provider.shutdown()
    (done,) = journal.history()
    assert (done.name, done.root.current) == ("import", 2)
    operation = journal.get(done.operation_id)
    assert operation is not None
    assert [(found.path, found.current) for found in operation.levels] == [
        ("table:users", 5),
        ("table:orders", 5),
    ]
