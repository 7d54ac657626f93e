"""Every example is run as its reader runs it, and judged by what it left in the journal, read through the command line."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.support.example_runner import EXAMPLES, Runner, levels

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def setlist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, str]:
    """The example of the setlist, run once for all who look at what it left, and what it printed."""
    run = Runner(tmp_path_factory.mktemp("setlist"))
    return run, run.example("setlist.py", "--fast")


def test_setlist_records_errors_and_retries(setlist: tuple[Runner, str]) -> None:
    """A retry is the same level with an attempt; a song that fails for good is counted as failed, and one is skipped."""
    run, printed = setlist
    found = run.document("show", "friday-42")
    by_path = levels(found)
    assert (found["status"], found["ratio"]) == ("completed", 1.0)
    assert (found["completed"], found["failed"], found["skipped"], found["total"]) == (2, 1, 1, 4)
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


def test_setlist_follows_what_subprocesses_say(setlist: tuple[Runner, str]) -> None:
    """A tracker that only knows ``current_level()`` brings the figures of each subprocess to the level it runs for."""
    mix = levels(setlist[0].document("show", "friday-42"))["song:2/action:mix/block:mix"]
    assert (mix["current"], mix["total"], mix["message"]) == (3, 3, "seconds 3/3")


def test_setlist_remembers_what_it_delivered(setlist: tuple[Runner, str]) -> None:
    """Each delivered file is an item event with its size, found by the level it belongs to."""
    events = json.loads(setlist[0]("-m", "otel_progress", "export", "friday-42").stdout)["events"]
    delivered = [(event["path"], event["name"], event["metadata"]["bytes"] > 0) for event in events]
    assert delivered == [("song:1/action:deliver", "1.wav", True), ("song:2/action:deliver", "2.wav", True)]


def test_setlist_is_deterministic(run: Runner, setlist: tuple[Runner, str]) -> None:
    """Two runs print the same."""
    assert run.example("setlist.py", "--fast") == setlist[1]


def test_loop_tracks_every_file(run: Runner) -> None:
    """``track`` outside of any operation is an operation of its own, as long as what it iterates over."""
    printed = run.example("loop.py")

    (found,) = run.document("history")["operations"]
    files = len(list(EXAMPLES.rglob("*.py")))
    assert (found["type"], found["name"], found["status"]) == ("track", "checksum", "completed")
    assert (found["current"], found["total"], found["unit"]) == (files, files, "file")
    assert printed.startswith(f"{files} files, sha256 ")


def test_pipeline_runs_tasks_below_its_stages(run: Runner) -> None:
    """Tasks that run at once each have their own level, and the tracked lines lie below the right document."""
    run.example("pipeline_asyncio.py")

    found = run.document("show", "pipeline")
    by_path = levels(found)
    documents = [path for path in by_path if by_path[path]["type"] == "document"]
    assert sorted(documents) == sorted(f"stage:read/document:{path.name}" for path in EXAMPLES.glob("*.py"))
    assert [by_path[f"stage:{name}"]["status"] for name in ("find", "read", "merge")] == ["completed"] * 3
    for path in documents:
        text = (EXAMPLES / by_path[path]["name"]).read_text(encoding="utf-8")
        assert by_path[f"{path}/track:1"]["current"] == len(text.splitlines())
        assert by_path[path]["metadata"]["words"] == len(text.split())


def test_threads_count_in_the_level_they_run_in(run: Runner) -> None:
    """Eight parts in four threads: every block is counted once, in the part it belongs to."""
    printed = run.example("threads.py")

    found = run.document("show", "threads")
    assert {level["path"]: level["current"] for level in found["levels"]} == {
        f"part:{part}": 200 for part in range(8)
    }
    assert (found["current"], found["total"]) == (8, 8)
    assert printed.startswith("8/8 parts, 1600 blocks, ")


def test_library_is_inert_until_configured(run: Runner) -> None:
    """Without configure the library leaves nothing behind; with it, its calls are levels below the program's operation."""
    printed = run.example("library.py")

    (found,) = run.document("history")["operations"]
    shown = run.document("show", found["operation_id"])
    assert found["operation_id"] == "primes"
    assert {path: level["metadata"] for path, level in levels(shown).items()} == {
        "sieve:1": {"limit": 10_000},
        "sieve:2": {"limit": 100_000},
    }
    assert printed.splitlines()[0] == "without configure: 168 primes, recorded: False"


def test_every_example_is_run_here() -> None:
    """An example that no test runs would rot."""
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


def test_batch_counts_its_operations_and_what_failed(run: Runner) -> None:
    """Five hundred operations on a pool are one batch, of which 5 % failed, each with its own error."""
    printed = run.example("batch.py")

    found = run.document("show", "checksums")
    assert printed == "500 of 500 files, 25 damaged, batch failed\n"
    assert (found["total"], found["finished"], found["percentage"], found["status"]) == (
        500,
        500,
        100.0,
        "failed",
    )
    assert (found["counts"]["completed"], found["counts"]["failed"]) == (475, 25)
    assert {one["error"]["type"] for one in found["failed"]} == {"__main__.DamagedError"}
    assert run.document("show", "file-020")["batch"] == "checksums"
