"""``show``: one operation in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from otel_progress import semconv
from otel_progress.cli.batch_output import find_batch, write_batch
from otel_progress.cli.context import CliContext, complete_id_or_batch, find
from otel_progress.cli.output import CliError, echo, say_json, status_word, style_text
from otel_progress.codec import encode_batch, encode_event, encode_operation, encode_preview
from otel_progress.console.format import count, duration, left, moment, percentage, quantity, rate, remaining
from otel_progress.console.glyphs import STATUS_STYLES, Glyphs, glyphs_for
from otel_progress.console.rows import cancelling_note, clean, condition_note, failure_text, title
from otel_progress.model import Eta, LevelSnapshot, Outcome, Status
from otel_progress.operations import BatchSnapshot, Event, OperationSnapshot
from otel_progress.protocols import EventQuery, PreviewQuery, Reader
from otel_progress.records import ResourceUse
from otel_progress.text import escape_controls

_FAILED_ITEMS = 20


_MAX_INDENT = 40


_PREVIEWS = 1_000


@click.command(
    epilog="""\b
Examples:
  otel-progress show friday-42
  otel-progress show friday --path song:12 --depth 2
  otel-progress show friday-42 --errors
  otel-progress show friday-42 --previews
  otel-progress show friday-42 --json
  otel-progress show thumbnails --errors
"""
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id_or_batch)
@click.option("--path", metavar="PATH", help="Only this level and its subtree, as song:12/action:3.")
@click.option(
    "--depth",
    type=click.IntRange(0),
    metavar="N",
    help="Levels to at most this depth (1: the operation's own).",
)
@click.option("--events", is_flag=True, help="The events too: every item with its outcome.")
@click.option("--errors", is_flag=True, help="The details of every error too, and all items that failed.")
@click.option(
    "--previews",
    is_flag=True,
    help="The previews too: a list of them, and the newest as pictures on a terminal.",
)
@click.option(
    "--exit-status", is_flag=True, help="Exit with 1 when the operation has failed or was cancelled."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with levels (and events).")
@click.pass_obj
def show(
    scope: CliContext,
    operation_id: str,
    path: str | None,
    depth: int | None,
    events: bool,
    errors: bool,
    previews: bool,
    exit_status: bool,
    as_json: bool,
) -> None:
    """Show one operation, or one batch: where it stands, its levels, what failed. The beginning of its ID is enough."""
    with scope.reader() as reader:
        operation = _operation_or_batch(reader, operation_id)
        if isinstance(operation, BatchSnapshot):
            if path or depth is not None or events or previews:
                msg = (
                    f"{escape_controls(operation.id)!r} is a batch: --path, --depth, --events and --previews "
                    "are for the operations in it."
                )
                raise click.UsageError(msg)
            say_json(encode_batch(operation)) if as_json else write_batch(operation, errors=errors)
            _exit(operation.status, exit_status)
            return
        base = _level(operation, path)
        within = path or None
        failed = reader.events(
            operation.operation_id,
            EventQuery(within, Outcome.FAILED, limit=10_000 if errors else _FAILED_ITEMS),
        )
        happened = reader.events(operation.operation_id, EventQuery(within, limit=100_000)) if events else ()
        stored = (
            reader.previews(operation.operation_id, PreviewQuery(within, limit=_PREVIEWS)) if previews else ()
        )
    levels = _below(operation, base, depth)
    if as_json:
        document = encode_operation(operation, levels=True)
        kept = {level.path for level in levels} | ({base.path} if path else set())
        document["levels"] = [level for level in document["levels"] if level["path"] in kept]
        if events or errors:
            document["events"] = [encode_event(event) for event in (happened if events else failed)]
        if previews:
            document["preview_records"] = [
                {**encode_preview(preview), "location": preview.location} for preview in stored
            ]
        say_json(document)
    else:
        _write(operation, base, levels, failed, happened, errors=errors)
        if previews:
            from otel_progress.cli.preview_output import write_previews

            write_previews(stored, scope.previews(), color=scope.color)
    _exit(operation.status, exit_status)


def _exit(status: Status, asked: bool) -> None:
    if asked and status in (Status.FAILED, Status.CANCELLED):
        raise click.exceptions.Exit(1)


def _operation_or_batch(reader: Reader, wanted: str) -> OperationSnapshot | BatchSnapshot:
    """Return what ``wanted`` names: an operation's whole id before a batch's, before the beginning of either."""
    found = reader.get(wanted) or reader.batch(wanted)
    if found is not None:
        return found
    try:
        return find(reader, wanted)
    except CliError:
        batch = find_batch(reader, wanted)
        if batch is None:
            raise
        return batch


def _level(operation: OperationSnapshot, path: str | None) -> LevelSnapshot:
    if not path:
        return operation.root
    found = operation.get_level(path)
    if found is None:
        top = ", ".join(escape_controls(level.path) for level in operation.levels if level.info.depth == 1)[
            :200
        ]
        msg = f"{operation.operation_id!r} has no level {path!r}, or it is no longer kept. " + (
            f"Its levels begin with: {top}" if top else "It has no levels."
        )
        raise CliError(msg)
    return found


def _below(operation: OperationSnapshot, base: LevelSnapshot, depth: int | None) -> list[LevelSnapshot]:
    prefix = f"{base.path}/" if base.path else ""
    deepest = None if depth is None else base.info.depth + depth
    return [
        level
        for level in operation.levels
        if level.path.startswith(prefix)
        and level.path != base.path
        and (deepest is None or level.info.depth <= deepest)
    ]


def _write(
    operation: OperationSnapshot,
    base: LevelSnapshot,
    levels: Sequence[LevelSnapshot],
    failed: Sequence[Event],
    events: Sequence[Event],
    *,
    errors: bool,
) -> None:
    import sys

    glyphs = glyphs_for(getattr(sys.stdout, "encoding", None))
    echo(f"{style_text(clean(base.info.name) or title(base), 'bold')}  {clean(base.info.type)}")
    for name, value in _facts(operation, base):
        echo(f"  {style_text(f'{name:<10}', 'dim')} {value}")
    if base.error is not None and errors:
        _details(base, "             ")
    if levels:
        echo()
        echo(style_text("Levels", "bold"))
    for level in levels:
        indent = "  " * min(level.info.depth - base.info.depth, _MAX_INDENT)
        echo(indent + _level_line(level, operation, glyphs))
        if level.error is not None and errors:
            _details(level, indent + "    ")
    if failed:
        echo()
        echo(
            style_text("Failed items", "bold")
            + ("" if errors else style_text("  (the latest; all with --errors)", "dim"))
        )
    for event in failed:
        echo(f"  {moment(event.at)[11:19]} {_event_text(event)}")
    if events:
        echo()
        echo(style_text("Events", "bold"))
    for event in events:
        echo(f"  {moment(event.at)} {clean(event.kind)} {_event_text(event)}")


def _facts(operation: OperationSnapshot, level: LevelSnapshot) -> Iterator[tuple[str, str]]:
    is_root = level is operation.root
    info, elapsed = level.info, level.elapsed(operation.clock)
    if is_root:
        yield "id", clean(operation.operation_id)
        word, style = status_word(operation.status, operation.condition)
        note = condition_note(operation, operation.condition)
        yield "status", style_text(f"{level.status.value}, {note[0]}" if note else word, style)
        if (asked := cancelling_note(operation)) is not None:
            yield "cancel", style_text(f"asked to stop at {moment(operation.cancel_requested_at)}", asked[1])
    else:
        yield "operation", clean(operation.operation_id)
        yield "path", clean(level.path)
        yield "status", style_text(level.status.value, STATUS_STYLES[level.status])
    yield "progress", _figures(level, operation) or "not known"
    if level.message:
        yield "message", clean(level.message)
    if level.error is not None:
        yield "error", style_text(failure_text(level), "red")
    if info.attempt > 1:
        yield "attempt", str(info.attempt)
    if info.started_at is not None:
        yield "started", moment(info.started_at)
    if level.ended_at is not None:
        yield "ended", moment(level.ended_at)
    yield "duration" if level.status.finished else "elapsed", duration(elapsed)
    eta = operation.eta_of(level)
    if told := remaining(eta):
        yield "remaining", told + _because(eta)
    if info.deadline_at is not None:
        yield "deadline", moment(info.deadline_at)
    if operation.instance is not None and is_root:
        worker = operation.instance
        gone = "" if operation.alive or level.status.finished else ", gone"
        yield (
            "worker",
            f"{clean(worker.service)}, process {worker.pid} on {clean(worker.host).partition('/')[0]}{gone}",
        )
    if operation.resources is not None and is_root:
        yield from _resources(operation.resources, over=level.status.finished)
    if info.batch and is_root:
        yield "batch", clean(info.batch)
    if info.trace_id:
        yield "trace", clean(info.trace_id)
    for key, value in level.metadata.items():
        yield (
            "metadata",
            f"{clean(key)} = {clean(', '.join(map(str, value)) if isinstance(value, tuple) else str(value))}",
        )


def _because(eta: Eta | None) -> str:
    """Return what an estimate rests on, in words."""
    if eta is None:
        return ""
    if eta.basis in ("history", "durations"):
        return f", from {eta.runs} earlier run{'' if eta.runs == 1 else 's'}"
    return {
        "rate": ", from its recent pace",
        "parallel": ", from what runs at the same time",
        "expected": ", as declared",
    }.get(eta.basis, "")


def _resources(use: ResourceUse, *, over: bool) -> Iterator[tuple[str, str]]:
    """Yield what the process uses now (not once the operation is over), on the whole and at most."""
    last = use.last
    yield (
        "cpu",
        _use(
            None if over else percentage_of_core(last.cpu_ratio),
            *map(percentage_of_core, (use.cpu_mean, use.cpu_peak)),
        ),
    )
    sizes = [quantity(value, "byte") for value in (last.memory_bytes, use.memory_mean, use.memory_peak)]
    yield "memory", _use(None if over else sizes[0], *sizes[1:])
    if use.gpu_mean is not None and use.gpu_peak is not None:
        now = None if over or last.gpu_ratio is None else percentage_of_core(last.gpu_ratio)
        yield "gpu", _use(now, *map(percentage_of_core, (use.gpu_mean, use.gpu_peak)))
    if use.gpu_memory_peak is not None:
        yield "gpu memory", f"peak {quantity(use.gpu_memory_peak, 'byte')}"


def percentage_of_core(ratio: float) -> str:
    """Return a use of processors as tools show it: 150% for one and a half busy cores."""
    return f"{100.0 * ratio:.0f}%"


def _use(now: str | None, mean: str, peak: str) -> str:
    return ("" if now is None else f"{now}, ") + f"mean {mean}, peak {peak}"


def _figures(level: LevelSnapshot, operation: OperationSnapshot) -> str:
    unit = level.info.unit
    parts = (
        percentage(level.ratio, estimated=level.estimated),
        count(level.current, level.total, unit) if level.current or level.total is not None else "",
        ""
        if unit == semconv.STAGE
        else rate(level.done_this_session, operation.active_seconds_of(level), unit),
        style_text(f"{level.failed} failed", "red") if level.failed else "",
        f"{level.skipped} skipped" if level.skipped else "",
    )
    return "  ".join(part for part in parts if part)


def _level_line(level: LevelSnapshot, operation: OperationSnapshot, glyphs: Glyphs) -> str:
    elapsed = level.elapsed(operation.clock)
    style = STATUS_STYLES[level.status]
    word = "" if level.status in (Status.RUNNING, Status.COMPLETED) else style_text(level.status.value, style)
    attempt = style_text(f"attempt {level.info.attempt}", "yellow") if level.info.attempt > 1 else ""
    text = style_text(failure_text(level), "red") if level.status is Status.FAILED else clean(level.message)
    time = duration(elapsed) if level.info.started_clock is not None else ""
    if time and (ahead := left(operation.eta_of(level))):
        time += f", {ahead}"
    parts = (
        style_text(glyphs.status(level.status), style),
        title(level),
        word,
        _figures(level, operation),
        attempt,
        time,
        text,
    )
    return "  ".join(part for part in (f"{parts[0]} {parts[1]}", *parts[2:]) if part)


def _details(level: LevelSnapshot, indent: str) -> None:
    if level.error is None:
        return
    for line in (level.error.details or level.error.message).splitlines():
        echo(indent + escape_controls(line))


def _event_text(event: Event) -> str:
    outcome = event.outcome.value if event.outcome is not None else ""
    error = (
        ""
        if event.error is None
        else style_text(clean(f"{event.error.type}: {event.error.message}".strip(": ")), "red")
    )
    parts = (clean(event.path), clean(event.name), "" if event.outcome is Outcome.FAILED else outcome, error)
    return "  ".join(part for part in parts if part)
