"""Examples as programs, checked by their journal through the command line."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.support.example_runner import EXAMPLES, Runner, levels

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def setlist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, str]:
    """Runner after one run of the setlist example, and the output of that run."""
    run = Runner(tmp_path_factory.mktemp("setlist"))
    return run, run.example("setlist.py", "--fast")


def test_setlist_stores_failures_and_attempts(setlist: tuple[Runner, str]) -> None:
    """A retry is the next attempt of the same level."""
    run, printed = setlist
    document = run.document("show", "friday-42")
    by_path = levels(document)
    assert (document["status"], document["ratio"]) == ("completed", 1.0)
    assert (document["completed"], document["failed"], document["skipped"], document["total"]) == (2, 1, 1, 4)
    assert {path: by_path[path]["status"] for path in ("song:1", "song:2", "song:3", "song:4")} == {
        "song:1": "completed",
        "song:2": "completed",
        "song:3": "failed",
        "song:4": "skipped",
    }
    attempts = {path: by_path[f"{path}/action:stems"]["attempt"] for path in ("song:1", "song:2", "song:3")}
    assert attempts == {"song:1": 1, "song:2": 2, "song:3": 3}
    assert by_path["song:2/action:stems"]["failed"] == 0
    assert (
        by_path["song:3/action:stems/block:check-131"]["error"]["message"]
        == "ValueError: 4000 Hz, not 8000 Hz"
    )
    assert "Night Drive: completed, stems at attempt 2" in printed
    assert "2 of 4 songs rendered, 1 failed" in printed


def test_setlist_tracks_output_of_subprocesses(setlist: tuple[Runner, str]) -> None:
    mix = levels(setlist[0].document("show", "friday-42"))["song:2/action:mix/block:mix"]
    assert (mix["current"], mix["total"], mix["message"]) == (3, 3, "seconds 3/3")


def test_setlist_stores_delivered_files_as_items(setlist: tuple[Runner, str]) -> None:
    events = json.loads(setlist[0]("-m", "otel_progress", "export", "friday-42").stdout)["events"]
    delivered = [(event["path"], event["name"], event["metadata"]["bytes"] > 0) for event in events]
    assert delivered == [("song:1/action:deliver", "1.wav", True), ("song:2/action:deliver", "2.wav", True)]


def test_setlist_prints_same_output_twice(run: Runner, setlist: tuple[Runner, str]) -> None:
    assert run.example("setlist.py", "--fast") == setlist[1]


def test_loop_is_operation_that_counts_every_file(run: Runner) -> None:
    printed = run.example("loop.py")

    (document,) = run.document("history")["operations"]
    files = len(list(EXAMPLES.rglob("*.py")))
    assert (document["type"], document["name"], document["status"]) == ("track", "checksum", "completed")
    assert (document["current"], document["total"], document["unit"]) == (files, files, "file")
    assert printed.startswith(f"{files} files, sha256 ")


def test_pipeline_has_level_per_task_below_its_stage(run: Runner) -> None:
    run.example("pipeline_asyncio.py")

    document = run.document("show", "pipeline")
    by_path = levels(document)
    documents = [path for path in by_path if by_path[path]["type"] == "document"]
    assert sorted(documents) == sorted(f"stage:read/document:{path.name}" for path in EXAMPLES.glob("*.py"))
    assert [by_path[f"stage:{name}"]["status"] for name in ("find", "read", "merge")] == ["completed"] * 3
    for path in documents:
        text = (EXAMPLES / by_path[path]["name"]).read_text(encoding="utf-8")
        assert by_path[f"{path}/track:1"]["current"] == len(text.splitlines())
        assert by_path[path]["metadata"]["words"] == len(text.split())


def test_threads_count_blocks_in_their_level(run: Runner) -> None:
    printed = run.example("threads.py")

    document = run.document("show", "threads")
    assert {level["path"]: level["current"] for level in document["levels"]} == {
        f"part:{part}": 200 for part in range(8)
    }
    assert (document["current"], document["total"]) == (8, 8)
    assert printed.startswith("8/8 parts, 1600 blocks, ")


def test_library_without_configure_stores_nothing(run: Runner) -> None:
    printed = run.example("library.py")

    (document,) = run.document("history")["operations"]
    shown = run.document("show", document["operation_id"])
    assert document["operation_id"] == "primes"
    assert {path: level["metadata"] for path, level in levels(shown).items()} == {
        "sieve:1": {"limit": 10_000},
        "sieve:2": {"limit": 100_000},
    }
    assert printed.splitlines()[0] == "without configure: 168 primes, recorded: False"


def test_every_example_has_a_test() -> None:
    tested = {
        node.args[0].value
        for file in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "example"
        and isinstance(node.args[0], ast.Constant)
    }
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}


def test_batch_counts_completed_and_failed_operations(run: Runner) -> None:
    printed = run.example("batch.py")

    document = run.document("show", "checksums")
    assert printed == "500 of 500 files, 25 damaged, batch failed\n"
    assert (document["total"], document["finished"], document["percentage"], document["status"]) == (
        500,
        500,
        100.0,
        "failed",
    )
    assert (document["counts"]["completed"], document["counts"]["failed"]) == (475, 25)
    assert {operation["error"]["type"] for operation in document["failed"]} == {"__main__.DamagedError"}
    assert run.document("show", "file-020")["batch"] == "checksums"
