"""``show``: one operation or batch in full."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from otel_progress import semconv
from otel_progress.cli.batch_output import is_abandoned_batch, write_batch
from otel_progress.cli.context import CliContext, complete_id_or_batch
from otel_progress.cli.output import (
    EXIT_ABANDONED,
    EXIT_NOT_REPORTING,
    CliError,
    echo,
    echo_json,
    get_status_label,
    style_text,
    write_facts,
)
from otel_progress.cli.targets import find_target
from otel_progress.codec import encode_batch, encode_event, encode_operation, encode_preview
from otel_progress.console.glyphs import STATUS_STYLES, Glyphs, choose_glyphs
from otel_progress.console.rows import (
    clean_text,
    format_cancelling,
    format_condition,
    format_failure,
    format_title,
)
from otel_progress.formats import (
    ENDED_EARLY,
    format_count,
    format_duration,
    format_moment,
    format_more_levels,
    format_percentage,
    format_quantity,
    format_rate,
    format_remaining,
    format_time_left,
)
from otel_progress.model import Eta, LevelCounts, LevelSnapshot, Outcome, Status
from otel_progress.operations import BatchSnapshot, Condition, Event, OperationSnapshot
from otel_progress.protocols import EventQuery, PreviewQuery, Reader
from otel_progress.records import Preview, ResourceUse
from otel_progress.text import escape_controls, split_title

_MAX_FAILED_ITEMS: Final = 20
"""Failed items written without ``--errors``, the newest."""


_MAX_FAILED_ITEMS_WITH_ERRORS: Final = 10_000
"""Failed items written with ``--errors``, the newest."""


_MAX_EVENTS: Final = 100_000
"""Events written with ``--events``, the newest."""


_MAX_PREVIEWS: Final = 1_000
"""Previews written with ``--previews``, the newest."""


_MAX_INDENT_STEPS: Final = 40
"""Indentation of a level. Deeper levels are indented like this one."""


@dataclass(frozen=True, slots=True)
class _OperationView:
    """Records of one operation below a level.

    Records that were not requested are empty.
    """

    operation: OperationSnapshot
    base: LevelSnapshot
    levels: Sequence[LevelSnapshot]
    evicted: Mapping[str, LevelCounts]
    """Numbers of ended levels that are not stored, by the path of the level above."""
    failed_items: Sequence[Event]
    events: Sequence[Event]
    previews: Sequence[Preview]


@click.command(
    "show",
    epilog="""\b
Examples:
  otel-progress show friday-42
  otel-progress show friday --path song:12 --depth 2
  otel-progress show friday-42 --errors
  otel-progress show friday-42 --previews
  otel-progress show friday-42 --json
  otel-progress show thumbnails --errors
""",
)
@click.argument("operation_id", metavar="ID", shell_complete=complete_id_or_batch)
@click.option("--path", metavar="PATH", help="Only this level and its subtree, as song:12/action:3.")
@click.option(
    "--depth",
    type=click.IntRange(0),
    metavar="N",
    help="Show N generations of levels below the operation or level.",
)
@click.option("--events", is_flag=True, help="Include events: every item with its outcome.")
@click.option("--errors", is_flag=True, help="Include error details and all failed items.")
@click.option(
    "--previews",
    is_flag=True,
    help="Include previews: a list, and the newest as images if the terminal supports them.",
)
@click.option(
    "--exit-status",
    is_flag=True,
    help="Exit with 1 if the operation failed or was cancelled, with 4 if it is abandoned.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document with the levels.")
@click.pass_obj
def show_target(
    context: CliContext,
    operation_id: str,
    path: str | None,
    depth: int | None,
    events: bool,
    errors: bool,
    previews: bool,
    exit_status: bool,
    as_json: bool,
) -> None:
    """Show one operation or batch: status, levels and failures.

    A unique prefix of the ID is enough.
    """
    with context.reader() as reader:
        target = find_target(reader, operation_id)
        if isinstance(target, BatchSnapshot):
            if path or depth is not None or events or previews:
                msg = (
                    f"{escape_controls(target.id)!r} is a batch: --path, --depth, --events and --previews "
                    "are for the operations in it."
                )
                raise click.UsageError(msg)
            echo_json(encode_batch(target)) if as_json else write_batch(target, errors=errors)
            if exit_status:
                if is_abandoned_batch(target):
                    raise click.exceptions.Exit(EXIT_ABANDONED)
                _exit_with_status(target.status)
            return
        view = _read_view(reader, target, path, depth, events=events, errors=errors, previews=previews)
    if as_json:
        echo_json(_encode_view(view, path, events=events, errors=errors, previews=previews))
    else:
        _write_view(view, errors=errors)
        if previews:
            from otel_progress.cli.preview_output import write_previews

            write_previews(view.previews, context.previews(), color=context.color)
    if exit_status:
        if target.condition is Condition.ABANDONED:
            raise click.exceptions.Exit(EXIT_ABANDONED)
        if target.condition is Condition.NOT_REPORTING:
            raise click.exceptions.Exit(EXIT_NOT_REPORTING)
        _exit_with_status(target.status)


def _exit_with_status(status: Status) -> None:
    if status in (Status.FAILED, Status.CANCELLED):
        raise click.exceptions.Exit(1)


def _read_view(
    reader: Reader,
    operation: OperationSnapshot,
    path: str | None,
    depth: int | None,
    *,
    events: bool,
    errors: bool,
    previews: bool,
) -> _OperationView:
    id_, base, within = operation.operation_id, _find_level(operation, path), path or None
    max_failed = _MAX_FAILED_ITEMS_WITH_ERRORS if errors else _MAX_FAILED_ITEMS
    return _OperationView(
        operation,
        base,
        _select_levels(operation, base, depth),
        _select_evicted(operation, base, depth),
        failed_items=reader.events(id_, EventQuery(within, Outcome.FAILED, limit=max_failed)),
        events=reader.events(id_, EventQuery(within, limit=_MAX_EVENTS)) if events else (),
        previews=reader.previews(id_, PreviewQuery(within, limit=_MAX_PREVIEWS)) if previews else (),
    )


def _find_level(operation: OperationSnapshot, path: str | None) -> LevelSnapshot:
    if not path:
        return operation.root
    level = operation.get_level(path)
    if level is None:
        top_paths = [escape_controls(level.path) for level in operation.levels if level.info.depth == 1]
        known = f"Its top levels are: {', '.join(top_paths)[:200]}" if top_paths else "It has no levels."
        msg = (
            f"Invalid level path {path[:100]!r}: expected a level of {operation.operation_id!r} that is "
            f"still stored. {known}"
        )
        raise CliError(msg)
    return level


def _select_levels(
    operation: OperationSnapshot, base: LevelSnapshot, depth: int | None
) -> list[LevelSnapshot]:
    """Return the levels below ``base``, down to ``depth`` generations."""
    prefix = f"{base.path}/" if base.path else ""
    max_depth = None if depth is None else base.info.depth + depth
    return [
        level
        for level in operation.levels
        if level.path.startswith(prefix)
        and level.path != base.path
        and (max_depth is None or level.info.depth <= max_depth)
    ]


def _select_evicted(
    operation: OperationSnapshot, base: LevelSnapshot, depth: int | None
) -> dict[str, LevelCounts]:
    """Return the numbers of evicted levels in ``depth`` generations below ``base``."""
    parents = [base, *_select_levels(operation, base, None if depth is None else depth - 1)]
    evicted = operation.count_evicted_levels()
    return {level.path: evicted[level.path] for level in parents if level.path in evicted and depth != 0}


def _encode_view(
    view: _OperationView, path: str | None, *, events: bool, errors: bool, previews: bool
) -> dict[str, Any]:
    document: dict[str, Any] = dict(encode_operation(view.operation, levels=True))
    paths = {level.path for level in view.levels} | ({view.base.path} if path else set())
    document["levels"] = [level for level in document["levels"] if level["path"] in paths]
    if events or errors:
        document["events"] = [encode_event(event) for event in (view.events if events else view.failed_items)]
    if previews:
        document["preview_records"] = [
            {**encode_preview(preview), "location": preview.location} for preview in view.previews
        ]
    return document


def _write_view(view: _OperationView, *, errors: bool) -> None:
    base = view.base
    glyphs = choose_glyphs(getattr(sys.stdout, "encoding", None))
    kind, name = split_title(clean_text(base.info.type), clean_text(base.info.name))
    echo(style_text(name, "bold") + (f"  {kind}" if kind else ""))
    write_facts(_collect_facts(view.operation, base))
    if errors:
        _write_details(base, "             ")
    _write_levels(view, glyphs, errors=errors)
    if view.failed_items:
        is_cut = not errors and len(view.failed_items) == _MAX_FAILED_ITEMS
        hint = f"  (the newest {_MAX_FAILED_ITEMS}; all with --errors)" if is_cut else ""
        echo()
        echo(style_text("Failed items", "bold") + style_text(hint, "dim"))
    for event in view.failed_items:
        echo(f"  {format_moment(event.at)[11:19]} {_format_event(event)}")
    if view.events:
        echo()
        echo(style_text("Events", "bold"))
    for event in view.events:
        echo(f"  {format_moment(event.at)} {clean_text(event.kind)} {_format_event(event)}")


def _write_levels(view: _OperationView, glyphs: Glyphs, *, errors: bool) -> None:
    """Write the levels as a tree.

    A line after the levels of a parent counts the evicted ones.
    """
    if view.levels or view.evicted:
        echo()
        echo(style_text("Levels", "bold"))
    open_parents = [view.base]
    for level in (*view.levels, None):
        while open_parents and (level is None or not _is_below(level, open_parents[-1], view.base)):
            parent = open_parents.pop()
            if parent.path in view.evicted:
                text = f"{glyphs.more} {format_more_levels(view.evicted[parent.path])}"
                echo(_indent_level(parent.info.depth + 1 - view.base.info.depth) + style_text(text, "dim"))
        if level is None:
            return
        open_parents.append(level)
        indent = _indent_level(level.info.depth - view.base.info.depth)
        echo(indent + _format_level(level, view.operation, glyphs))
        if errors:
            _write_details(level, indent + "    ")


def _is_below(level: LevelSnapshot, parent: LevelSnapshot, base: LevelSnapshot) -> bool:
    return parent is base or level.path.startswith(f"{parent.path}/")


def _indent_level(generations: int) -> str:
    return "  " * min(generations, _MAX_INDENT_STEPS)


def _collect_facts(operation: OperationSnapshot, level: LevelSnapshot) -> Iterator[tuple[str, str]]:
    """Yield the facts of a level as label and text, in display order."""
    is_root = level is operation.root
    yield from _root_state_facts(operation) if is_root else _level_state_facts(operation, level)
    yield "progress", _format_figures(level, operation) or "unknown"
    if level.message:
        yield "message", clean_text(level.message)
    if level.error is not None:
        yield "error", style_text(format_failure(level), "red")
    if level.info.attempt > 1:
        yield "attempt", str(level.info.attempt)
    yield from _time_facts(operation, level)
    if is_root:
        yield from _process_facts(operation)
    if level.info.trace_id:
        yield "trace", clean_text(level.info.trace_id)
    for key, value in level.metadata.items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        yield "metadata", f"{clean_text(key)} = {clean_text(text)}"


def _root_state_facts(operation: OperationSnapshot) -> Iterator[tuple[str, str]]:
    yield "id", clean_text(operation.operation_id)
    label, style = get_status_label(operation.status, operation.condition)
    condition = format_condition(operation, operation.condition)
    if operation.root.ended_early:
        label, style = f"{label}, {ENDED_EARLY}", "yellow"
    yield "status", style_text(f"{operation.status.value}, {condition[0]}" if condition else label, style)
    if (cancelling := format_cancelling(operation)) is not None:
        requested = f"requested at {format_moment(operation.cancel_requested_at)}"
        yield "cancel", style_text(requested, cancelling[1])


def _level_state_facts(operation: OperationSnapshot, level: LevelSnapshot) -> Iterator[tuple[str, str]]:
    yield "operation", clean_text(operation.operation_id)
    yield "path", clean_text(level.path)
    status = style_text(level.status.value, STATUS_STYLES[level.status])
    yield "status", f"{status}, {style_text(ENDED_EARLY, 'yellow')}" if level.ended_early else status


def _time_facts(operation: OperationSnapshot, level: LevelSnapshot) -> Iterator[tuple[str, str]]:
    if level.info.started_at is not None:
        yield "started", format_moment(level.info.started_at)
    if level.ended_at is not None:
        yield "finished", format_moment(level.ended_at)
    elapsed = format_duration(level.elapsed(operation.clock))
    yield "duration" if level.status.finished else "elapsed", elapsed
    eta = operation.eta_of(level)
    if time_left := format_remaining(eta):
        yield "remaining", time_left + _describe_basis(eta)
    if level.info.deadline_at is not None:
        yield "deadline", format_moment(level.info.deadline_at)


def _process_facts(operation: OperationSnapshot) -> Iterator[tuple[str, str]]:
    instance, is_finished = operation.instance, operation.status.finished
    if instance is not None:
        host = clean_text(instance.host).partition("/")[0]
        state = "" if operation.alive or is_finished else ", not running"
        yield "process", f"{clean_text(instance.service)}, pid {instance.pid} on {host}{state}"
    if operation.resources is not None:
        yield from _resource_facts(operation.resources, is_finished=is_finished)
    if operation.root.info.batch:
        yield "batch", clean_text(operation.root.info.batch)
    parent = operation.root.info.parent
    if parent is not None:
        yield "parent", clean_text(f"{parent.operation_id} {parent.path}".rstrip())


def _describe_basis(eta: Eta | None) -> str:
    """Return the source of an estimate as a clause that follows the remaining time."""
    if eta is None:
        return ""
    if eta.basis in ("history", "durations"):
        return f", from {eta.runs} earlier run{'' if eta.runs == 1 else 's'}"
    return {
        "rate": ", from its recent rate",
        "parallel": ", from its parallel levels",
        "expected": ", from its expected duration",
    }.get(eta.basis, "")


def _resource_facts(use: ResourceUse, *, is_finished: bool) -> Iterator[tuple[str, str]]:
    """Yield the mean and peak resource use of the process.

    While it runs, the current use is included.
    """
    last = use.last
    cpu = [format_core_percentage(ratio) for ratio in (last.cpu_ratio, use.cpu_mean, use.cpu_peak)]
    yield "cpu", _format_use(None if is_finished else cpu[0], *cpu[1:])
    sizes = [format_quantity(size, "byte") for size in (last.memory_bytes, use.memory_mean, use.memory_peak)]
    yield "memory", _format_use(None if is_finished else sizes[0], *sizes[1:])
    if use.gpu_mean is not None and use.gpu_peak is not None:
        gpu_now = None if is_finished or last.gpu_ratio is None else format_core_percentage(last.gpu_ratio)
        yield "gpu", _format_use(gpu_now, *map(format_core_percentage, (use.gpu_mean, use.gpu_peak)))
    if use.gpu_memory_peak is not None:
        yield "gpu memory", f"peak {format_quantity(use.gpu_memory_peak, 'byte')}"


def format_core_percentage(ratio: float) -> str:
    """Return processor use as a percentage of one core. Two busy cores are ``200%``."""
    return f"{100.0 * ratio:.0f}%"


def _format_use(now: str | None, mean: str, peak: str) -> str:
    return ("" if now is None else f"{now}, ") + f"mean {mean}, peak {peak}"


def _format_figures(level: LevelSnapshot, operation: OperationSnapshot) -> str:
    unit = level.info.unit
    has_count = bool(level.current) or level.total is not None
    active_s = operation.rate_seconds_of(level)
    parts = (
        format_percentage(level.ratio, estimated=level.estimated),
        format_count(level.current, level.total, unit, level.info.unit_plural) if has_count else "",
        "" if unit == semconv.STAGE else format_rate(level.done_this_session, active_s, unit),
        style_text(f"{level.failed} failed", "red") if level.failed else "",
        f"{level.skipped} skipped" if level.skipped else "",
    )
    return "  ".join(part for part in parts if part)


def _format_level(level: LevelSnapshot, operation: OperationSnapshot, glyphs: Glyphs) -> str:
    style, is_failed = STATUS_STYLES[level.status], level.status is Status.FAILED
    is_usual = level.status in (Status.RUNNING, Status.COMPLETED)
    time = format_duration(level.elapsed(operation.clock)) if level.info.started_clock is not None else ""
    if time and (time_left := format_time_left(operation.eta_of(level))):
        time += f", {time_left}"
    parts = (
        f"{style_text(glyphs.status(level.status), style)} {format_title(level)}",
        "" if is_usual else style_text(level.status.value, style),
        style_text(ENDED_EARLY, "yellow") if level.ended_early else "",
        _format_figures(level, operation),
        style_text(f"attempt {level.info.attempt}", "yellow") if level.info.attempt > 1 else "",
        time,
        style_text(format_failure(level), "red") if is_failed else clean_text(level.message),
    )
    return "  ".join(part for part in parts if part)


def _write_details(level: LevelSnapshot, indent: str) -> None:
    if level.error is None:
        return
    for line in (level.error.details or level.error.message).splitlines():
        echo(indent + escape_controls(line))


def _format_event(event: Event) -> str:
    outcome = event.outcome.value if event.outcome not in (None, Outcome.FAILED) else ""
    error = "" if event.error is None else f"{event.error.type}: {event.error.message}".strip(": ")
    parts = (
        clean_text(event.path),
        clean_text(event.name),
        outcome,
        style_text(clean_text(error), "red"),
    )
    return "  ".join(part for part in parts if part)
