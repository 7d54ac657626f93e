"""Exit codes of abandoned operations, and requests about batches."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from otel_progress.batches import BatchDeclaration
from otel_progress.ends import encode_end
from otel_progress.journal import SqliteJournal
from otel_progress.journal.spill import SpillFile, list_segments
from otel_progress.model import LevelSnapshot, Status
from otel_progress.processes import build_otlp_host, current_instance
from otel_progress.protocols import ChangeSet
from tests.support.command_line import documents, run, url_of
from tests.support.factories import ended, instance, local_instance, make_change_set, snapshot

DEAD_PID = 2**22 + 1
"""Process id above the largest one of Linux."""
BATCH = "thumbs"


def member(number: int, pid: int, **fields: object) -> LevelSnapshot:
    """Return a running operation of the batch in a process of this host."""
    now, clock = time.time(), time.monotonic()
    names = {"operation_id": f"o{number}", "run": f"r{number}", "id": f"o{number}"}
    times = {"started_at": now - 5, "started_clock": clock - 5, "observed_at": now, "observed_clock": clock}
    return snapshot(batch=BATCH, instance=f"local-{pid}", **names, **{**times, **fields})


def ended_member(number: int, **fields: object) -> LevelSnapshot:
    """Return an ended operation of the batch."""
    names = {"operation_id": f"o{number}", "run": f"r{number}", "id": f"o{number}"}
    return ended(batch=BATCH, instance=f"local-{os.getpid()}", ended_at=time.time() - 1, **names, **fields)


def change(*snapshots: LevelSnapshot, pid: int, batches: tuple[BatchDeclaration, ...] = ()) -> ChangeSet:
    """Return a change set of a process of this host."""
    moment = {"at": time.time(), "clock": time.monotonic()}
    return make_change_set(*snapshots, batches=batches, instance=local_instance(pid), **moment)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """File of an empty journal."""
    return tmp_path / "progress.db"


@pytest.fixture
def store(path: Path) -> str:
    """URL of the journal."""
    return url_of(path)


def fill(path: Path, *changes: ChangeSet, total: int | None = None, is_closed: bool = True) -> None:
    """Write change sets, and declare the batch."""
    now = time.time()
    declared = BatchDeclaration(BATCH, "Thumbnails", "images", total, now - 10, now if is_closed else None, 1)
    journal = SqliteJournal(path)
    for each in (*changes, change(pid=os.getpid(), batches=(declared,))):
        journal.write(each)
    journal.close()


# --- watch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "code"), [(("--exit-status",), 4), ((), 0)])
def test_watch_of_an_abandoned_operation_ends(
    store: str, path: Path, option: tuple[str, ...], code: int
) -> None:
    fill(path, change(member(1, DEAD_PID), pid=DEAD_PID))
    result = run("--store", store, "watch", "o1", "--interval", "0.05", *option)
    assert result.exit_code == code
    assert "o1 is abandoned: its process has exited." in result.stderr


def test_watch_of_a_failed_and_an_abandoned_operation_exits_with_1(store: str, path: Path) -> None:
    """A known failure precedes an unknown end."""
    failed = ended_member(2, status=Status.FAILED)
    fill(path, change(member(1, DEAD_PID), pid=DEAD_PID), change(failed, pid=os.getpid()))
    command = ("--store", store, "watch", "o1", "o2", "--exit-status", "--interval", "0.05")
    assert run(*command).exit_code == 1


@pytest.mark.parametrize(
    ("statuses", "is_abandoned", "code"),
    [
        ((Status.COMPLETED, Status.COMPLETED), False, 0),
        ((Status.COMPLETED, Status.FAILED), False, 1),
        ((Status.COMPLETED,), True, 4),
        ((Status.FAILED,), True, 1),
    ],
)
def test_watch_of_a_batch_ends_with_its_result(
    store: str, path: Path, statuses: tuple[Status, ...], is_abandoned: bool, code: int
) -> None:
    members = [ended_member(number, status=status) for number, status in enumerate(statuses)]
    lost = [change(member(9, DEAD_PID), pid=DEAD_PID)] if is_abandoned else []
    fill(path, *lost, change(*members, pid=os.getpid()))
    result = run("--store", store, "watch", BATCH, "--exit-status", "--interval", "0.05")
    assert result.exit_code == code
    assert "Thumbnails" in result.stdout
    assert run("--store", store, "show", BATCH, "--exit-status").exit_code == code


def test_watch_of_a_batch_writes_changes_as_json(store: str, path: Path) -> None:
    """Its active operations and the batch itself."""
    fill(path, change(member(1, DEAD_PID), pid=DEAD_PID), change(ended_member(2), pid=os.getpid()))
    result = run("--store", store, "watch", "thu", "--json", "--interval", "0.05")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["operation_id"] for line in lines if "operation_id" in line] == ["o1"]
    (batch,) = [line for line in lines if line.get("id") == BATCH]
    assert (batch["status"], batch["abandoned"], batch["finished"]) == ("failed", 1, 1)


# --- show ----------------------------------------------------------------------------------------


def test_show_of_an_operation_that_is_not_reporting_exits_with_5(store: str, path: Path) -> None:
    """It is received over OTLP without heartbeats. A recent report is the control."""
    sender = instance("sender", host=build_otlp_host("elsewhere", heartbeats=False))
    for age_s, code in ((10.0, 0), (200.0, 5)):
        at, clock = time.time() - age_s, time.monotonic() - age_s
        names = {"operation_id": f"o{code}", "run": f"r{code}", "id": f"o{code}"}
        root = snapshot(instance=sender.id, observed_at=at, observed_clock=at, started_at=at, **names)
        journal = SqliteJournal(path)
        journal.write(make_change_set(root, instance=sender, at=at, clock=clock))
        journal.close()
        assert run("--store", store, "show", f"o{code}", "--exit-status").exit_code == code


def test_show_of_a_batch_lists_abandoned_operations(store: str, path: Path) -> None:
    fill(path, change(member(1, DEAD_PID), pid=DEAD_PID), change(ended_member(2), pid=os.getpid()))
    text = run("--store", store, "show", BATCH).stdout
    assert "1 completed  1 abandoned" in text
    assert "failed" in text


# --- requests about batches ----------------------------------------------------------------------


def test_close_of_an_open_batch_ends_it(store: str, path: Path) -> None:
    fill(path, change(ended_member(1), pid=os.getpid()), is_closed=False)
    assert "running" in run("--store", store, "show", BATCH).stdout
    result = run("--store", store, "close", BATCH)
    assert (result.exit_code, result.stdout) == (0, "Closed thumbs.\n")
    assert "completed" in run("--store", store, "show", BATCH).stdout
    again = run("--store", store, "close", BATCH, "--json")
    assert (again.exit_code, documents(again)[0]["closed"]) == (1, False)
    assert "it was closed before" in again.stderr
    assert "expected the ID of a stored batch" in run("--store", store, "close", "o1").stderr


def test_cancel_of_a_batch_requests_it_for_its_operations(store: str, path: Path) -> None:
    pid = os.getpid()
    fill(path, change(member(1, pid), member(2, pid), ended_member(3), pid=pid))
    result = run("--store", store, "cancel", BATCH, "--reason", "wrong size")
    assert result.stdout.startswith("Cancellation of 2 operations of thumbs is requested.")
    journal = SqliteJournal(path)
    assert {one.reason for one in journal.cancel_requests(f"local-{pid}")} == {"wrong size"}
    journal.close()


def test_rm_of_a_batch_deletes_it_unless_an_operation_is_active(store: str, path: Path) -> None:
    pid = os.getpid()
    fill(path, change(member(1, DEAD_PID), pid=DEAD_PID), change(member(2, pid), ended_member(3), pid=pid))
    kept = run("--store", store, "rm", BATCH)
    assert kept.exit_code == 1
    assert "an operation of it is active" in kept.stderr
    assert run("--store", store, "cancel", BATCH, "--json").exit_code == 0
    journal = SqliteJournal(path)
    journal.write(change(ended_member(2), pid=pid))
    journal.close()
    deleted = run("--store", store, "rm", BATCH)
    assert (deleted.exit_code, deleted.stdout) == (0, "Deleted the batch thumbs with its operations.\n")
    assert run("--store", store, "show", BATCH).exit_code == 1
    assert run("--store", store, "ls", "--all").stdout == "No operations. Try: otel-progress demo\n"


def test_operation_that_ended_while_the_journal_was_busy_is_shown(path: Path, store: str) -> None:
    """Its process left the end in a file next to the journal."""
    fill(path)
    file = SpillFile(path, local_instance(DEAD_PID), "journal")
    file.append([encode_end(ended_member(1))])
    result = run("--store", store, "show", "o1")
    assert (result.exit_code, "completed" in result.output) == (0, True)
    assert list_segments(path) == []


def test_file_of_a_living_process_is_left_to_it(path: Path, store: str) -> None:
    """It may still write to it."""
    fill(path)
    file = SpillFile(path, current_instance("job"), "journal")
    file.append([encode_end(ended_member(1))])
    assert run("--store", store, "ls", "--all").exit_code == 0
    assert len(list_segments(path)) == 1
    file.close()


def test_list_of_batches_counts_abandoned_operations_apart(path: Path, store: str) -> None:
    """They do not run. The column is only there if a batch has some."""
    fill(path, change(member(1, DEAD_PID), pid=DEAD_PID), change(member(2, os.getpid()), pid=os.getpid()))
    header, row = run("--store", store, "ls", "--batches").stdout.splitlines()
    start, end = header.index("RUNNING"), header.index("ABANDONED")
    assert (row[start:end].strip(), row[end : end + len("ABANDONED")].strip()) == ("1", "1")
