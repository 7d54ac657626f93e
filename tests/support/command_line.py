"""The command line in tests, with a journal of operations of this machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from otel_progress.cli import cli
from otel_progress.journal import SqliteJournal
from otel_progress.model import Failure, LevelSnapshot, Outcome, Status
from otel_progress.protocols import ChangeSet
from tests.support.factories import ended, event, local_instance, make_change_set, snapshot

_OF_THE_TERMINAL = frozenset(
    {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"}
)

EVIL = "\x1b]0;evil\x07[bold]\r\nline\u202e\x9b2J"
"""Text that must not reach a terminal unescaped."""


TIMEOUT_S = 120.0
"""Deadline for a command in its own process, generous because the machine may be busy."""


def url_of(path: Path) -> str:
    """Return the store URL of a file."""
    return f"sqlite:///{path}"


def fill(path: Path) -> None:
    """Write a journal with a running, abandoned, failed and completed operation."""
    now, clock = time.time(), time.monotonic()
    here = local_instance(os.getpid())
    moments = {
        "started_at": now - 63,
        "started_clock": clock - 63,
        "observed_at": now,
        "observed_clock": clock,
    }
    moments |= {"advanced_at": now, "advanced_clock": clock, "instance": here.id}
    journal = SqliteJournal(path)
    running = (
        snapshot(
            current=21,
            total=50,
            unit="song",
            ratio=0.42,
            failed=2,
            message="Mixing",
            metadata={"rate": 44100},
            **moments,
        ),
        snapshot("song:12", current=3, total=10, ratio=0.3, name="Blue", order=1, **moments),
        snapshot("song:12/action:1", current=3, name="Export", **moments),
        ended(
            "song:13",
            name="Red",
            status=Status.FAILED,
            error=Failure("ValueError", "bad rate", "Traceback\n  line 7"),
            order=2,
        ),
    )
    items = (
        event(1, "song:12", name="a.wav", outcome=Outcome.FAILED, error=Failure("OSError", "gone")),
        event(2, "song:12", name="=cmd", outcome=Outcome.COMPLETED),
    )
    journal.write(make_change_set(*running, events=items, instance=here, at=now, clock=clock))
    failed = ended(
        run="r2", operation_id="backup-1", id="backup-1", operation_type="backup", type="backup",
        name=EVIL, message=EVIL,
        current=5, total=6, ratio=5 / 6, status=Status.FAILED, error=Failure("OSError", EVIL),
        metadata={EVIL: EVIL},
        ended_at=now - 60, instance=here.id,
    )  # fmt: skip
    done = ended(
        run="r3", operation_id="backup-2", id="backup-2", operation_type="backup", type="backup",
        name="=HYPERLINK(1)",
        current=6, total=6, ratio=1.0, message="+1", ended_at=now - 30, instance=here.id,
    )  # fmt: skip
    journal.write(make_change_set(failed, done, instance=here, at=now, clock=clock))
    journal.write(
        make_change_set(snapshot(run="r4", operation_id="lost", id="lost", ratio=0.1), at=now - 3600.0)
    )
    journal.close()


def present(*snapshots: LevelSnapshot, **fields: Any) -> ChangeSet:
    """Return a change set of this process and of now.

    Readers do not consider its operations abandoned.
    """
    return make_change_set(
        *snapshots, instance=local_instance(os.getpid()), at=time.time(), clock=time.monotonic(), **fields
    )


def clean_environ() -> dict[str, str]:
    """Return the environment without our settings and those of terminal or CI."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and name not in _OF_THE_TERMINAL
    }


def run(*arguments: str, env: dict[str, str | None] | None = None) -> Result:
    """Run a command line in this process, in a clean environment."""
    clean: dict[str, str | None] = dict.fromkeys(os.environ.keys() - clean_environ().keys())
    return CliRunner().invoke(cli, list(arguments), env={**clean, **(env or {})}, prog_name="otel-progress")


def documents(result: Result) -> list[dict[str, Any]]:
    """Return the JSON documents of a command's output, one per line."""
    return [json.loads(line) for line in result.stdout.splitlines()]
