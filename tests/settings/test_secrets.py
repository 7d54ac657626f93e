"""Settings that carry a secret or more than one kind of value: what is taken, what is refused, and that no token is ever shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from otel_progress import ConfigurationError
from otel_progress.cli.checks import run_checks
from otel_progress.cli.context import CliContext
from otel_progress.settings.fields import SETTINGS, Settings
from otel_progress.testing import recording

TOKEN = "a-token_with.24~chars/+="
BAD_TOKENS = [
    "short",
    "x" * 15,
    "with a space in it all",
    "line\nbreak-line-break",
    "nul\x00nul-nul-nul-nul",
    "ünïcödé-ünïcödé-ü",
    "x" * 5000,
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a token, ending as editors end files."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", encoding="ascii")
    return path


def test_a_token_is_taken_from_wherever_it_is(file: Path) -> None:
    """Argument, variable and file give the same token; a path may be a Path."""
    assert Settings().with_arguments(token=TOKEN).read_token() == TOKEN
    assert Settings.from_environ({"OTEL_PROGRESS_TOKEN": f" {TOKEN} "}).read_token() == TOKEN
    assert Settings.from_environ({"OTEL_PROGRESS_TOKEN_FILE": str(file)}).read_token() == TOKEN
    assert Settings().with_arguments(token_file=file).read_token() == TOKEN
    assert Settings().read_token() is None


def test_the_file_is_read_when_it_is_needed(file: Path) -> None:
    """A token that was changed since is the new one."""
    settings = Settings().with_arguments(token_file=str(file))
    file.write_text("another-token-of-24-chars", encoding="ascii")
    assert settings.read_token() == "another-token-of-24-chars"


def test_one_of_both(file: Path) -> None:
    """Both at once is refused; an argument of one kind takes the place of the environment's of the other."""
    with pytest.raises(ConfigurationError, match="both set"):
        Settings.from_environ({"OTEL_PROGRESS_TOKEN": TOKEN, "OTEL_PROGRESS_TOKEN_FILE": str(file)})
    with pytest.raises(ConfigurationError, match="both set"):
        Settings().with_arguments(token=TOKEN, token_file=str(file))
    other = "quite-another-token-here"
    environ = Settings.from_environ({"OTEL_PROGRESS_TOKEN": other})
    assert environ.with_arguments(token_file=str(file)).read_token() == TOKEN
    from_file = Settings.from_environ({"OTEL_PROGRESS_TOKEN_FILE": str(file)})
    assert from_file.with_arguments(token=other).read_token() == other


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=range(len(BAD_TOKENS)))
def test_a_bad_token_is_refused_and_not_shown(bad: str, tmp_path: Path) -> None:
    """Too short, too long, or not to be sent: refused with what was expected and how to make one, never with the token."""
    path = tmp_path / "token"
    path.write_bytes(bad.encode())
    attempts = [
        lambda: Settings().with_arguments(token=bad),
        lambda: Settings.from_environ({"OTEL_PROGRESS_TOKEN": bad}),
        lambda: Settings().with_arguments(token_file=str(path)).read_token(),
    ]
    for attempt in attempts:
        with pytest.raises(
            ConfigurationError, match=r"16 to 4096 characters.*secrets.token_urlsafe"
        ) as error:
            attempt()
        assert bad not in str(error.value)
        assert bad[:10] not in str(error.value) or bad == "short"
        assert error.value.__cause__ is None


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_token_file(content: bytes, tmp_path: Path) -> None:
    """An empty file is no token, or the server would stand open."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is empty; expected 16"):
        Settings().with_arguments(token_file=str(path)).read_token()


@pytest.mark.parametrize("name", ["absent", "folder", "nul\x00", ""])
def test_an_unreadable_token_file(name: str, tmp_path: Path) -> None:
    """A file that cannot be read is named with the reason."""
    (tmp_path / "folder").mkdir()
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(ConfigurationError, match=r"cannot be read|expected the path of a file"):
        Settings.with_arguments(Settings(), token_file=path).read_token()


def test_a_token_is_shown_nowhere() -> None:
    """Neither the settings' text, nor a contradiction, nor doctor has it."""
    settings = Settings().with_arguments(token=TOKEN)
    assert TOKEN not in repr(settings)
    with recording(token=TOKEN) as recorder:
        again = recorder.runtime.settings.with_arguments(token="quite-another-token-here")
        differences = recorder.runtime.settings.differences(again, {"token": 1})
        assert differences == ["token: another one"]
    shown = str(run_checks(CliContext("memory:", None), {**os.environ, "OTEL_PROGRESS_TOKEN": TOKEN}))
    assert "OTEL_PROGRESS_TOKEN=(set, hidden)" in shown
    assert TOKEN not in shown


def test_doctor_looks_at_what_is_observed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Doctor tells an unreadable token file, redaction that is off, captured logs, and a password in the store's address."""
    environ = {
        "OTEL_PROGRESS_TOKEN_FILE": str(tmp_path / "absent"),
        "OTEL_PROGRESS_REDACT": "off",
        "OTEL_PROGRESS_CAPTURE_LOGS": "warning",
        "OTEL_PROGRESS_SERVICE_NAME": "db://me:hunter2@host",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = {
        (finding.check, finding.state): finding.text
        for finding in run_checks(CliContext("memory:", None), environ)
    }
    assert "cannot be read" in found["token", "problem"]
    assert "is off" in found["redaction", "note"]
    assert "WARNING" in found["logs", "ok"]
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("redact", "off", False),
        ("redact", True, True),
        ("resources", "auto", "auto"),
        ("resources", "no", False),
        ("server_port", "0", 0),
        ("server_host", "::1", "::1"),
        ("capture_logs", "error", 40),
    ],
)
def test_values(name: str, given: Any, expected: Any) -> None:
    """Each setting takes its kinds of values, as an argument and, as text, from its variable."""
    assert getattr(Settings().with_arguments(**{name: given}), name) == expected
    if isinstance(given, str):
        assert getattr(Settings.from_environ({f"OTEL_PROGRESS_{name.upper()}": given}), name) == expected


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("redact", "sometimes", "true, false, or"),
        ("redact", 5, "true, false, or"),
        ("resources", "gpu", "auto, true or false"),
        ("server_port", 70_000, "a port from 0"),
        ("server_host", "", "a text that is not empty"),
        ("token", 5, "16 to 4096"),
        ("token_file", 5, "the path of a file"),
    ],
)
def test_bad_values(name: str, given: Any, expected: str) -> None:
    """What cannot be used is refused by name, with what was expected."""
    with pytest.raises(ConfigurationError, match=f"the argument {name} is .*; expected {expected}"):
        Settings().with_arguments(**{name: given})


def test_only_the_token_is_secret() -> None:
    """Whoever adds a secret setting marks it; the others are shown."""
    assert [setting.name for setting in SETTINGS if setting.secret] == ["token"]
