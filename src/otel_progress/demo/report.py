"""Shows the result of a survey, and says what to look at before and after. Text from files is never taken as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_progress.demo.survey import SHOWN, Findings, PackageTotals, Place
from otel_progress.text import cut, printable

_PACKAGES: Final = 2 * SHOWN


def before(console: Console, operation_id: str, command: str | None, metrics_url: str | None, page_url: str | None) -> None:
    """Say how to watch the survey while it runs, the page first.

    ``command`` is how to call ours; None when nothing is kept for it to read. ``page_url`` is None where the server's packages are missing.
    """
    if page_url is not None:
        address = f"{page_url.rstrip('/')}/#/operations/{operation_id}"
        console.print(Text("Watch it in a browser: ", style="bold").append(Text(address, style="bold cyan")))
    else:
        console.print(Text("To watch it in a browser: pip install 'otel-progress[server]'"))
    commands = []
    if command is not None:
        commands.append((f"{command} watch", "the same bars from another process"))
        commands.append((f"{command} logs {operation_id} --follow", "its log records as they come"))
    if metrics_url is not None:
        commands.append((f"curl {metrics_url}", "its gauges, for Prometheus"))
    console.print(Text(f"Survey {operation_id} begins.{' While it runs, in a second terminal:' if commands else ''}"))
    _commands(console, commands)


def after(console: Console, operation_id: str, command: str | None) -> None:
    """Say where the finished survey can be looked at, if it is kept."""
    if command is None:
        return
    console.print(Text("\nThe run is kept. Look at it with:", style="bold"))
    _commands(
        console,
        [
            (f"{command} show {operation_id}", "its stages and packages"),
            (f"{command} show {operation_id} --errors", "every file that failed, and why"),
            (f"{command} show {operation_id} --previews", "the map of the code, where PIL is installed"),
            (f"{command} logs {operation_id}", "what it logged"),
            (f"{command} history", "this run and those before it"),
            (f"{command} export {operation_id} --format json", "everything, for a program"),
        ],
    )


def show(console: Console, findings: Findings, elapsed: float) -> None:
    """Print the findings of a survey that took ``elapsed`` seconds."""
    total = findings.total
    left = f" of {findings.found:,}" if findings.found > total.files else ""
    size = f"{total.lines:,} lines, {total.code_lines:,} of code, {total.functions:,} functions"
    title = f"{total.files:,}{left} files in {len(findings.packages):,} packages: {size}, in {elapsed:.1f} s"
    console.print(Text(f"\n{title}", style="bold"))
    _packages(console, findings.packages)
    _functions(console, "Longest functions", findings.longest)
    _functions(console, "Most branched functions", findings.most_complex)
    imports = ", ".join(f"{name} ({count:,})" for name, count in findings.imports[: 2 * SHOWN])
    if imports:
        _section(console, "Most imported modules, by files", [imports])
    _same_files(console, findings.same_files)
    _copies(console, findings.copies)
    _listed(
        console,
        f"Files that do not compile: {len(findings.problems):,}",
        [f"{problem.file}: {cut(problem.reason, 160)}" for problem in findings.problems],
        2 * SHOWN,
    )


def _packages(console: Console, packages: Sequence[PackageTotals]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)
    table.add_column("package", overflow="ellipsis", no_wrap=True, max_width=26)
    for title in ("files", "failed", "code", "functions", "complexity", "documented"):
        table.add_column(title, justify="right", no_wrap=True)
    for totals in packages[:_PACKAGES]:
        table.add_row(*map(_cell, _row(totals)))
    console.print(table)
    if len(packages) > _PACKAGES:
        console.print(Text(f"and {len(packages) - _PACKAGES:,} smaller packages", style="dim"))


def _row(totals: PackageTotals) -> tuple[str, ...]:
    mean, documented = totals.mean_complexity, totals.documented_ratio
    return (
        totals.name,
        f"{totals.files:,}",
        f"{totals.failed:,}" if totals.failed else "",
        f"{totals.code_lines:,}",
        f"{totals.functions:,}",
        "" if mean is None else f"{mean:.1f}",
        "" if documented is None else f"{documented:.0%}",
    )


def _functions(console: Console, title: str, places: Sequence[Place]) -> None:
    lines = [f"{p.function.lines:,} lines, complexity {p.function.complexity:,}: {_place(p)}" for p in places]
    _listed(console, title, lines, SHOWN)


def _same_files(console: Console, groups: Sequence[Sequence[str]]) -> None:
    lines = [f"{len(names)} times: {_joined(names[:3])}" for names in groups]
    _listed(console, f"Files with the same content: {len(groups):,} groups", lines, SHOWN)


def _copies(console: Console, groups: Sequence[Sequence[Place]]) -> None:
    lines = [f"{len(places)} times {places[0].function.lines:,} lines: {_joined(map(_place, places[:3]))}" for places in groups]
    _listed(console, f"Functions copied from file to file: {len(groups):,} groups", lines, SHOWN)


def _joined(names: Iterable[str]) -> str:
    """Return the first two names; more are only hinted at."""
    first, second, *more = names
    return f"{first}, {second}{' …' if more else ''}"


def _place(place: Place) -> str:
    return f"{place.file}:{place.function.line} {place.function.name}"


def _listed(console: Console, title: str, lines: Sequence[str], most: int) -> None:
    """Print the first ``most`` lines under a title; nothing when there are none."""
    if lines:
        more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
        _section(console, title, [*lines[:most], *more])


def _section(console: Console, title: str, lines: Iterable[str]) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    for line in lines:
        console.print(Text("  ").append(_cell(line)))


def _commands(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    width = max((len(command) for command, _ in commands), default=0)
    for command, what in commands:
        console.print(Text(f"  {command:<{width}}", style="cyan").append(Text(f"  {what}", style="default")))


def _cell(value: str) -> Text:
    return Text(printable(cut(value)))
