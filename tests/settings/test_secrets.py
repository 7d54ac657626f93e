"""Settings with a secret or several types of values."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from otel_progress import ConfigurationError
from otel_progress.cli.checks import run_checks
from otel_progress.cli.context import CliContext
from otel_progress.settings.fields import SETTINGS, Settings
from otel_progress.testing import recording

TOKEN = "a-token_with.24~chars/+="
INVALID_TOKENS = [
    "short",
    "x" * 15,
    "with a space in it all",
    "line\nbreak-line-break",
    "nul\x00nul-nul-nul-nul",
    "ünïcödé-ünïcödé-ü",
    "x" * 16,
    "aaaaaaaaaaaaaaab",
    "abababababababab",
    "1234567890123456",
    "abcdefghijklmnop",
    "qwertyuiopasdfgh",
    "passwordpassword",
    "secret-secret-secr",
    "Changeme1changeme1",
    "x" * 5000,
]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """File with a token and a newline at its end."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", encoding="ascii")
    return path


def test_token_of_argument_variable_and_file_is_the_same(token_file: Path) -> None:
    """The file may be given as a Path."""
    assert Settings().with_arguments(token=TOKEN).read_token() == TOKEN
    assert Settings.from_environ({"OTEL_PROGRESS_TOKEN": f" {TOKEN} "}).read_token() == TOKEN
    assert Settings.from_environ({"OTEL_PROGRESS_TOKEN_FILE": str(token_file)}).read_token() == TOKEN
    assert Settings().with_arguments(token_file=token_file).read_token() == TOKEN
    assert Settings().read_token() is None


def test_token_file_is_read_at_each_use(token_file: Path) -> None:
    """A changed token is returned."""
    settings = Settings().with_arguments(token_file=str(token_file))
    token_file.write_text("another-token-of-24-chars", encoding="ascii")
    assert settings.read_token() == "another-token-of-24-chars"


def test_token_and_token_file_together_are_rejected(token_file: Path) -> None:
    """An argument of one kind replaces the variable of the other."""
    with pytest.raises(ConfigurationError, match="both are set"):
        Settings.from_environ({"OTEL_PROGRESS_TOKEN": TOKEN, "OTEL_PROGRESS_TOKEN_FILE": str(token_file)})
    with pytest.raises(ConfigurationError, match="both are set"):
        Settings().with_arguments(token=TOKEN, token_file=str(token_file))
    other_token = "quite-another-token-here"
    from_variable = Settings.from_environ({"OTEL_PROGRESS_TOKEN": other_token})
    assert from_variable.with_arguments(token_file=str(token_file)).read_token() == TOKEN
    from_file = Settings.from_environ({"OTEL_PROGRESS_TOKEN_FILE": str(token_file)})
    assert from_file.with_arguments(token=other_token).read_token() == other_token


@pytest.mark.parametrize("token", INVALID_TOKENS, ids=range(len(INVALID_TOKENS)))
def test_invalid_token_is_rejected_and_not_shown(token: str, tmp_path: Path) -> None:
    """The error contains the valid characters and a command."""
    path = tmp_path / "token"
    path.write_bytes(token.encode())
    attempts = [
        lambda: Settings().with_arguments(token=token),
        lambda: Settings.from_environ({"OTEL_PROGRESS_TOKEN": token}),
        lambda: Settings().with_arguments(token_file=str(path)).read_token(),
    ]
    for attempt in attempts:
        with pytest.raises(
            ConfigurationError, match=r"(16 to 4096 characters|a random text).*secrets.token_urlsafe"
        ) as error:
            attempt()
        assert token not in str(error.value)
        assert token[:10] not in str(error.value) or token == "short"
        assert error.value.__cause__ is None


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_token_file_is_rejected(content: bytes, tmp_path: Path) -> None:
    """Otherwise the server would be open."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="it is empty, expected 16"):
        Settings().with_arguments(token_file=str(path)).read_token()


@pytest.mark.parametrize("name", ["absent", "folder", "nul\x00", ""])
def test_unreadable_token_file_is_rejected(name: str, tmp_path: Path) -> None:
    """The error contains the reason."""
    (tmp_path / "folder").mkdir()
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(ConfigurationError, match=r"cannot be read|expected the path of a file"):
        Settings.with_arguments(Settings(), token_file=path).read_token()


def test_token_is_not_shown_in_repr_differences_and_doctor() -> None:
    """Doctor reports only that it is set."""
    settings = Settings().with_arguments(token=TOKEN)
    assert TOKEN not in repr(settings)
    with recording(token=TOKEN) as recorder:
        again = recorder.runtime.settings.with_arguments(token="quite-another-token-here")
        differences = recorder.runtime.settings.list_differences(again, {"token": 1})
        assert differences == ["token: another value"]
    shown = str(run_checks(CliContext("memory:", None), {**os.environ, "OTEL_PROGRESS_TOKEN": TOKEN}))
    assert "OTEL_PROGRESS_TOKEN=(set, hidden)" in shown
    assert TOKEN not in shown


def test_doctor_reports_token_file_redaction_and_captured_logs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A password in a variable is not shown."""
    environ = {
        "OTEL_PROGRESS_TOKEN_FILE": str(tmp_path / "absent"),
        "OTEL_PROGRESS_REDACT": "off",
        "OTEL_PROGRESS_CAPTURE_LOGS": "warning",
        "OTEL_PROGRESS_SERVICE_NAME": "db://me:hunter2@host",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    findings = {
        (finding.check, finding.state): finding.text
        for finding in run_checks(CliContext("memory:", None), environ)
    }
    assert "cannot be read" in findings["token", "problem"]
    assert "is off" in findings["redaction", "note"]
    assert "WARNING" in findings["logs", "ok"]
    assert "hunter2" not in str(findings)


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
def test_setting_accepts_arguments_and_texts_of_variables(name: str, given: Any, expected: Any) -> None:
    """The text of a variable has the same result as an argument."""
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
def test_invalid_setting_is_rejected_with_its_name(name: str, given: Any, expected: str) -> None:
    """The error contains what is valid."""
    with pytest.raises(ConfigurationError, match=f"^Invalid argument {name}.*: expected {expected}"):
        Settings().with_arguments(**{name: given})


def test_token_and_urls_of_health_checks_are_the_only_secret_settings() -> None:
    """All other settings are shown."""
    assert [setting.name for setting in SETTINGS if setting.secret] == ["token", "report_to"]


def test_random_tokens_are_accepted() -> None:
    """Of the shortest length, with few kinds of characters."""
    random = Random(7)
    for characters in ("0123456789abcdef", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHabcdefgh0123-_"):
        for _ in range(2_000):
            token = "".join(random.choices(characters, k=16))
            assert Settings().with_arguments(token=token).read_token() == token
