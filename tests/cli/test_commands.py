"""Output of the commands for a real journal."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from otel_progress.cli.app import App, cli
from otel_progress.codec import SCHEMA, decode_operation
from otel_progress.journal import SqliteJournal, open_journal
from otel_progress.model import LevelCounts, LevelSnapshot, Status
from tests.support.command_line import EVIL, TIMEOUT_S, documents, present, run, url_of
from tests.support.factories import ended, local_instance, make_change_set, snapshot

UNSAFE = set("\x1b\x07\r\u202e\x9b")


def ids(store: str, *arguments: str) -> list[str]:
    """Return the IDs that ``ls`` lists."""
    return [
        entry["operation_id"]
        for entry in documents(run("--store", store, "ls", "--json", *arguments))[0]["operations"]
    ]


def test_ls_writes_table_of_active_operations(store: str) -> None:
    lines = run("--store", store, "ls").stdout.splitlines()
    assert lines[0].split() == [
        "STATUS",
        "ID",
        "TYPE",
        "NAME",
        "DONE",
        "COUNT",
        "FAILED",
        "STARTED",
        "TIME",
        "MESSAGE",
    ]
    assert [line.split()[:2] for line in lines[1:]] == [["abandoned", "lost"], ["running", "friday-42"]]
    assert "21/50 songs" in lines[2]
    assert re.search(r" 1m \d\ds ", lines[2])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {"lost", "friday-42"}),
        (("--all",), {"lost", "friday-42", "backup-1", "backup-2"}),
        (("--status", "failed"), {"backup-1"}),
        (("--status", "running"), {"lost", "friday-42"}),
        (("--all", "--type", "backup"), {"backup-1", "backup-2"}),
        (("--condition", "abandoned"), {"lost"}),
        (("--condition", "stalled"), set()),
    ],
)
def test_ls_filters_by_status_type_and_condition(
    store: str, arguments: tuple[str, ...], expected: set[str]
) -> None:
    """A final status implies ``--all``."""
    assert set(ids(store, *arguments)) == expected


def test_history_lists_finished_operations_newest_first(store: str) -> None:
    result = documents(run("--store", store, "history", "--json"))[0]
    assert result["schema"] == SCHEMA
    assert [entry["operation_id"] for entry in result["operations"]] == ["backup-2", "backup-1"]
    assert len(documents(run("--store", store, "history", "--limit", "1", "--json"))[0]["operations"]) == 1
    assert "No finished operations" in run("--store", store, "history", "--type", "other").stdout


def test_show_writes_figures_metadata_levels_and_errors(store: str) -> None:
    text = run("--store", store, "show", "friday-42").stdout
    for part in (
        "running",
        "42%  21/50 songs",
        "2 failed",
        "Mixing",
        "rate = 44100",
        "elapsed    1m ",
        "ValueError: bad rate",
        "OSError: gone",
    ):
        assert part in text
    assert "    ● action Export" in text
    assert "line 7" not in text


def test_show_options_add_details_or_select_levels(store: str) -> None:
    assert "line 7" in run("--store", store, "show", "friday-42", "--errors").stdout
    assert "=cmd  completed" in run("--store", store, "show", "friday-42", "--events").stdout
    part = run("--store", store, "show", "friday-42", "--path", "song:12").stdout
    assert "Export" in part
    assert "Red" not in part
    assert "Export" not in run("--store", store, "show", "friday-42", "--depth", "1").stdout


TABLE = LevelCounts(completed=312, failed=2, ended_early=12)


@pytest.fixture
def evicted_store(tmp_path: Path) -> str:
    """A journal with two tables. The first one has a failed level and evicted ones."""
    store = url_of(tmp_path / "evicted.db")
    with closing(open_journal(store)) as journal:
        journal.write(
            present(
                snapshot(ended_levels=LevelCounts(completed=7)),
                ended("table:1", name="table 1", ended_levels=TABLE, order=1),
                ended("table:1/chunk:4", name="chunk 4", status=Status.FAILED),
                snapshot("table:2", name="users", ended_levels=LevelCounts(cancelled=1), order=2),
            )
        )
    return store


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            (),
            [
                "  ✓ table 1",
                "    ✗ chunk 4",
                "    … 313 more: 312 completed (12 ended early), 1 failed",
                "  ● table users",
                "    … 1 more, cancelled",
                "  … 6 more, all completed",
            ],
        ),
        (("--depth", "1"), ["  ✓ table 1", "  ● table users", "  … 6 more, all completed"]),
        (("--depth", "0"), []),
        (
            ("--path", "table:1"),
            ["  ✗ chunk 4", "  … 313 more: 312 completed (12 ended early), 1 failed"],
        ),
        (("--path", "table:2"), ["  … 1 more, cancelled"]),
    ],
)
def test_show_counts_evicted_levels(
    evicted_store: str, options: tuple[str, ...], expected: list[str]
) -> None:
    """The number follows the stored levels of the same parent."""
    text = run("--store", evicted_store, "show", "friday-42", *options).stdout
    lines = text.partition("\nLevels\n")[2].splitlines()
    assert [re.split(r"(?<=\S)  ", line)[0] for line in lines] == expected


@pytest.mark.parametrize("command", ["show friday-42 --json", "export friday-42", "watch --once --json"])
def test_documents_have_the_numbers_of_evicted_levels(evicted_store: str, command: str) -> None:
    """All commands read the same snapshot."""
    (document,) = documents(run("--store", evicted_store, *command.split()))
    assert {level["path"]: level["evicted_levels"] for level in (document, *document["levels"])} == {
        "": {"completed": 6},
        "table:1": {"completed": 312, "failed": 1, "ended_early": 12},
        "table:1/chunk:4": {},
        "table:2": {"cancelled": 1},
    }


def test_other_exports_have_the_numbers_of_evicted_levels(evicted_store: str) -> None:
    """Each line of JSON has its own, and the table has a column per status."""
    lines = documents(run("--store", evicted_store, "export", "friday-42", "--format", "jsonl"))
    expected = {"": (6, 0, 0), "table:1": (312, 1, 12), "table:1/chunk:4": (0, 0, 0), "table:2": (0, 0, 0)}
    names = ("completed", "failed", "ended_early")
    numbers = {line["path"]: line["evicted_levels"] for line in lines}
    assert {
        path: tuple(counts.get(name, 0) for name in names) for path, counts in numbers.items()
    } == expected
    text = run("--store", evicted_store, "export", "friday-42", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["path"]: tuple(int(row[f"evicted_{name}"]) for name in names) for row in rows} == expected


def test_show_and_ls_have_the_type_of_an_operation_without_a_name_once(tmp_path: Path) -> None:
    """Its name is its type."""
    store = url_of(tmp_path / "p.db")
    with closing(open_journal(store)) as journal:
        journal.write(
            present(
                snapshot(name="setlist"),
                snapshot("thumbs:1", name="thumbs 1"),
                snapshot("table:1", name="users"),
            )
        )
    lines = run("--store", store, "show", "friday-42").stdout.splitlines()
    assert lines[0] == "setlist"
    levels = [line.split("  ")[1] for line in lines if "●" in line]
    assert sorted(levels) == ["● table users", "● thumbs 1"]
    assert run("--store", store, "ls").stdout.count("setlist") == 1


def test_show_as_json_can_be_decoded(store: str) -> None:
    (document,) = documents(run("--store", store, "show", "friday-42", "--events", "--json"))
    assert [level.path for level in decode_operation(document).levels] == [
        "song:12",
        "song:12/action:1",
        "song:13",
    ]
    assert document["condition"] == "ok"
    assert document["percentage"] == 42.0
    assert [event["name"] for event in document["events"]] == ["a.wav", "=cmd"]


def test_show_with_unique_prefix_succeeds(store: str) -> None:
    """An ambiguous prefix is an error that lists the IDs."""
    assert run("--store", store, "show", "fri").exit_code == 0
    result = run("--store", store, "show", "backup")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: Invalid operation ID 'backup': expected a prefix of one ID, found 2: backup-2, backup-1. "
        "Type more characters.\n"
    )


@pytest.mark.parametrize("command", ["show", "export", "watch"])
def test_command_with_unknown_id_suggests_similar_ids(store: str, command: str) -> None:
    result = run("--store", store, command, "firday-42")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: Invalid operation ID 'firday-42': expected the ID of a stored operation. "
        "Did you mean friday-42?\n"
    )


def test_show_with_unknown_level_lists_top_levels(store: str) -> None:
    result = run("--store", store, "show", "friday-42", "--path", "song:99")
    assert result.exit_code == 1
    assert "song:12, song:13" in result.stderr


def test_exit_status_option_reports_failure(store: str) -> None:
    assert run("--store", store, "show", "backup-1", "--exit-status").exit_code == 1
    assert run("--store", store, "show", "backup-2", "--exit-status").exit_code == 0
    assert run("--store", store, "watch", "backup-1", "--exit-status").exit_code == 1
    assert run("--store", store, "watch", "backup-2", "--exit-status").exit_code == 0


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "json"])
def test_watch_of_operation_that_ends_at_its_start_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Sequence[str]
) -> None:
    """It ends after the command has found it, and before the first changes are read."""
    path, watch, now = tmp_path / "progress.db", SqliteJournal.watch, time.time()

    def write(level: LevelSnapshot) -> None:
        moment = {"at": now, "clock": time.monotonic(), "instance": local_instance(os.getpid())}
        with closing(SqliteJournal(path)) as journal:
            journal.write(make_change_set(level, **moment))

    def end_and_watch(self: SqliteJournal, *arguments: Any, **keywords: Any) -> Any:
        write(ended(started_at=now, ended_at=now))
        return watch(self, *arguments, **keywords)

    write(snapshot(started_at=now))
    monkeypatch.setattr(SqliteJournal, "watch", end_and_watch)
    command = ("--store", url_of(path), "watch", "friday-42", "--exit-status", *options)
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(run(*command)), daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert [result.exit_code for result in results] == [0]
    assert "completed" in results[0].stdout


def test_watch_once_writes_one_frame(store: str) -> None:
    text = run("--store", store, "watch", "--once").stdout
    assert "42%" in text
    assert "abandoned" in text
    assert {
        entry["operation_id"] for entry in documents(run("--store", store, "watch", "--once", "--json"))
    } == {
        "lost",
        "friday-42",
    }


def test_export_writes_document_or_lines(store: str, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    assert run("--store", store, "export", "friday-42", "-o", str(target)).exit_code == 0
    document = json.loads(target.read_text(encoding="utf-8"))
    assert (len(document["levels"]), len(document["events"])) == (3, 2)
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.json"]
    records = [
        entry["record"]
        for entry in documents(run("--store", store, "export", "friday-42", "--format", "jsonl"))
    ]
    assert records == ["operation", "level", "level", "level", "event", "event"]


def test_export_as_csv_escapes_formulas(store: str) -> None:
    text = run("--store", store, "export", "backup-2", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["name"], row["message"]) == ("'=HYPERLINK(1)", "'+1")
    assert (row["current"], row["total"], row["status"]) == ("6", "6", "completed")


def test_export_to_unwritable_file_is_rejected(store: str, tmp_path: Path) -> None:
    result = run("--store", store, "export", "backup-2", "-o", str(tmp_path / "no" / "dir.json"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: Invalid output file ")
    assert "No such file or directory" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "ls --all",
        "ls --all --json",
        "history",
        "show backup-1 --errors --events",
        "watch backup-1",
        "watch backup-1 --once",
        "export backup-1",
        "export backup-1 --format jsonl",
        "export backup-1 --format csv",
        "doctor",
        f"show {EVIL}",
        EVIL,
    ],
)
def test_command_output_has_no_control_characters(store: str, line: str) -> None:
    result = run(
        "--store",
        store,
        "--color",
        "never",
        *line.split(" "),
        env={"OTEL_PROGRESS_EVIL": EVIL.replace("\r\n", "")},
    )
    assert not UNSAFE & set(result.stdout + result.stderr)


def test_colours_follow_option_and_environment(store: str) -> None:
    """NO_COLOR precedes FORCE_COLOR."""
    assert "\x1b[" not in run("--store", store, "ls").stdout
    assert "\x1b[" in run("--store", store, "--color", "always", "ls").stdout
    assert "\x1b[" in run("--store", store, "ls", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[" not in run("--store", store, "ls", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout


def test_help_of_every_command_has_examples() -> None:
    assert isinstance(cli, App)
    context = cli.make_context("otel-progress", ["ls"])
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(), name
        assert f"otel-progress {name}" in (command.epilog or "") or f" {name}" in (command.epilog or ""), name
        assert all(
            getattr(option, "help", "") for option in command.params if option.param_type_name == "option"
        ), name
        assert run(name, "--help").exit_code == 0
    assert "Exit codes:" in run("--help").stdout
    assert run().stdout == run("--help").stdout


def test_version_option_writes_version() -> None:
    assert re.fullmatch(r"otel-progress (\d+\.\d+\.\S+|\(not installed\))\n", run("--version").stdout)


@pytest.mark.process
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_script(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_OTEL_PROGRESS_COMPLETE" in result.stdout


def test_completion_of_ids_uses_store_of_environment(store: str) -> None:
    """With an unreadable journal it is empty."""
    env = {
        "_OTEL_PROGRESS_COMPLETE": "bash_complete",
        "COMP_WORDS": "otel-progress show back",
        "COMP_CWORD": "2",
    }
    result = run(env={**env, "OTEL_PROGRESS_STORE": store})
    assert sorted(result.stdout.split()) == ["plain,backup-1", "plain,backup-2"]
    assert run(env={**env, "OTEL_PROGRESS_STORE": "nonsense"}).stdout.strip() == ""
