"""Batches and resources on the command line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from otel_progress.batches import BatchDeclaration
from otel_progress.cli.commands.show import _collect_facts
from otel_progress.journal import SqliteJournal
from otel_progress.model import Failure, Status
from otel_progress.records import ResourceSample, ResourceUse
from tests.support.command_line import EVIL, documents, run, url_of
from tests.support.factories import ended, local_instance, make_change_set, operation, snapshot

UNSAFE = set("\x1b\x07\r\u202e\x9b")


@pytest.fixture
def store(tmp_path: Path) -> str:
    """URL of a journal with an active batch of three operations and a finished batch."""
    import os

    now, clock = time.time(), time.monotonic()
    here = local_instance(os.getpid())
    shared = {"instance": here.id, "operation_type": "thumbnail", "type": "thumbnail", "batch": "thumbs-1"}
    times = {"started_at": now - 5, "started_clock": clock - 5, "observed_at": now, "observed_clock": clock}
    running = snapshot(run="r1", operation_id="a", id="a", ratio=0.5, **times, **shared)
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
    journal.write(
        make_change_set(running, done, failed, batches=declared, instance=here, at=now, clock=clock)
    )
    journal.close()
    return url_of(tmp_path / "progress.db")


def test_show_with_batch_prefix_writes_counts_and_failures(store: str) -> None:
    """Error details need ``--errors``."""
    text = run("--store", store, "show", "thumbs").stdout
    for part in (
        "Thumbnails  images",
        "running",
        "62%",
        "2/4 operations",
        "1 running  1 completed  1 failed",
        "Active",
        "OSError",
    ):
        assert part in text
    assert "Traceback" not in text
    assert not UNSAFE & set(text)
    details = run("--store", store, "show", "thumbs-1", "--errors").stdout
    assert "      Traceback" in details
    assert not UNSAFE & set(details)


def test_show_of_batch_as_json_has_its_operations(store: str) -> None:
    (document,) = documents(run("--store", store, "show", "thumbs-1", "--json"))
    assert (document["id"], document["finished"], document["counts"]["failed"]) == ("thumbs-1", 2, 1)
    assert [operation["operation_id"] for operation in document["failed"]] == ["c"]


def test_show_prefers_operation_id_to_batch_prefix(store: str) -> None:
    """The output names the batch of the operation."""
    assert "batch      thumbs-1" in run("--store", store, "show", "a").stdout


def test_show_of_batch_with_operation_options_is_rejected(store: str) -> None:
    result = run("--store", store, "show", "thumbs-1", "--events")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is a batch" in result.stderr


@pytest.mark.parametrize("command", ["logs", "export"])
def test_operation_command_with_batch_id_names_command_for_batches(store: str, command: str) -> None:
    result = run("--store", store, command, "thumbs-1")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: Invalid operation ID 'thumbs-1': expected an operation, found a batch. "
        "Use: otel-progress show thumbs-1\n",
    )


def list_batch_ids(store: str, *arguments: str) -> list[str]:
    """Return the IDs of the batches that ``ls`` lists."""
    (document,) = documents(run("--store", store, "ls", *arguments, "--json"))
    return [batch["id"] for batch in document["batches"]]


def test_ls_lists_active_batches_and_filters_them(store: str) -> None:
    assert "images Thumbnails (thumbs-1) running 62% 2/4 operations" in run("--store", store, "ls").stdout
    assert "Thumbnails" not in run("--store", store, "ls", "--type", "thumbnail").stdout
    table = run("--store", store, "ls", "--batches").stdout
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["thumbs-1", "evil"]
    assert not UNSAFE & set(table)
    assert list_batch_ids(store) == ["thumbs-1"]
    assert list_batch_ids(store, "--batches") == ["thumbs-1", "evil"]
    assert list_batch_ids(store, "--batches", "--type", "images") == ["thumbs-1"]
    assert run("--store", store, "ls", "--batches", "--all").exit_code == 2
    assert run("ls", "--batches").stdout == "No batches.\n"


def test_show_with_exit_status_of_active_batch_exits_with_0(store: str) -> None:
    assert run("--store", store, "show", "thumbs-1", "--exit-status").exit_code == 0


def test_show_writes_current_mean_and_peak_resource_use() -> None:
    """The current use is omitted after the end."""
    use = ResourceUse(
        ResourceSample(1.0, 1.0, 1.5, 200_000_000), 9, 1.2, 2.0, 150e6, 300_000_000, 0.5, 0.75, 4_000_000_000
    )
    running = operation(resources=use)
    facts = dict(_collect_facts(running, running.root))
    assert facts["cpu"] == "150%, mean 120%, peak 200%"
    assert facts["memory"] == "200.0 MB, mean 150.0 MB, peak 300.0 MB"
    assert (facts["gpu"], facts["gpu memory"]) == ("mean 50%, peak 75%", "peak 4.0 GB")
    finished = operation(ended(), resources=use)
    assert dict(_collect_facts(finished, finished.root))["cpu"] == "mean 120%, peak 200%"


def test_completion_of_batches_severities_and_commands(store: str) -> None:

    def complete(line: str) -> list[str]:
        words = f"otel-progress --store {store} {line}".rstrip("|")
        env = {
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - (not line.endswith(" "))),
            "_OTEL_PROGRESS_COMPLETE": "bash_complete",
        }
        return [answer.partition(",")[2] for answer in run(env=dict(env)).stdout.splitlines()]

    assert complete("show th") == ["thumbs-1"]
    assert complete("logs a --severity W") == ["WARNING"]
    assert {"logs", "ls"} <= set(complete("l"))
