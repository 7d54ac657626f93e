"""Results of a survey: totals, rankings, and the printed report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_progress.demo.code_map import CodeMap
from otel_progress.demo.measure import Function, Measures
from otel_progress.demo.sources import SourceFile
from otel_progress.text import escape_controls, truncate

MAX_SHOWN: Final = 8
"""Longest list in the report, of packages twice as many.

The others are counted.
"""


@dataclass(slots=True)
class PackageTotals:
    """Totals of the files of one package."""

    name: str
    files: int = 0
    failed: int = 0
    lines: int = 0
    code_lines: int = 0
    functions: int = 0
    complexity: int = 0
    documentable: int = 0
    documented: int = 0

    @property
    def mean_complexity(self) -> float | None:
        """Mean complexity of the functions. None without functions."""
        return self.complexity / self.functions if self.functions else None

    @property
    def documented_ratio(self) -> float | None:
        """Share of public names with a docstring, 0 to 1. None without public names."""
        return self.documented / self.documentable if self.documentable else None


@dataclass(frozen=True, slots=True)
class Place:
    """Function and its file."""

    file: str
    function: Function


@dataclass(frozen=True, slots=True)
class Problem:
    """File that could not be examined, and the reason."""

    file: str
    reason: str


@dataclass(slots=True)
class Findings:
    """Results of a survey, each list in descending order.

    ``found`` counts all files, examined or not.
    """

    total: PackageTotals
    found: int = 0
    packages: list[PackageTotals] = field(default_factory=list)
    longest: list[Place] = field(default_factory=list)
    most_complex: list[Place] = field(default_factory=list)
    imports: list[tuple[str, int]] = field(default_factory=list)
    same_files: list[list[str]] = field(default_factory=list)
    copies: list[list[Place]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class Survey:
    """Collects measures file by file.

    The functions of ``build_sections`` fill ``findings``.
    ``map`` shows the files examined so far. It is set when the files are known, if PIL is
    installed.
    """

    def __init__(self) -> None:
        self.findings = Findings(PackageTotals("all"))
        self.map: CodeMap | None = None
        self._packages: dict[str, PackageTotals] = {}
        self._places: list[Place] = []
        self._imports: Counter[str] = Counter()
        self._contents: dict[str, list[str]] = {}

    def add(self, file: SourceFile, measures: Measures) -> None:
        """Include an examined file."""
        for totals in (self._get_totals(file), self.findings.total):
            totals.files += 1
            totals.lines += measures.lines
            totals.code_lines += measures.code_lines
            totals.functions += len(measures.functions)
            totals.complexity += sum(function.complexity for function in measures.functions)
            totals.documentable += measures.documentable
            totals.documented += measures.documented
        self._places.extend(Place(file.label, function) for function in measures.functions)
        self._imports.update(measures.imports)
        if measures.code_lines:  # empty __init__ files are not copies
            self._contents.setdefault(measures.sha256, []).append(file.label)
        if self.map is not None:
            self.map.add(file, measures)

    def add_problem(self, file: SourceFile, error: BaseException) -> str:
        """Include a file that could not be examined. Return the reason as text."""
        reason = explain_error(error)
        for totals in (self._get_totals(file), self.findings.total):
            totals.files += 1
            totals.failed += 1
        self.findings.problems.append(Problem(file.label, reason))
        if self.map is not None:
            self.map.add_problem(file)
        return reason

    def build_sections(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the title of each section and the function that fills its findings."""
        return [
            ("packages", self._rank_packages),
            ("functions", self._rank_functions),
            ("imports", self._rank_imports),
            ("same files", self._find_same_files),
            ("copied functions", self._find_copies),
        ]

    def _get_totals(self, file: SourceFile) -> PackageTotals:
        name = file.folder[0]
        return self._packages.setdefault(name, PackageTotals(name))

    def _rank_packages(self) -> None:
        self.findings.packages = sorted(
            self._packages.values(), key=lambda totals: (-totals.code_lines, totals.name)
        )

    def _rank_functions(self) -> None:
        self.findings.longest = nlargest(MAX_SHOWN, self._places, key=lambda place: place.function.lines)
        self.findings.most_complex = nlargest(
            MAX_SHOWN, self._places, key=lambda place: place.function.complexity
        )

    def _rank_imports(self) -> None:
        self.findings.imports = sorted(self._imports.items(), key=lambda item: (-item[1], item[0]))

    def _find_same_files(self) -> None:
        groups = [names for names in self._contents.values() if len(names) > 1]
        self.findings.same_files = sorted(groups, key=lambda names: (-len(names), names[0]))

    def _find_copies(self) -> None:
        duplicates = {name for names in self.findings.same_files for name in names[1:]}
        shapes: dict[bytes, list[Place]] = {}
        for place in self._places:
            if place.function.shape is not None and place.file not in duplicates:
                shapes.setdefault(place.function.shape, []).append(place)
        copies = [places for places in shapes.values() if len(places) > 1]
        self.findings.copies = sorted(
            copies, key=lambda places: (-_count_copied_lines(places), places[0].file)
        )


def _count_copied_lines(places: list[Place]) -> int:
    return places[0].function.lines * (len(places) - 1)


def explain_error(error: BaseException) -> str:
    """Return the reason why a file could not be examined, as one line."""
    if isinstance(error, SyntaxError):
        place = f"line {error.lineno}: " if error.lineno else ""
        return f"{place}{error.msg}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


_MAX_PACKAGES: Final = 2 * MAX_SHOWN
"""Packages listed in the report.

The others are counted.
"""


def print_introduction(
    console: Console, operation_id: str, command: str | None, metrics_url: str | None, page_url: str | None
) -> None:
    """Print how to watch the survey: the page, then the commands.

    ``command`` calls ``otel-progress``, None if the journal is not stored. ``page_url`` is None if
    the server is not installed.
    """
    if page_url is not None:
        address = f"{page_url.rstrip('/')}/#/operations/{operation_id}"
        console.print(Text("Watch in a browser: ", style="bold").append(Text(address, style="bold cyan")))
    else:
        console.print(Text("To watch in a browser: pip install 'otel-progress[server]'"))
    commands = []
    if command is not None:
        commands.append((f"{command} watch", "the same bars from another process"))
        commands.append((f"{command} logs {operation_id} --follow", "its log records, live"))
    if metrics_url is not None:
        commands.append((f"curl {metrics_url}", "its metrics, for Prometheus"))
    console.print(Text(f"Survey {operation_id} starts.{' In a second terminal:' if commands else ''}"))
    _print_commands(console, commands)


def print_next_steps(console: Console, operation_id: str, command: str | None) -> None:
    """Print the commands that show the finished survey, if it is stored."""
    if command is None:
        return
    console.print(Text("\nThe survey is stored. To inspect it:", style="bold"))
    _print_commands(
        console,
        [
            (f"{command} show {operation_id}", "its stages and packages"),
            (f"{command} show {operation_id} --errors", "all failed files with their errors"),
            (f"{command} show {operation_id} --previews", "the map of the code (requires PIL)"),
            (f"{command} logs {operation_id}", "its log records"),
            (f"{command} history", "this survey and earlier ones"),
            (f"{command} export {operation_id} --format json", "all data, for other programs"),
        ],
    )


def print_findings(console: Console, findings: Findings, elapsed: float) -> None:
    """Print the findings of a survey that took ``elapsed`` seconds."""
    total = findings.total
    of_all = f" of {findings.found:,}" if findings.found > total.files else ""
    size = f"{total.lines:,} lines, {total.code_lines:,} of code, {total.functions:,} functions"
    title = (
        f"{total.files:,}{of_all} files in {len(findings.packages):,} packages: {size}, in {elapsed:.1f} s"
    )
    console.print(Text(f"\n{title}", style="bold"))
    _print_packages(console, findings.packages)
    _print_functions(console, "Longest functions", findings.longest)
    _print_functions(console, "Most complex functions", findings.most_complex)
    imports = ", ".join(f"{name} ({count:,})" for name, count in findings.imports[: 2 * MAX_SHOWN])
    if imports:
        _print_section(console, "Most imported modules, by number of files", [imports])
    _print_same_files(console, findings.same_files)
    _print_copies(console, findings.copies)
    _print_list(
        console,
        f"Files that do not compile: {len(findings.problems):,}",
        [f"{problem.file}: {truncate(problem.reason, 160)}" for problem in findings.problems],
        2 * MAX_SHOWN,
    )


def _print_packages(console: Console, packages: Sequence[PackageTotals]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)
    table.add_column("package", overflow="ellipsis", no_wrap=True, max_width=26)
    for title in ("files", "failed", "code", "functions", "complexity", "documented"):
        table.add_column(title, justify="right", no_wrap=True)
    for totals in packages[:_MAX_PACKAGES]:
        table.add_row(*map(_build_cell, _build_row(totals)))
    console.print(table)
    if len(packages) > _MAX_PACKAGES:
        console.print(Text(f"and {len(packages) - _MAX_PACKAGES:,} smaller packages", style="dim"))


def _build_row(totals: PackageTotals) -> tuple[str, ...]:
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


def _print_functions(console: Console, title: str, places: Sequence[Place]) -> None:
    lines = [
        f"{p.function.lines:,} lines, complexity {p.function.complexity:,}: {_format_place(p)}"
        for p in places
    ]
    _print_list(console, title, lines, MAX_SHOWN)


def _print_same_files(console: Console, groups: Sequence[Sequence[str]]) -> None:
    lines = [f"{len(names)} times: {_join_names(names[:3])}" for names in groups]
    _print_list(console, f"Files with the same content: {len(groups):,} groups", lines, MAX_SHOWN)


def _print_copies(console: Console, groups: Sequence[Sequence[Place]]) -> None:
    lines = [
        f"{len(places)} times {places[0].function.lines:,} lines: "
        f"{_join_names(map(_format_place, places[:3]))}"
        for places in groups
    ]
    _print_list(console, f"Copied functions: {len(groups):,} groups", lines, MAX_SHOWN)


def _join_names(names: Iterable[str]) -> str:
    """Return the first two names, and an ellipsis if there are more."""
    first, second, *more = names
    return f"{first}, {second}{' …' if more else ''}"


def _format_place(place: Place) -> str:
    return f"{place.file}:{place.function.line} {place.function.name}"


def _print_list(console: Console, title: str, lines: Sequence[str], limit: int) -> None:
    """Print the first ``limit`` lines under a title, nothing without lines."""
    if lines:
        more = [f"and {len(lines) - limit:,} more"] if len(lines) > limit else []
        _print_section(console, title, [*lines[:limit], *more])


def _print_section(console: Console, title: str, lines: Iterable[str]) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    for line in lines:
        console.print(Text("  ").append(_build_cell(line)))


def _print_commands(console: Console, commands: Sequence[tuple[str, str]]) -> None:
    width = max((len(command) for command, _ in commands), default=0)
    for command, purpose in commands:
        console.print(
            Text(f"  {command:<{width}}", style="cyan").append(Text(f"  {purpose}", style="default"))
        )


def _build_cell(value: str) -> Text:
    return Text(escape_controls(truncate(value)))
