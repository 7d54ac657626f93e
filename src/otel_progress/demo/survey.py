"""Adds up what the files come to, and draws the conclusions of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

from otel_progress.demo.code_map import CodeMap
from otel_progress.demo.measure import Function, Measures
from otel_progress.demo.sources import SourceFile

SHOWN: Final = 8
"""Longest list in a report; packages get twice as many."""


@dataclass(slots=True)
class PackageTotals:
    """What the files of one package come to."""

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
        """Complexity of a function on average; None without functions."""
        return self.complexity / self.functions if self.functions else None

    @property
    def documented_ratio(self) -> float | None:
        """Share of what is public that has a docstring, 0 to 1; None when nothing is."""
        return self.documented / self.documentable if self.documentable else None


@dataclass(frozen=True, slots=True)
class Place:
    """A function and the file it is in."""

    file: str
    function: Function


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that could not be examined, and why."""

    file: str
    reason: str


@dataclass(slots=True)
class Findings:
    """The conclusions, each list with the weightiest first. ``found`` counts the files there are, examined or not."""

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
    """Collects measures file by file. ``sections`` draws the conclusions one after the other.

    ``map`` shows what has been read so far; it is set once the files are known, where it can be drawn.
    """

    def __init__(self) -> None:
        self.findings = Findings(PackageTotals("all"))
        self.map: CodeMap | None = None
        self._packages: dict[str, PackageTotals] = {}
        self._places: list[Place] = []
        self._imports: Counter[str] = Counter()
        self._contents: dict[str, list[str]] = {}

    def add(self, file: SourceFile, measures: Measures) -> None:
        """Take in one file that could be examined."""
        for totals in (self._package(file), self.findings.total):
            totals.files += 1
            totals.lines += measures.lines
            totals.code_lines += measures.code_lines
            totals.functions += len(measures.functions)
            totals.complexity += sum(function.complexity for function in measures.functions)
            totals.documentable += measures.documentable
            totals.documented += measures.documented
        self._places.extend(Place(file.label, function) for function in measures.functions)
        self._imports.update(measures.imports)
        if measures.code_lines:  # empty __init__ files are all alike
            self._contents.setdefault(measures.sha256, []).append(file.label)
        if self.map is not None:
            self.map.add(file, measures)

    def add_problem(self, file: SourceFile, error: BaseException) -> str:
        """Take in one file that could not be examined, and return the reason in words."""
        reason = explain(error)
        for totals in (self._package(file), self.findings.total):
            totals.files += 1
            totals.failed += 1
        self.findings.problems.append(Problem(file.label, reason))
        if self.map is not None:
            self.map.add_problem(file)
        return reason

    def sections(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the parts of the report, each with the function that draws its conclusions into ``findings``."""
        return [
            ("packages", self._rank_packages),
            ("functions", self._rank_functions),
            ("imports", self._rank_imports),
            ("same files", self._find_same_files),
            ("copied functions", self._find_copies),
        ]

    def _package(self, file: SourceFile) -> PackageTotals:
        name = file.folder[0]
        return self._packages.setdefault(name, PackageTotals(name))

    def _rank_packages(self) -> None:
        self.findings.packages = sorted(self._packages.values(), key=lambda totals: (-totals.code_lines, totals.name))

    def _rank_functions(self) -> None:
        self.findings.longest = nlargest(SHOWN, self._places, key=lambda place: place.function.lines)
        self.findings.most_complex = nlargest(SHOWN, self._places, key=lambda place: place.function.complexity)

    def _rank_imports(self) -> None:
        self.findings.imports = sorted(self._imports.items(), key=lambda item: (-item[1], item[0]))

    def _find_same_files(self) -> None:
        groups = [names for names in self._contents.values() if len(names) > 1]
        self.findings.same_files = sorted(groups, key=lambda names: (-len(names), names[0]))

    def _find_copies(self) -> None:
        whole = {name for names in self.findings.same_files for name in names[1:]}
        shapes: dict[bytes, list[Place]] = {}
        for place in self._places:
            if place.function.shape is not None and place.file not in whole:
                shapes.setdefault(place.function.shape, []).append(place)
        copies = [places for places in shapes.values() if len(places) > 1]
        self.findings.copies = sorted(copies, key=lambda places: (-_copied_lines(places), places[0].file))


def _copied_lines(places: list[Place]) -> int:
    return places[0].function.lines * (len(places) - 1)


def explain(error: BaseException) -> str:
    """Return in one line why a file could not be examined."""
    if isinstance(error, SyntaxError):
        place = f"line {error.lineno}: " if error.lineno else ""
        return f"{place}{error.msg}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
