"""``doctor``: looks at everything that can be wrong, and says what to do about it."""

from __future__ import annotations

import os

import click

from otel_progress.cli.checks import Finding, run_checks
from otel_progress.cli.context import CliContext
from otel_progress.cli.output import echo, echo_json, style_text
from otel_progress.codec import SCHEMA

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@click.command(
    epilog="""\b
Examples:
  otel-progress doctor
  otel-progress doctor --json
  otel-progress --store sqlite:////data/progress.db doctor
"""
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_obj
def doctor(scope: CliContext, as_json: bool) -> None:
    """Check the installation, the journal and the environment; exit with 1 when something is wrong."""
    findings = run_checks(scope, os.environ)
    if as_json:
        entries = [{"check": entry.check, "state": entry.state, "text": entry.text} for entry in findings]
        echo_json({"schema": SCHEMA, "findings": entries})
    else:
        for entry in findings:
            _write_finding(entry)
    if any(entry.state == "problem" for entry in findings):
        raise click.exceptions.Exit(1)


def _write_finding(entry: Finding) -> None:
    echo(f"{style_text(f'{entry.state:<8}', _STYLES[entry.state])} {entry.check:<12} {entry.text}")
