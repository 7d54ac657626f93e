"""Arguments of ``update``, ``level`` and ``run``."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from otel_progress.cli import cli, direct_update
from otel_progress.cli.direct_update import run_update
from otel_progress.updates.client import UpdateError


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect the values of updates instead of sending them."""
    collected: list[dict[str, Any]] = []

    def send_update(values: dict[str, Any], environ: object, *, is_optional: bool) -> int:
        del environ
        collected.append({**values, "optional": is_optional})
        return 0

    monkeypatch.setattr(direct_update, "send_update", send_update)
    return collected


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--current", "5"], {"current": 5}),
        (["--current=5.5", "--total=10"], {"current": 5.5, "total": 10}),
        (["--increment", "1", "--message", "a b"], {"increment": 1, "message": "a b"}),
        (["--message=", "--path", "song:1"], {"message": "", "path": "song:1"}),
        (["--message=--x", "--if-available"], {"message": "--x"}),
    ],
)
def test_direct_update_sends_valid_options(
    sent: list[dict[str, Any]], arguments: list[str], values: dict[str, Any]
) -> None:
    assert run_update(arguments, {}) == 0
    assert sent == [{**values, "optional": "--if-available" in arguments}]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--path", "a:1"],
        ["--current"],
        ["--current", "x"],
        ["--current", "-1"],
        ["--current", "nan"],
        ["--current", "1e400"],
        ["--current", "1", "--increment", "1"],
        ["--message", "--total", "5"],
        ["--unknown", "5"],
        ["5"],
        ["--if-available=1"],
    ],
)
def test_direct_update_leaves_other_options_to_the_command_line(
    sent: list[dict[str, Any]], arguments: list[str]
) -> None:
    assert run_update(arguments, {}) is None
    assert sent == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["update"], "expected --current, --increment, --total or --message"),
        (["update", "--current", "1", "--increment", "1"], "expected one of them"),
        (["update", "--current", "x"], "'x' is not a number of at least 0"),
        (["level", "song"], "expected one of -- COMMAND, --start and --end"),
        (["level", "song", "1", "--start", "--end"], "expected one of -- COMMAND, --start and --end"),
        (["level", "song", "--end"], "expected an ID with --end"),
        (["level", "song", "1", "--end", "--", "true"], "expected one of -- COMMAND, --start and --end"),
        (["run"], "Missing argument"),
        (["run", "--parse", "x", "--", "true"], "'x' is not one of 'auto'"),
        (["run", "--grace", "-1", "--", "true"], "-1.0 is not in the range"),
    ],
)
def test_command_with_invalid_arguments_exits_with_2(arguments: list[str], error: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert error in result.output


def test_error_of_update_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert direct_update._report(UpdateError("a\nb\x1b[2J")) == 1
    assert capsys.readouterr().err == "error: a b\\x1b[2J\n"
