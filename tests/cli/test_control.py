"""``cancel`` and ``rm``: requests, deletions and their output."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from tests.support.command_line import EVIL, documents, run, url_of
from tests.support.factories import local_instance, make_change_set, snapshot


def read_request_time(tmp_path: Path) -> float | None:
    """Return the time of the cancellation request for the running operation."""
    journal = SqliteJournal(tmp_path / "progress.db", read_only=True)
    try:
        operation = journal.get("friday-42")
        assert operation is not None
        return operation.cancel_requested_at
    finally:
        journal.close()


def test_cancel_stores_request_with_reason(store: str, tmp_path: Path) -> None:
    import os

    result = run("--store", store, "cancel", "fri", "--reason", EVIL)
    assert (result.exit_code, result.stdout) == (
        0,
        "Cancellation of friday-42 is requested. See: otel-progress watch friday-42\n",
    )
    assert read_request_time(tmp_path) is not None
    journal = SqliteJournal(tmp_path / "progress.db")
    (request,) = journal.cancel_requests(local_instance(os.getpid()).id)
    journal.close()
    assert (request.operation_id, request.reason) == ("friday-42", EVIL)
    assert "cancelling" in run("--store", store, "ls").stdout
    assert "cancel     requested at" in run("--store", store, "show", "friday-42").stdout
    assert "cancelling" in run("--store", store, "watch", "friday-42", "--once").stdout


def test_cancel_of_cancelling_operation_names_time_of_first_request(store: str) -> None:
    run("--store", store, "cancel", "friday-42")
    result = run("--store", store, "cancel", "friday-42")
    assert result.exit_code == 0
    assert "was already requested at" in result.stdout


def test_cancel_as_json_has_result(store: str) -> None:
    (document,) = documents(run("--store", store, "cancel", "friday-42", "--json"))
    assert (document["operation_id"], document["cancel_requested"]) == ("friday-42", True)
    result = run("--store", store, "cancel", "backup-1", "--json")
    assert (result.exit_code, documents(result)[0]["cancel_requested"]) == (1, False)


def test_cancel_of_inactive_operation_exits_with_1(store: str) -> None:
    result = run("--store", store, "cancel", "backup-2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: Invalid operation 'backup-2': expected an active operation, ")
    assert "its status is completed since" in result.stderr
    assert run("--store", store, "cancel", "nothing").exit_code == 1
    assert run("cancel", "nothing").exit_code == 1


def test_cancel_of_abandoned_operation_warns(store: str) -> None:
    result = run("--store", store, "cancel", "lost")
    assert result.exit_code == 0
    assert "its process does not respond" in result.stdout


def test_rm_deletes_all_runs_of_finished_operations(store: str) -> None:
    result = run("--store", store, "rm", "backup-1", "backup-1", "backup-2")
    assert (result.exit_code, result.stdout) == (
        0,
        "Deleted 1 run of backup-1.\nDeleted 1 run of backup-2.\n",
    )
    remaining = documents(run("--store", store, "ls", "--all", "--json"))[0]["operations"]
    assert {entry["operation_id"] for entry in remaining} == {"friday-42", "lost"}


def test_rm_of_active_operation_is_rejected(store: str) -> None:
    result = run("--store", store, "rm", "friday-42", "--json")
    assert result.exit_code == 1
    assert documents(result)[0]["deleted"] == {"friday-42": 0}
    assert "First use: otel-progress cancel friday-42" in result.stderr
    assert run("--store", store, "show", "friday-42").exit_code == 0


def test_rm_of_abandoned_operation_waits_for_timeout(store: str, tmp_path: Path) -> None:
    """A run of another machine is kept until ten minutes after its last heartbeat."""
    assert run("--store", store, "rm", "lost").stdout == "Deleted 1 run of lost.\n"
    assert run("--store", store, "show", "lost").exit_code == 1
    journal = SqliteJournal(tmp_path / "progress.db")
    journal.write(make_change_set(snapshot(run="r5", operation_id="silent"), at=time.time() - 450.0))
    journal.close()
    result = run("--store", store, "rm", "silent")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Try again 10 minutes after its last heartbeat" in result.stderr
    assert "abandoned" in run("--store", store, "ls").stdout


@pytest.mark.parametrize("invalid_id", ["backup", "fri", "nothing", ""])
def test_rm_with_prefix_or_unknown_id_deletes_nothing(store: str, invalid_id: str) -> None:
    result = run("--store", store, "rm", "backup-1", invalid_id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert run("--store", store, "show", "backup-1").exit_code == 0


def test_control_command_without_journal_creates_no_file(tmp_path: Path) -> None:
    for command in ("cancel", "rm"):
        assert run("--store", url_of(tmp_path / "missing.db"), command, "x").exit_code == 3
    assert not (tmp_path / "missing.db").exists()


# --- fail ---------------------------------------------------------------------------------------


def test_fail_marks_abandoned_operation(store: str) -> None:
    """Its exit status changes from abandoned to failed."""
    assert run("--store", store, "show", "lost", "--exit-status").exit_code == 4
    result = run("--store", store, "fail", "lost", "--reason", "out of memory")
    assert (result.exit_code, result.stdout) == (0, "Marked lost as failed.\n")
    assert "Abandoned: out of memory" in run("--store", store, "ls", "--all", "--status", "failed").stdout
    assert run("--store", store, "show", "lost", "--exit-status").exit_code == 1
    result = run("--store", store, "fail", "lost")
    assert result.exit_code == 1
    assert "its status is failed since" in result.stderr


def test_fail_of_running_operation_is_rejected(store: str) -> None:
    result = run("--store", store, "fail", "friday-42", "--json")
    assert result.exit_code == 1
    assert documents(result)[0]["failed"] is False
    assert "its process is running. Use: otel-progress cancel friday-42" in result.stderr
    assert run("--store", store, "show", "friday-42", "--exit-status").exit_code == 0


@pytest.mark.parametrize("command", ["show", "cancel", "fail", "rm", "export", "watch", "logs"])
def test_id_with_leading_hyphen_suggests_separator(store: str, command: str) -> None:
    result = run("--store", store, command, "-17")
    assert result.exit_code == 2
    assert f"put -- before it: otel-progress {command} -- -17." in result.stderr
    assert "unknown" not in run("--store", store, command, "--", "-17").stderr
    assert "put --" not in run("--store", store, "show", "friday-42", "--exit-statu").stderr
