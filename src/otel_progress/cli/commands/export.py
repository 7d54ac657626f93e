"""``export``: one operation as a document, as lines, or as a table, for other programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import click

from otel_progress.assets import Bundle, read_bundle
from otel_progress.cli.context import CliContext, complete_id, find
from otel_progress.cli.output import CliError, echo, say_json
from otel_progress.codec import SCHEMA
from otel_progress.exports import EXPORTERS
from otel_progress.protocols import EventQuery
from otel_progress.text import escape_controls

_ALL_EVENTS: Final = 10_000_000


@click.command(
    epilog="""\b
json   the operation with its levels and events, one document
jsonl  one line for the operation, each level and each event; "record" says which
csv    one row for the operation and each level; text a spreadsheet could take for a formula gets a ' in front

\b
Examples:
  otel-progress export friday-42 --format json -o friday.json
  otel-progress export friday-42 --format jsonl | jq 'select(.record == "event")'
  otel-progress export friday-42 --format csv -o friday.csv
"""
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id)
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(EXPORTERS)),
    default="json",
    show_default=True,
    help="What to write.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; - or nothing is stdout.",
)
@click.pass_obj
def export(scope: CliContext, operation_id: str, format_: str, output: Path | None) -> None:
    """Write one operation with its levels and events."""
    with scope.reader() as reader:
        operation = find(reader, operation_id)
        events = (
            () if format_ == "csv" else reader.events(operation.operation_id, EventQuery(limit=_ALL_EVENTS))
        )
    lines = EXPORTERS[format_](operation, events)
    if output is None or str(output) == "-":
        encoding = sys.stdout.encoding or "utf-8"
        for line in lines:
            click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
        return
    _save(output, lines)


def _save(path: Path, lines: Iterator[str]) -> None:
    """Write a file at once or not at all."""
    try:
        with NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name[:100]}.", delete=False, encoding="utf-8", newline="\n"
        ) as file:
            part = Path(file.name)
            try:
                file.writelines(f"{line}\n" for line in lines)
                file.close()
                part.replace(path)
            except BaseException:
                file.close()
                with suppress(OSError):
                    part.unlink()
                raise
    except OSError as error:
        msg = f"Cannot write {str(path)!r}: {error.strerror}. Name a file in a directory that exists and can be written, with -o."
        raise CliError(msg) from error


_MODE: Final = 0o644
"""Who else may read them: Grafana and Prometheus seldom run as the user who exports."""


def _named(ctx: click.Context, parameter: click.Parameter, value: str) -> Path:
    """Return the directory; an empty one, as of a variable that is not set, would be the current one."""
    del ctx, parameter
    if not value.strip():
        msg = "the directory is empty; expected the name of one, or . for the current one"
        raise click.BadParameter(msg)
    return Path(value)


_directory = click.argument("directory", metavar="DIR", type=click.Path(), callback=_named)


_force = click.option("--force", is_flag=True, help="Replace files that are there and differ.")


_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document that lists the files.")


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  otel-progress dashboards export /var/lib/grafana/dashboards/progress
""",
)
@click.pass_context
def dashboards(ctx: click.Context) -> None:
    """Grafana dashboards that come with this package."""
    _help(ctx)


@dashboards.command(
    "export",
    epilog="""\b
Examples:
  otel-progress dashboards export /var/lib/grafana/dashboards/progress
  otel-progress dashboards export . --json
""",
)
@_directory
@_force
@_as_json
def export_dashboards(directory: Path, force: bool, as_json: bool) -> None:
    """Write the dashboards into DIR, to be imported or provisioned. Nothing is written when a file there differs."""
    _export("dashboards", directory, force=force, as_json=as_json)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  otel-progress rules export /etc/prometheus/rules
""",
)
@click.pass_context
def rules(ctx: click.Context) -> None:
    """Recording and alerting rules for Prometheus that come with this package."""
    _help(ctx)


@rules.command(
    "export",
    epilog="""\b
Examples:
  otel-progress rules export /etc/prometheus/rules
  otel-progress rules export . --force && promtool check rules progress.*.yml
""",
)
@_directory
@_force
@_as_json
def export_rules(directory: Path, force: bool, as_json: bool) -> None:
    """Write the rules into DIR, to be named under rule_files. Nothing is written when a file there differs."""
    _export("rules", directory, force=force, as_json=as_json)


def _help(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _export(bundle: Bundle, directory: Path, *, force: bool, as_json: bool) -> None:
    wanted = read_bundle(bundle)
    try:
        present = {name: _content(directory / name) for name in wanted}
        changed = {name: content for name, content in wanted.items() if present[name] != content}
        differing = [name for name in changed if present[name] is not None]
        if differing and not force:
            msg = (
                f"{_shown(directory)} has files that differ: {', '.join(differing)}. Nothing was written. "
                "Give --force to replace them, or another directory."
            )
            raise CliError(msg)
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory, changed)
    except OSError as error:
        where = escape_controls(str(error.filename or directory))
        msg = f"Cannot write to {where!r}: {error.strerror or error}. Name a directory that can be made and written."
        raise CliError(msg) from error
    _tell(directory, wanted, changed, as_json=as_json)


def _content(path: Path) -> bytes | None:
    """Return what a file holds, None when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files beside their places first: whoever reads the directory meanwhile sees whole files, and a full disk no change."""
    parts: dict[Path, Path] = {}
    try:
        for name, content in contents.items():
            with NamedTemporaryFile("wb", dir=directory, prefix=f".{name}.", delete=False) as file:
                parts[Path(file.name)] = directory / name
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).chmod(_MODE)
        for part, path in parts.items():
            part.replace(path)
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink()


def _tell(
    directory: Path, wanted: Mapping[str, bytes], changed: Mapping[str, bytes], *, as_json: bool
) -> None:
    if as_json:
        listed = [
            {
                "path": str(directory / name),
                "bytes": len(content),
                "state": "written" if name in changed else "unchanged",
            }
            for name, content in wanted.items()
        ]
        say_json({"schema": SCHEMA, "files": listed})
        return
    for name in wanted:
        echo(f"{escape_controls(str(directory / name))}{'' if name in changed else '  (unchanged)'}")


def _shown(directory: Path) -> str:
    return repr(escape_controls(str(directory)))
