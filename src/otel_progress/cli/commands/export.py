"""``export``, ``dashboards`` and ``rules``: files for other programs."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from otel_progress.assets import Bundle, read_bundle
from otel_progress.cli.context import CliContext, complete_id, find_operation
from otel_progress.cli.files import StagedFile, write_file
from otel_progress.cli.output import CliError, echo, echo_json
from otel_progress.codec import SCHEMA
from otel_progress.exports import EXPORTERS
from otel_progress.protocols import EventQuery
from otel_progress.text import escape_controls

_MAX_EVENTS: Final = 10_000_000
"""Events exported per operation, the newest."""


@click.command(
    epilog="""\b
json   the operation with its levels and events, one document
jsonl  one line for the operation, each level and each event; "record" is the kind of the line
csv    one row for the operation and each level; text that looks like a formula starts with '

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
    help="Format of the export.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. [default: stdout, also for -]",
)
@click.pass_obj
def export(context: CliContext, operation_id: str, format_: str, output: Path | None) -> None:
    """Write one operation with its levels and events."""
    with context.reader() as reader:
        operation = find_operation(reader, operation_id)
        events = (
            () if format_ == "csv" else reader.events(operation.operation_id, EventQuery(limit=_MAX_EVENTS))
        )
    lines = EXPORTERS[format_](operation, events)
    if output is None or str(output) == "-":
        encoding = sys.stdout.encoding or "utf-8"
        for line in lines:
            click.echo(line.encode(encoding, "backslashreplace").decode(encoding))
        return
    _write_lines(output, [f"{line}\n".encode() for line in lines])


def _write_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Write a file: the whole file or, on an error, no file."""
    try:
        write_file(path, lines)
    except OSError as error:
        msg = (
            f"Invalid output file {escape_controls(str(path))!r}: expected a writable file or device "
            f"({error.strerror}). Use another path with -o."
        )
        raise CliError(msg) from error


_FILE_MODE: Final = 0o644
"""Readable by all users: Grafana and Prometheus usually run as another user."""


def _parse_directory(ctx: click.Context, parameter: click.Parameter, value: str) -> Path:
    """Return the directory. Rejects an empty name, which means the current one."""
    del parameter
    if not value.strip():
        msg = f"Invalid directory {value[:100]!r}: expected a name. Use . for the current directory."
        raise click.UsageError(msg, ctx)
    return Path(value)


_directory_argument = click.argument("directory", metavar="DIR", type=click.Path(), callback=_parse_directory)


_force_option = click.option("--force", is_flag=True, help="Replace existing files that differ.")


_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON document that lists the files."
)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  otel-progress dashboards export /var/lib/grafana/dashboards/progress
""",
)
@click.pass_context
def dashboards(ctx: click.Context) -> None:
    """Grafana dashboards of this package."""
    _print_help(ctx)


@dashboards.command(
    "export",
    epilog="""\b
Examples:
  otel-progress dashboards export /var/lib/grafana/dashboards/progress
  otel-progress dashboards export . --json
""",
)
@_directory_argument
@_force_option
@_json_option
def export_dashboards(directory: Path, force: bool, as_json: bool) -> None:
    """Write the Grafana dashboards into the directory DIR.

    If a file there differs, nothing is written.
    """
    _export_bundle("dashboards", directory, force=force, as_json=as_json)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  otel-progress rules export /etc/prometheus/rules
""",
)
@click.pass_context
def rules(ctx: click.Context) -> None:
    """Prometheus recording and alerting rules of this package."""
    _print_help(ctx)


@rules.command(
    "export",
    epilog="""\b
Examples:
  otel-progress rules export /etc/prometheus/rules
  otel-progress rules export . --force && promtool check rules progress.*.yml
""",
)
@_directory_argument
@_force_option
@_json_option
def export_rules(directory: Path, force: bool, as_json: bool) -> None:
    """Write the Prometheus rules into the directory DIR.

    Add the files to rule_files of Prometheus. If a file there differs, nothing is written.
    """
    _export_bundle("rules", directory, force=force, as_json=as_json)


def _print_help(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _export_bundle(bundle: Bundle, directory: Path, *, force: bool, as_json: bool) -> None:
    bundled = read_bundle(bundle)
    try:
        present = {name: _read_content(directory / name) for name in bundled}
        changed = {name: content for name, content in bundled.items() if present[name] != content}
        differing = [name for name in changed if present[name] is not None]
        if differing and not force:
            msg = (
                f"Invalid directory {_quote_path(directory)}: expected no files that differ, found "
                f"{', '.join(differing)}. Use --force to replace them, or another directory."
            )
            raise CliError(msg)
        directory.mkdir(parents=True, exist_ok=True)
        _write_files(directory, changed)
    except OSError as error:
        path = _quote_path(Path(error.filename or directory))
        msg = (
            f"Invalid directory {_quote_path(directory)}: expected a writable directory "
            f"({path}: {error.strerror or error}). Use another directory."
        )
        raise CliError(msg) from error
    _list_files(directory, bundled, changed, as_json=as_json)


def _read_content(path: Path) -> bytes | None:
    """Return the content of a file. None if the file does not exist."""
    try:
        if not path.is_file() and path.exists():
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files under temporary names, then rename them.

    Other programs see only whole files, and a full disk changes nothing.
    """
    staged: list[StagedFile] = []
    try:
        for name, content in contents.items():
            path = directory / name
            is_new = not path.exists()
            staged.append(StagedFile(path, [content]))
            if is_new:
                staged[-1].set_mode(_FILE_MODE)
        for file in staged:
            file.commit()
    finally:
        for file in staged:
            file.discard()


def _list_files(
    directory: Path, bundled: Mapping[str, bytes], changed: Mapping[str, bytes], *, as_json: bool
) -> None:
    if as_json:
        files = [
            {
                "path": str(directory / name),
                "bytes": len(content),
                "state": "written" if name in changed else "unchanged",
            }
            for name, content in bundled.items()
        ]
        echo_json({"schema": SCHEMA, "files": files})
        return
    for name in bundled:
        echo(f"{escape_controls(str(directory / name))}{'' if name in changed else '  (unchanged)'}")


def _quote_path(directory: Path) -> str:
    return repr(escape_controls(str(directory)))
