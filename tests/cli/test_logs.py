"""``logs``: what is selected, how it looks, and that it follows a run to its end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from otel_progress.codec import decode_log
from otel_progress.journal import SqliteJournal
from otel_progress.model import LevelSnapshot
from otel_progress.records import LogRecord
from tests.support.cli_process import finish, interrupt, start
from tests.support.command_line import EVIL, documents, present, run
from tests.support.factories import ended, local_instance, snapshot

UNSAFE = set("\x1b\x07\r\u202e\x9b")
NOW = time.time()


def record(number: int, message: str = "hello", **fields: object) -> LogRecord:
    """Return a record of the operation that runs in the journal of ``fill``."""
    values: dict[str, object] = {
        "operation_id": "friday-42",
        "operation_type": "setlist",
        "run": "run-1",
        "path": "",
        "at": NOW - 100 + number,
        "severity": 20,
        "severity_text": "INFO",
        "logger": "mixer",
    }
    return LogRecord(number=number, message=message, **{**values, **fields})  # type: ignore[arg-type]


def done() -> LevelSnapshot:
    """Return the end of that operation, now: one of long ago would be past retention."""
    return ended(sequence=9, instance=local_instance(os.getpid()).id, ended_at=time.time())


@pytest.fixture
def logged(store: str, tmp_path: Path) -> str:
    """A journal with records of all severities."""
    records = (
        record(1, "one", severity=10, severity_text="DEBUG"),
        record(2, "two\nsecond line", path="song:12"),
        record(3, "three", path="song:12/action:1", severity=30, severity_text="WARNING"),
        record(4, EVIL, severity=40, severity_text="ERROR", logger=EVIL, details=f"Traceback\n  {EVIL}"),
        record(5, "five", path="song:120", severity=35, severity_text=EVIL),
    )
    journal = SqliteJournal(tmp_path / "progress.db")
    journal.write(present(logs=records))
    journal.close()
    return store


def numbers(store: str, *arguments: str) -> list[int]:
    """Return the numbers of the records that are shown."""
    (document,) = documents(run("--store", store, "logs", "friday-42", *arguments, "--json"))
    return [entry["number"] for entry in document["logs"]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), [1, 2, 3, 4, 5]),
        (("--severity", "warning"), [3, 4, 5]),
        (("--severity", "35"), [4, 5]),
        (("--path", "song:12"), [2, 3]),
        (("--limit", "2"), [4, 5]),
        (("--since", "24h"), [1, 2, 3, 4, 5]),
        (("--since", str(NOW - 96.5)), [4, 5]),
        (("--since", "2100-01-01T00:00:00Z"), []),
        (("--severity", "CRITICAL"), []),
    ],
)
def test_logs_selects(logged: str, arguments: tuple[str, ...], expected: list[int]) -> None:
    """By severity, place, time and number; a path is no prefix of a name."""
    assert numbers(logged, *arguments) == expected


def test_logs_as_json_can_be_read_back(logged: str) -> None:
    """One document with the schema, the operation and its records."""
    (document,) = documents(run("--store", logged, "logs", "fri", "--json"))
    assert (document["operation_id"], document["run"]) == ("friday-42", "run-1")
    assert decode_log(document["logs"][1]) == record(2, "two\nsecond line", path="song:12")


def test_logs_are_lines_that_no_terminal_is_harmed_by(logged: str) -> None:
    """Time, severity, logger, place and message; more lines and tracebacks are indented; escapes are shown, not obeyed."""
    text = run("--store", logged, "logs", "friday-42").stdout
    assert " INFO     mixer song:12: two\n    second line\n" in text
    assert "\n    Traceback\n" in text
    assert "\\x1b]0;evil" in text
    assert not UNSAFE & set(text)
    assert "[bold]" in text


def test_severities_have_colours(logged: str) -> None:
    """Red from ERROR on, yellow from WARNING on, dim below INFO, when colours are wanted."""
    text = run("--store", logged, "--color", "always", "logs", "friday-42").stdout
    assert "\x1b[33mWARNING" in text
    assert "\x1b[31mERROR" in text
    assert "\x1b[2mDEBUG" in text
    assert "\x1b" not in run("--store", logged, "--color", "never", "logs", "friday-42").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--severity", "loud"),
            "'loud' is no severity; expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, or a number",
        ),
        (("--severity", "-1"), "'-1' is no severity"),
        (("--severity", "9999"), "'9999' is no severity"),
        (("--since", "soon"), "'soon' is no moment; expected how long ago (90s, 15m, 24h, 7d)"),
        (("--since", "nan"), "is no moment"),
        (("--since", ""), "is no moment"),
        (("--since", "9" * 400), "is no moment"),
        (("--since", "\x1b[2J"), "'\\x1b[2J' is no moment"),
        (("--limit", "0"), "not in the range"),
    ],
)
def test_a_wrong_selection_ends_with_2(store: str, arguments: tuple[str, ...], expected: str) -> None:
    """What was wrong and what was expected, on one line."""
    result = run("--store", store, "logs", "friday-42", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


def test_no_records_says_how_to_get_some(store: str) -> None:
    """Work keeps its logs when it was told to."""
    result = run("--store", store, "logs", "friday-42")
    assert (result.exit_code, result.stdout) == (
        0,
        "No log records. Work keeps them when it is configured with capture_logs=True.\n",
    )


def test_logs_of_what_is_not_there(store: str) -> None:
    """Like every command with an id."""
    result = run("--store", store, "logs", "firday-42")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: There is no operation 'firday-42'. Did you mean friday-42?\n",
    )


@pytest.mark.process
def test_follow_goes_on_until_the_operation_has_ended(logged: str, tmp_path: Path) -> None:
    """Each record is written once, also the one kept together with the end; then the command ends with 0."""
    process = start(
        logged, "logs", "friday-42", "--follow", "--severity", "INFO", "--interval", "0.05", "--json"
    )
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline())["number"] for _ in range(4)]
    journal = SqliteJournal(tmp_path / "progress.db")
    journal.write(present(logs=(record(6, "six"), record(7, severity=10))))
    seen.append(json.loads(process.stdout.readline())["number"])
    journal.write(present(done(), logs=(record(8, "the end"),)))
    rest, errors = finish(process)
    journal.close()
    assert [*seen, *(json.loads(line)["number"] for line in rest.splitlines())] == [2, 3, 4, 5, 6, 8]
    assert (process.returncode, errors) == (0, "")


def test_following_what_has_ended_ends_at_once(store: str) -> None:
    """There is nothing to wait for."""
    result = run("--store", store, "logs", "backup-2", "--follow")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.process
def test_ctrl_c_ends_follow_with_0(logged: str, tmp_path: Path) -> None:
    """It is how it is ended: no traceback, no complaint."""
    process = start(logged, "logs", "friday-42", "--follow", "--json")
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    errors = interrupt(process, tmp_path / "progress.db", present(logs=(record(6),)))
    assert (process.returncode, errors) == (0, "")


@pytest.mark.process
def test_a_new_run_of_the_id_is_not_mixed_in(logged: str, tmp_path: Path) -> None:
    """A follower belongs to one run: it ends when that run ends, though the id runs again."""
    process = start(logged, "logs", "friday-42", "--follow", "--interval", "0.05", "--json")
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    journal = SqliteJournal(tmp_path / "progress.db")
    again = snapshot(
        run="run-2",
        started_at=time.time(),
        started_clock=time.monotonic(),
        instance=local_instance(os.getpid()).id,
    )
    journal.write(present(done(), again, logs=(record(1, "of the new run", run="run-2"),)))
    rest, _ = finish(process)
    journal.close()
    assert "of the new run" not in rest
    assert process.returncode == 0
