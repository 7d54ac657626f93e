"""The command line over a journal of 0.1.0: outputs, help and completion.

Another host wrote the operations long ago, so readers consider the running ones abandoned at any
time.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.golden.console import commands, help_of, invoke
from tests.support.golden.files import DATA, Golden
from tests.support.golden.sample_journal import TEXT

COMMANDS = {
    "ls": ("ls",),
    "ls-all": ("ls", "--all"),
    "ls-batches": ("ls", "--batches"),
    "ls-json": ("ls", "--json"),
    "ls-all-json": ("ls", "--all", "--json"),
    "ls-color": ("--color", "always", "ls", "--all"),
    "history": ("history",),
    "history-json": ("history", "--json"),
    "history-bad": ("history", "--since", "soon"),
    "show": ("show", "friday-42"),
    "show-errors": ("show", "friday-42", "--errors"),
    "show-prefix": ("show", "frid"),
    "show-json": ("show", "friday-42", "--json"),
    "show-failed": ("show", "failed-1", "--errors"),
    "show-batch": ("show", "thumbnails"),
    "show-batch-json": ("show", "thumbnails", "--json"),
    "show-text": ("show", TEXT),
    "show-color": ("--color", "always", "show", "friday-42"),
    "show-missing": ("show", "fridey-42"),
    "show-exit-status": ("show", "failed-1", "--exit-status"),
    "logs": ("logs", "friday-42"),
    "logs-json": ("logs", "friday-42", "--json"),
    "logs-bad": ("logs", "friday-42", "--path"),
    "export": ("export", "friday-42"),
    "export-jsonl": ("export", "friday-42", "--format", "jsonl"),
    "export-csv": ("export", "friday-42", "--format", "csv"),
    "cancel": ("cancel", "lost-1"),
    "cancel-json": ("cancel", "lost-1", "--reason", "enough", "--json"),
    "cancel-ended": ("cancel", "done-1"),
    "rm": ("rm", "done-1"),
    "rm-json": ("rm", "done-1", "failed-1", "--json"),
    "rm-prefix": ("rm", "done"),
    "watch-ended": ("watch", "done-1", "--exit-status"),
    "unknown-command": ("lss",),
    "unknown-option": ("ls", "--nothing"),
}
"""Command lines by the name of their golden file."""

CHANGING = (
    (re.compile(r'"(elapsed|remaining)_seconds": ?[0-9.]{9,}'), r'"\1_seconds":AGE'),
    (re.compile(r'"throughput": ?[0-9.e-]+'), '"throughput":RATE'),
    (re.compile(r"\b\d{3,}d \d\dh\b"), "AGE"),
    (re.compile(r"\b20(?!23)\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"), "MOMENT"),
)
"""Values that depend on the time of reading: the age of running batches and values derived from it.
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the journal of 0.1.0; times are shown in UTC."""
    path = tmp_path / "progress.db"
    shutil.copy(DATA / "journal" / "v0.1.0.db", path)
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield path
    time.tzset()


@pytest.mark.parametrize("name", COMMANDS)
def test_command_over_old_journal_prints_golden_output(golden: Golden, journal: Path, name: str) -> None:
    """Exit code, output and errors."""
    text = invoke(journal, *COMMANDS[name])
    for pattern, replacement in CHANGING:
        text = pattern.sub(replacement, text)
    golden.text(f"cli/{name}.txt", text)


def test_command_without_journal_fails_with_golden_error(golden: Golden, tmp_path: Path) -> None:
    """A missing file, a file that is not a journal, and an in-memory journal."""
    golden.text("cli/no-journal.txt", invoke(tmp_path / "missing.db", "ls"))
    (tmp_path / "text.db").write_text("no journal" * 1000)
    golden.text("cli/bad-journal.txt", invoke(tmp_path / "text.db", "ls"))


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_equals_golden_file(golden: Golden, name: str) -> None:
    """The help of every command."""
    golden.needs("click")
    golden.text(f"cli/{name or 'otel-progress'}.help", help_of(*filter(None, [name])))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_equals_golden_file(golden: Golden, journal: Path, shell: str) -> None:
    """The completion script of a shell."""
    golden.needs("click")
    golden.text(f"cli/completion-{shell}.txt", invoke(journal, "completion", shell))


def test_doctor_checks_have_golden_names(golden: Golden, journal: Path) -> None:
    """The names of doctor's checks. Their results depend on the machine."""
    text = invoke(journal, "doctor", "--json")
    golden.lines("cli/doctor.txt", list(dict.fromkeys(re.findall(r'"check": ?"([^"]*)"', text))))
