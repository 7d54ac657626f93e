"""What each command answers, from a real journal."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from otel_progress.cli.app import App, cli
from otel_progress.codec import SCHEMA, decode_operation
from tests.support.command_line import EVIL, documents, run

UNSAFE = set("\x1b\x07\r\u202e\x9b")


def ids(store: str, *arguments: str) -> list[str]:
    """Return the ids that ``ls`` lists."""
    return [
        entry["operation_id"]
        for entry in documents(run("--store", store, "ls", "--json", *arguments))[0]["operations"]
    ]


def test_ls_is_a_table_of_what_runs(store: str) -> None:
    """With figures, and the condition where it is not well."""
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
def test_ls_selects(store: str, arguments: tuple[str, ...], expected: set[str]) -> None:
    """By status, type and condition; a status that is an end implies the ended ones."""
    assert set(ids(store, *arguments)) == expected


def test_history_is_what_has_ended(store: str) -> None:
    """The last one first, limited, by type."""
    result = documents(run("--store", store, "history", "--json"))[0]
    assert result["schema"] == SCHEMA
    assert [entry["operation_id"] for entry in result["operations"]] == ["backup-2", "backup-1"]
    assert len(documents(run("--store", store, "history", "--limit", "1", "--json"))[0]["operations"]) == 1
    assert "No operation has ended" in run("--store", store, "history", "--type", "other").stdout


def test_show_tells_all_of_an_operation(store: str) -> None:
    """Figures, metadata, level tree, the error of each level, the items that failed."""
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


def test_show_goes_into_the_details(store: str) -> None:
    """Tracebacks with --errors, everything that happened with --events, a part with --path and --depth."""
    assert "line 7" in run("--store", store, "show", "friday-42", "--errors").stdout
    assert "=cmd  completed" in run("--store", store, "show", "friday-42", "--events").stdout
    part = run("--store", store, "show", "friday-42", "--path", "song:12").stdout
    assert "Export" in part
    assert "Red" not in part
    assert "Export" not in run("--store", store, "show", "friday-42", "--depth", "1").stdout


def test_show_as_json_can_be_read_back(store: str) -> None:
    """It is the document of the codec, levels and events with it."""
    (document,) = documents(run("--store", store, "show", "friday-42", "--events", "--json"))
    assert [level.path for level in decode_operation(document).levels] == [
        "song:12",
        "song:12/action:1",
        "song:13",
    ]
    assert document["condition"] == "ok"
    assert document["percentage"] == 42.0
    assert [event["name"] for event in document["events"]] == ["a.wav", "=cmd"]


def test_the_beginning_of_an_id_is_enough(store: str) -> None:
    """As long as there is one that begins so; else the candidates are named."""
    assert run("--store", store, "show", "fri").exit_code == 0
    result = run("--store", store, "show", "backup")
    assert result.exit_code == 1
    assert (
        result.stderr == "error: 'backup' is the beginning of 2 ids: backup-2, backup-1. Type more of it.\n"
    )


@pytest.mark.parametrize("command", ["show", "export", "watch"])
def test_an_unknown_id_suggests_near_ones(store: str, command: str) -> None:
    """One line on stderr, and an exit code of its own."""
    result = run("--store", store, command, "firday-42")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: There is no operation 'firday-42'. Did you mean friday-42?\n"


def test_an_unknown_level_names_those_there_are(store: str) -> None:
    """So that the next try works."""
    result = run("--store", store, "show", "friday-42", "--path", "song:99")
    assert result.exit_code == 1
    assert "song:12, song:13" in result.stderr


def test_the_exit_status_can_be_the_operations(store: str) -> None:
    """For scripts: 1 when it failed, 0 when it completed."""
    assert run("--store", store, "show", "backup-1", "--exit-status").exit_code == 1
    assert run("--store", store, "show", "backup-2", "--exit-status").exit_code == 0
    assert run("--store", store, "watch", "backup-1", "--exit-status").exit_code == 1
    assert run("--store", store, "watch", "backup-2", "--exit-status").exit_code == 0


def test_watch_once_writes_a_frame(store: str) -> None:
    """The tree of bars, without waiting; as JSON one line an operation."""
    text = run("--store", store, "watch", "--once").stdout
    assert "42%" in text
    assert "abandoned" in text
    assert {
        entry["operation_id"] for entry in documents(run("--store", store, "watch", "--once", "--json"))
    } == {
        "lost",
        "friday-42",
    }


def test_export_as_json_and_lines(store: str, tmp_path: Path) -> None:
    """One document, or one line a level and event; to a file or to stdout."""
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


def test_export_as_csv_cannot_run_anything(store: str) -> None:
    """Text that a spreadsheet would take for a formula is marked as text; numbers stay numbers."""
    text = run("--store", store, "export", "backup-2", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["name"], row["message"]) == ("'=HYPERLINK(1)", "'+1")
    assert (row["current"], row["total"], row["status"]) == ("6", "6", "completed")


def test_a_file_that_cannot_be_written_is_told(store: str, tmp_path: Path) -> None:
    """With the reason; nothing half-written is left."""
    result = run("--store", store, "export", "backup-2", "-o", str(tmp_path / "no" / "dir.json"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: Cannot write ")
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
def test_no_escape_passes(store: str, line: str) -> None:
    """Whatever stands in the journal or on the command line, nothing a terminal would obey comes out."""
    result = run(
        "--store",
        store,
        "--color",
        "never",
        *line.split(" "),
        env={"OTEL_PROGRESS_EVIL": EVIL.replace("\r\n", "")},
    )
    assert not UNSAFE & set(result.stdout + result.stderr)


def test_colours_are_a_choice(store: str) -> None:
    """A pipe gets none unless asked; NO_COLOR and FORCE_COLOR are obeyed."""
    assert "\x1b[" not in run("--store", store, "ls").stdout
    assert "\x1b[" in run("--store", store, "--color", "always", "ls").stdout
    assert "\x1b[" in run("--store", store, "ls", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[" not in run("--store", store, "ls", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout


def test_every_command_has_help_with_examples() -> None:
    """A first sentence, a description of every option, and lines to copy."""
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


def test_the_version_is_told() -> None:
    """Also when the package runs from its sources."""
    assert re.fullmatch(r"otel-progress (\d+\.\d+\.\S+|\(not installed\))\n", run("--version").stdout)


@pytest.mark.process
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    """One that calls the command under its own name."""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_OTEL_PROGRESS_COMPLETE" in result.stdout


def test_ids_are_completed(store: str) -> None:
    """From the journal that the environment names; when it cannot be read, to nothing."""
    env = {
        "_OTEL_PROGRESS_COMPLETE": "bash_complete",
        "COMP_WORDS": "otel-progress show back",
        "COMP_CWORD": "2",
    }
    result = run(env={**env, "OTEL_PROGRESS_STORE": store})
    assert sorted(result.stdout.split()) == ["plain,backup-1", "plain,backup-2"]
    assert run(env={**env, "OTEL_PROGRESS_STORE": "nonsense"}).stdout.strip() == ""
