"""Delivery of ended operations: ticks and exports at ends, and waits in children."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress import config
from otel_progress.journal import open_journal
from otel_progress.journal.spill import list_segments
from otel_progress.protocols import ChangeSet
from otel_progress.runtime import end_delivery, ticker
from otel_progress.runtime.end_delivery import EndDelivery
from otel_progress.runtime.export_trigger import ExportTrigger
from otel_progress.runtime.runtime import Runtime
from otel_progress.runtime.sink_worker import SinkWorker
from otel_progress.runtime.ticker import Ticker
from otel_progress.testing import wait_until

PATIENCE_S = 30.0
"""Time limit of a step. It is shorter than ``NEVER_S``."""
NEVER_S = 60.0


@pytest.fixture
def journal_file(tmp_path: Path) -> Path:
    """File of the journal."""
    return tmp_path / "progress.db"


@pytest.fixture
def runtime(journal_file: Path) -> Iterator[Runtime]:
    """A runtime whose regular ticks are too late for every test."""
    arguments = {"store": f"sqlite:///{journal_file}", "console": False, "otlp": False, "tick": NEVER_S}
    with config.start(arguments, environ={}) as started:
        yield started


def get_ticker(runtime: Runtime) -> Ticker:
    """Return the ticker of a runtime."""
    return runtime._ticker


def get_ends(runtime: Runtime) -> EndDelivery:
    """Return the delivery of ends of a runtime."""
    return runtime._components.ends


def read_status(journal_file: Path, identity: str) -> str | None:
    """Return the status of an operation in the journal."""
    journal = open_journal(f"sqlite:///{journal_file}", read_only=True, missing_ok=True)
    operation = journal.get(identity)
    journal.close()
    return None if operation is None else operation.status.value


# --- ticks ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runtime")
def test_end_of_an_operation_is_written_before_the_next_regular_tick(journal_file: Path) -> None:
    """Another operation keeps the ticker from sleeping."""
    with progress.operation("o", id="other"):
        wait_until(lambda: read_status(journal_file, "other") == "running", PATIENCE_S)
        with progress.operation("o", id="ended"):
            pass
        wait_until(lambda: read_status(journal_file, "ended") == "completed", PATIENCE_S)
        assert read_status(journal_file, "other") == "running"


def test_end_of_a_level_or_item_causes_no_tick(runtime: Runtime, journal_file: Path) -> None:
    """They wait for the next regular tick."""
    with progress.operation("o", id="o") as op:
        wait_until(lambda: read_status(journal_file, "o") == "running", PATIENCE_S)
        with op.level("file") as level:
            level.item("a", outcome="failed")
        assert not get_ticker(runtime)._is_end_due


def test_ends_beyond_their_share_wait_for_the_next_regular_tick(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many short operations do not use more time for ticks."""
    monkeypatch.setattr(ticker, "END_TIME_SHARE", 0.0)
    used = get_ticker(runtime)
    used._is_end_due = True
    used._end_credit_s = 0.001
    assert used._use_end_credit(0.5)
    assert used._end_credit_s < 0.0
    assert not used._use_end_credit(0.5)
    used._is_awaited = True
    assert used._use_end_credit(0.5)


def test_change_that_a_tick_has_collected_is_unsent(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that leaves then has to wait for it."""
    collected, released = threading.Event(), threading.Event()
    (worker,) = [worker for worker in runtime._sink_workers if worker.name == "journal"]
    submit = worker.submit

    def submit_late(change_set: ChangeSet) -> None:
        collected.set()
        assert released.wait(NEVER_S)
        submit(change_set)

    get_ticker(runtime).set_background(False)
    with progress.operation("o", id="o"):
        pass
    monkeypatch.setattr(worker, "submit", submit_late)
    thread = threading.Thread(target=get_ticker(runtime).tick)
    thread.start()
    assert collected.wait(PATIENCE_S)
    assert runtime._store.idle
    assert not worker.has_backlog
    assert runtime._has_unsent()
    released.set()
    thread.join()
    wait_until(lambda: not runtime._has_unsent(), PATIENCE_S)


# --- waits in children of multiprocessing --------------------------------------------------------


@pytest.fixture
def is_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process count as a child of multiprocessing."""
    monkeypatch.setattr(end_delivery, "is_pool_child", lambda: True)


@pytest.mark.usefixtures("is_child", "runtime")
def test_end_in_a_child_is_written_when_it_returns(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may be killed after that."""
    monkeypatch.setattr(end_delivery, "MAX_WAIT_S", PATIENCE_S)
    with progress.operation("o", id="o"):
        pass
    assert read_status(journal_file, "o") == "completed"
    assert list_segments(journal_file) == []


@pytest.mark.usefixtures("is_child")
def test_end_in_a_child_whose_journal_hangs_is_stored_in_a_file(
    runtime: Runtime, journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is limited. The journal has the end after the file was read."""
    released = threading.Event()
    (worker,) = [worker for worker in runtime._sink_workers if worker.name == "journal"]
    write = worker.sink.write

    def hang(change_set: ChangeSet) -> None:
        released.wait(NEVER_S)
        write(change_set)

    monkeypatch.setattr(worker.sink, "write", hang)
    with progress.operation("o", id="o"):
        pass
    assert len(list_segments(journal_file)) == 1
    assert read_status(journal_file, "o") is None
    released.set()
    assert runtime.force_flush(PATIENCE_S)
    assert read_status(journal_file, "o") == "completed"
    assert list_segments(journal_file) == []


def test_first_delivery_of_shared_work_waits_for_the_connection(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later ones wait for a shorter time, also if the first one failed."""
    monkeypatch.setattr(end_delivery, "MAX_FIRST_SHARE_WAIT_S", NEVER_S)
    monkeypatch.setattr(end_delivery, "MAX_SHARE_WAIT_S", 0.0)
    entered, released = threading.Event(), threading.Event()
    (worker,) = [worker for worker in runtime._sink_workers if worker.name == "journal"]
    write = worker.sink.write

    def hang(change_set: ChangeSet) -> None:
        entered.set()
        released.wait(NEVER_S)
        write(change_set)

    monkeypatch.setattr(worker.sink, "write", hang)
    with progress.operation("o", id="o", total=2) as op:
        first = threading.Thread(target=get_ends(runtime).deliver_shares)
        first.start()
        assert entered.wait(PATIENCE_S)
        assert first.is_alive()
        released.set()
        first.join(PATIENCE_S)
        assert not first.is_alive()
        assert not worker.has_backlog
        released.clear()
        entered.clear()
        op.increment()
        get_ends(runtime).deliver_shares()
        assert entered.wait(PATIENCE_S)
        assert worker.has_backlog
        released.set()


@pytest.mark.usefixtures("is_child")
def test_waits_in_a_child_are_limited_to_a_share_of_the_time(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then ends only wake the sinks."""
    ends = get_ends(runtime)
    monkeypatch.setattr(end_delivery, "MAX_WAIT_SHARE", 0.0)
    get_ticker(runtime).wake()
    assert ends._can_wait()
    ends._credit_s = 0.0
    assert not ends._can_wait()


@pytest.mark.usefixtures("is_child")
def test_end_in_an_event_loop_does_not_wait(runtime: Runtime) -> None:
    """A wait would block all tasks of the loop."""
    get_ticker(runtime).wake()

    async def can_wait() -> bool:
        return get_ends(runtime)._can_wait()

    assert not asyncio.run(can_wait())
    assert get_ends(runtime)._can_wait()


@pytest.mark.usefixtures("is_child")
def test_shutdown_does_not_wait_for_the_operations_that_it_ends(
    journal_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ticker that they would wait for ends as well."""
    monkeypatch.setattr(EndDelivery, "_wait", lambda *arguments: pytest.fail("waited"))
    runtime = config.start(
        {"store": f"sqlite:///{journal_file}", "console": False, "otlp": False}, environ={}
    )
    running = progress.operation("o", id="o").start()
    assert runtime.shutdown(PATIENCE_S)
    assert not running.recording
    assert read_status(journal_file, "o") == "cancelled"


# --- exports -------------------------------------------------------------------------------------


class Exports:
    """Exports that wait until the test permits them."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.permitted = threading.Semaphore(0)
        self.count = 0

    def export(self) -> None:
        """Run one export."""
        self.count += 1
        self.started.release()
        assert self.permitted.acquire(timeout=NEVER_S)


@pytest.fixture
def exports() -> Exports:
    """Exports of the trigger."""
    return Exports()


@pytest.fixture
def trigger(exports: Exports) -> Iterator[ExportTrigger]:
    """A trigger that is closed after the test."""
    made = ExportTrigger("export", "otlp.traces", exports.export)
    yield made
    made.close()
    for _ in range(100):
        exports.permitted.release()


def test_request_is_done_after_an_export_that_started_later(trigger: ExportTrigger, exports: Exports) -> None:
    """A request during an export needs another one."""
    first = trigger.request()
    assert exports.started.acquire(timeout=PATIENCE_S)
    assert not trigger.is_idle
    second = trigger.request(is_awaited=True)
    exports.permitted.release()
    assert exports.started.acquire(timeout=PATIENCE_S)
    assert trigger.is_done(first)
    assert not trigger.is_done(second)
    exports.permitted.release()
    wait_until(lambda: trigger.is_done(second), PATIENCE_S)
    assert trigger.is_idle


def test_requests_soon_after_an_export_share_the_next_one(
    trigger: ExportTrigger, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that waits gets it at once."""
    monkeypatch.setattr("otel_progress.runtime.export_trigger.MIN_INTERVAL_S", NEVER_S)
    for _ in range(10):
        exports.permitted.release()
    trigger.request()
    wait_until(lambda: trigger.is_idle, PATIENCE_S)
    for _ in range(5):
        trigger.request()
    assert exports.count == 1
    number = trigger.request(is_awaited=True)
    wait_until(lambda: trigger.is_done(number), PATIENCE_S)
    assert exports.count == 2


def test_failed_export_is_reported_and_ends_the_request(exports: Exports) -> None:
    """Waiting for an exporter that fails is useless."""

    def fail() -> None:
        exports.export()
        raise ValueError("broken")

    trigger = ExportTrigger("export", "otlp.traces", fail)
    exports.permitted.release()
    number = trigger.request()
    wait_until(lambda: trigger.is_done(number), PATIENCE_S)
    trigger.close()
    failing = ExportTrigger("export", "otlp.traces", exports.export, is_failing=lambda: True)
    assert failing.is_done(failing.request())
    failing.close()
    exports.permitted.release()


def test_sink_without_a_file_stores_no_end() -> None:
    """Only the journal has a file."""

    class Sink:
        def write(self, change_set: ChangeSet) -> None: ...

        def close(self) -> None: ...

    worker = SinkWorker("journal", Sink())
    assert not worker.has_file
    assert not worker.store_end(b"{}")
    worker.store_unwritten_ends()
