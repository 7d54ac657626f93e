"""Plan of the streams of a command, for every kind of terminal, pipe and file."""

from __future__ import annotations

import pytest

from otel_progress.runner.streams import StreamPlan, plan_streams


@pytest.mark.parametrize(
    ("terminals", "is_parsing", "shares_output", "expected"),
    [
        ({0, 1, 2}, False, True, ("inherit", "inherit", "inherit")),
        ({0, 1, 2}, True, True, ("terminal", "terminal", "terminal")),
        ({0, 1}, True, False, ("terminal", "terminal", "pipe")),
        ({0, 2}, True, False, ("terminal", "pipe", "terminal")),
        ({1, 2}, True, True, ("inherit", "terminal", "terminal")),
        ({0}, True, False, ("inherit", "pipe", "pipe")),
        ({0}, True, True, ("inherit", "pipe", "stdout-pipe")),
        ({0, 2}, False, False, ("inherit", "inherit", "inherit")),
        ({0, 1}, False, False, ("inherit", "inherit", "pipe")),
        (set(), False, False, ("inherit", "inherit", "pipe")),
        (set(), False, True, ("inherit", "pipe", "stdout-pipe")),
        (set(), True, False, ("inherit", "pipe", "pipe")),
    ],
)
def test_plan_keeps_terminals_and_the_order_of_output(
    terminals: set[int], is_parsing: bool, shares_output: bool, expected: tuple[str, str, str]
) -> None:
    plan = plan_streams(
        terminals=frozenset(terminals),
        is_parsing=is_parsing,
        shares_output=shares_output,
        forces_terminal=False,
    )
    assert (plan.stdin, plan.stdout, plan.stderr) == expected


def test_plan_with_forced_terminal_has_one() -> None:
    plan = plan_streams(terminals=frozenset(), is_parsing=False, shares_output=False, forces_terminal=True)
    assert plan == StreamPlan("inherit", "terminal", "terminal")
    assert plan.has_terminal
