"""``doctor``: checks of the installation, with a fix for each problem."""

from __future__ import annotations

import os

import click

from otel_progress.cli.checks import run_checks
from otel_progress.cli.context import CliContext
from otel_progress.cli.findings import Finding
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
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def doctor(context: CliContext, as_json: bool) -> None:
    """Check the installation, the journal and the environment.

    Exits with 1 if there is a problem.
    """
    findings = run_checks(context, os.environ)
    if as_json:
        entries = [
            {"check": finding.check, "state": finding.state, "text": finding.text} for finding in findings
        ]
        echo_json({"schema": SCHEMA, "findings": entries})
    else:
        for finding in findings:
            _write_finding(finding)
    if any(finding.state == "problem" for finding in findings):
        raise click.exceptions.Exit(1)


def _write_finding(finding: Finding) -> None:
    echo(f"{style_text(f'{finding.state:<8}', _STYLES[finding.state])} {finding.check:<12} {finding.text}")
