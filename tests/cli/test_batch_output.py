"""Batches and resources on the command line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from otel_progress.batches import BatchDeclaration
from otel_progress.cli.commands.show import _facts
from otel_progress.journal import SqliteJournal
from otel_progress.model import Failure, Status
from otel_progress.records import ResourceSample, ResourceUse
from tests.support.command_line import EVIL, documents, run, url_of
from tests.support.factories import batch, ended, local_instance, operation, snapshot

UNSAFE = set("\x1b\x07\r\u202e\x9b")


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A journal with a batch of which two operations ended, one of them badly, and one runs; and a batch with a nasty name."""
    import os

    now, clock = time.time(), time.monotonic()
    here = local_instance(os.getpid())
    shared = {"instance": here.id, "operation_type": "thumbnail", "type": "thumbnail", "batch": "thumbs-1"}
    running = snapshot(
        run="r1", operation_id="a", id="a", ratio=0.5, started_at=now - 5, started_clock=clock - 5, observed_at=now,
        observed_clock=clock, **shared,
    )  # fmt: skip
    done = ended(run="r2", operation_id="b", id="b", ended_at=now - 2, **shared)
    error = Failure("OSError", EVIL, f"Traceback\n {EVIL}")
    failed = ended(
        run="r3", operation_id="c", id="c", ended_at=now - 1, status=Status.FAILED, error=error, **shared
    )
    declared = (
        BatchDeclaration("thumbs-1", "Thumbnails", "images", 4, now - 10, None, 1),
        BatchDeclaration("evil", EVIL, EVIL, None, now - 20, now - 15, 1),
    )
    journal = SqliteJournal(tmp_path / "progress.db")
    journal.write(batch(running, done, failed, batches=declared, instance=here, at=now, clock=clock))
    journal.close()
    return url_of(tmp_path / "progress.db")


def test_show_tells_of_a_batch(store: str) -> None:
    """Its counts, ratio, and what runs and failed; the beginning of its id is enough."""
    text = run("--store", store, "show", "thumbs").stdout
    for part in (
        "Thumbnails  images",
        "running",
        "62%",
        "2/4 operations",
        "1 running  1 completed  1 failed",
        "Under way",
        "OSError",
    ):
        assert part in text
    assert "Traceback" not in text
    assert not UNSAFE & set(text)
    details = run("--store", store, "show", "thumbs-1", "--errors").stdout
    assert "      Traceback" in details
    assert not UNSAFE & set(details)


def test_show_of_a_batch_as_json(store: str) -> None:
    """It is the document of the codec, with its operations."""
    (document,) = documents(run("--store", store, "show", "thumbs-1", "--json"))
    assert (document["id"], document["finished"], document["counts"]["failed"]) == ("thumbs-1", 2, 1)
    assert [one["operation_id"] for one in document["failed"]] == ["c"]


def test_an_operation_comes_before_a_batch(store: str) -> None:
    """A whole id of an operation is the operation; it says which batch it is in."""
    assert "batch      thumbs-1" in run("--store", store, "show", "a").stdout


def test_options_of_operations_are_refused_for_a_batch(store: str) -> None:
    """They would be ignored otherwise."""
    result = run("--store", store, "show", "thumbs-1", "--events")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is a batch" in result.stderr


@pytest.mark.parametrize("command", ["logs", "cancel", "export"])
def test_other_commands_say_that_it_is_a_batch(store: str, command: str) -> None:
    """An id of a batch where an operation is wanted leads to the command for it."""
    result = run("--store", store, command, "thumbs-1")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: 'thumbs-1' is a batch of operations. See: otel-progress show thumbs-1\n",
    )


def test_ls_lists_batches(store: str) -> None:
    """Those under way briefly with the operations, all of them in a table of their own."""
    assert "images Thumbnails (thumbs-1) running 62% 2/4 operations" in run("--store", store, "ls").stdout
    assert "Thumbnails" not in run("--store", store, "ls", "--type", "thumbnail").stdout
    table = run("--store", store, "ls", "--batches").stdout
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["thumbs-1", "evil"]
    assert not UNSAFE & set(table)
    assert [one["id"] for one in documents(run("--store", store, "ls", "--json"))[0]["batches"]] == [
        "thumbs-1"
    ]
    assert [
        one["id"] for one in documents(run("--store", store, "ls", "--batches", "--json"))[0]["batches"]
    ] == [
        "thumbs-1",
        "evil",
    ]
    assert [
        one["id"]
        for one in documents(run("--store", store, "ls", "--batches", "--type", "images", "--json"))[0][
            "batches"
        ]
    ] == ["thumbs-1"]
    assert run("--store", store, "ls", "--batches", "--all").exit_code == 2
    assert run("ls", "--batches").stdout == "No batches.\n"


def test_the_exit_status_can_be_the_batchs(store: str) -> None:
    """It is 0 while the batch is under way."""
    assert run("--store", store, "show", "thumbs-1", "--exit-status").exit_code == 0


def test_show_tells_what_the_process_uses() -> None:
    """Now, mean and peak while it runs; once it has ended there is no now."""
    use = ResourceUse(
        ResourceSample(1.0, 1.0, 1.5, 200_000_000), 9, 1.2, 2.0, 150e6, 300_000_000, 0.5, 0.75, 4_000_000_000
    )
    running = operation(resources=use)
    facts = dict(_facts(running, running.root))
    assert facts["cpu"] == "150%, mean 120%, peak 200%"
    assert facts["memory"] == "200.0 MB, mean 150.0 MB, peak 300.0 MB"
    assert (facts["gpu"], facts["gpu memory"]) == ("mean 50%, peak 75%", "peak 4.0 GB")
    over = operation(ended(), resources=use)
    assert dict(_facts(over, over.root))["cpu"] == "mean 120%, peak 200%"


def test_a_shell_completes_batches_severities_and_commands(store: str) -> None:
    """The ids of operations and batches after show, names of logging after --severity, and the new commands."""

    def completed(line: str) -> list[str]:
        words = f"otel-progress --store {store} {line}".rstrip("|")
        env = {
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - (not line.endswith(" "))),
            "_OTEL_PROGRESS_COMPLETE": "bash_complete",
        }
        return [answer.partition(",")[2] for answer in run(env=dict(env)).stdout.splitlines()]

    assert completed("show th") == ["thumbs-1"]
    assert completed("logs a --severity W") == ["WARNING"]
    assert {"logs", "ls"} <= set(completed("l"))
