"""``cancel`` and ``rm``: what is asked of the journal, what is answered, and what is left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from otel_progress.journal import SqliteJournal
from tests.support.command_line import EVIL, documents, run, url_of
from tests.support.factories import batch, local_instance, snapshot


def requested(tmp_path: Path) -> float | None:
    """Return when the operation that runs was asked to stop."""
    journal = SqliteJournal(tmp_path / "progress.db", read_only=True)
    try:
        found = journal.get("friday-42")
        assert found is not None
        return found.cancel_requested_at
    finally:
        journal.close()


def test_cancel_asks_the_worker(store: str, tmp_path: Path) -> None:
    """The request is in the journal with its reason, for the process that works; the display says so."""
    import os

    result = run("--store", store, "cancel", "fri", "--reason", EVIL)
    assert (result.exit_code, result.stdout) == (
        0,
        "friday-42 is asked to stop. See: otel-progress watch friday-42\n",
    )
    assert requested(tmp_path) is not None
    journal = SqliteJournal(tmp_path / "progress.db")
    (request,) = journal.cancel_requests(local_instance(os.getpid()).id)
    journal.close()
    assert (request.operation_id, request.reason) == ("friday-42", EVIL)
    assert "cancelling" in run("--store", store, "ls").stdout
    assert "asked to stop at" in run("--store", store, "show", "friday-42").stdout
    assert "cancelling" in run("--store", store, "watch", "friday-42", "--once").stdout


def test_asking_twice_says_so(store: str) -> None:
    """The first request stays, and asking again is no error."""
    run("--store", store, "cancel", "friday-42")
    result = run("--store", store, "cancel", "friday-42")
    assert result.exit_code == 0
    assert "was asked to stop at" in result.stdout


def test_cancel_as_json(store: str) -> None:
    """One document, whether it was asked or not; the exit code says the same."""
    (document,) = documents(run("--store", store, "cancel", "friday-42", "--json"))
    assert (document["operation_id"], document["cancel_requested"]) == ("friday-42", True)
    result = run("--store", store, "cancel", "backup-1", "--json")
    assert (result.exit_code, documents(result)[0]["cancel_requested"]) == (1, False)


def test_nothing_to_cancel_ends_with_1(store: str) -> None:
    """What has ended cannot be asked, and its end is told; neither can what does not exist."""
    result = run("--store", store, "cancel", "backup-2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: 'backup-2' has no active run to cancel: completed at ")
    assert run("--store", store, "cancel", "nothing").exit_code == 1
    assert run("cancel", "nothing").exit_code == 1


def test_cancelling_what_is_abandoned_says_that_nobody_may_hear(store: str) -> None:
    """Its process gives no sign of life."""
    result = run("--store", store, "cancel", "lost")
    assert result.exit_code == 0
    assert "no sign of life" in result.stdout


def test_rm_forgets_what_has_ended(store: str) -> None:
    """All runs of the ids go; the others stay."""
    result = run("--store", store, "rm", "backup-1", "backup-1", "backup-2")
    assert (result.exit_code, result.stdout) == (0, "Forgot 1 run of backup-1.\nForgot 1 run of backup-2.\n")
    left = documents(run("--store", store, "ls", "--all", "--json"))[0]["operations"]
    assert {entry["operation_id"] for entry in left} == {"friday-42", "lost"}


def test_rm_leaves_what_is_under_way(store: str) -> None:
    """It says how to stop it first."""
    result = run("--store", store, "rm", "friday-42", "--json")
    assert result.exit_code == 1
    assert documents(result)[0]["deleted"] == {"friday-42": 0}
    assert "First: otel-progress cancel friday-42" in result.stderr
    assert run("--store", store, "show", "friday-42").exit_code == 0


def test_rm_forgets_what_was_abandoned(store: str, tmp_path: Path) -> None:
    """Its last sign of life is an hour old; one of a quarter of an hour's half may still be true, and stays with the reason."""
    assert run("--store", store, "rm", "lost").stdout == "Forgot 1 run of lost.\n"
    assert run("--store", store, "show", "lost").exit_code == 1
    journal = SqliteJournal(tmp_path / "progress.db")
    journal.write(batch(snapshot(run="r5", operation_id="silent"), at=time.time() - 450.0))
    journal.close()
    result = run("--store", store, "rm", "silent")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "can be forgotten 10 minutes after its last sign of life" in result.stderr
    assert "abandoned" in run("--store", store, "ls").stdout


@pytest.mark.parametrize("wrong", ["backup", "fri", "nothing", ""])
def test_rm_needs_whole_ids_and_forgets_all_or_none(store: str, wrong: str) -> None:
    """The beginning of an id is not enough to forget it, and one wrong id leaves the others untouched."""
    result = run("--store", store, "rm", "backup-1", wrong)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert run("--store", store, "show", "backup-1").exit_code == 0


def test_requests_make_no_journal(tmp_path: Path) -> None:
    """A journal that was named and is not there is an error, and is not made."""
    for command in ("cancel", "rm"):
        assert run("--store", url_of(tmp_path / "missing.db"), command, "x").exit_code == 3
    assert not (tmp_path / "missing.db").exists()
