"""Adding up and reporting: conclusions from made files, and a report that shows any name safely."""

from __future__ import annotations

import io

from rich.console import Console

from otel_progress.demo import report
from otel_progress.demo.measure import measure_source
from otel_progress.demo.report import MAX_SHOWN, Survey, explain_error
from otel_progress.demo.sources import SourceFile

LONG = "def long():\n" + "\n".join(f"    v{n} = {n}" for n in range(20)) + "\n"


def file(label: str, *, package: str = "pkg") -> SourceFile:
    """Return a file of a package."""
    return SourceFile(f"/x/{package}/{label}", (package,), label, 1)


def surveyed(contents: dict[str, str], *, package: str = "pkg") -> Survey:
    """Return a survey of some sources, with all conclusions drawn."""
    survey = Survey()
    for name, source in contents.items():
        survey.add(file(name, package=package), measure_source(source.encode(), name))
    for _, conclude in survey.build_sections():
        conclude()
    return survey


def shown(survey: Survey) -> str:
    """Return the report as text."""
    out = io.StringIO()
    report.print_findings(Console(file=out, width=100, soft_wrap=True), survey.findings, 1.25)
    return out.getvalue()


def test_totals_add_up_by_package() -> None:
    """Counts of packages come to those of the whole; the package with the most code comes first."""
    survey = Survey()
    survey.add(file("a.py", package="small"), measure_source(b"import os\n", "a.py"))
    survey.add(file("b.py", package="large"), measure_source(LONG.encode(), "b.py"))
    survey.add_problem(file("c.py", package="large"), SyntaxError("bad"))
    for _, conclude in survey.build_sections():
        conclude()
    found = survey.findings
    assert [(p.name, p.files, p.failed, p.code_lines, p.functions) for p in found.packages] == [
        ("large", 2, 1, 21, 1),
        ("small", 1, 0, 1, 0),
    ]
    assert (found.total.files, found.total.failed, found.total.code_lines) == (3, 1, 22)
    assert found.packages[0].mean_complexity == 1.0
    assert found.packages[1].mean_complexity is None
    assert found.packages[1].documented_ratio == 0.0


def test_functions_are_ranked() -> None:
    """The longest and the most branched functions come first, and lists are bounded."""
    many = "\n".join(f"def f{n}():\n    return {n}\n" for n in range(20))
    found = surveyed(
        {"a.py": LONG + many + "def branched(x):\n    return x if x else 1 if x > 2 else 3\n"}
    ).findings
    assert found.longest[0].function.name == "long"
    assert found.most_complex[0].function.name == "branched"
    assert len(found.longest) == len(found.most_complex) == MAX_SHOWN


def test_duplicates_are_found_once() -> None:
    """Same files are one finding; their functions are not reported as copies again; empty files are no duplicates."""
    found = surveyed({"a.py": LONG, "b.py": LONG, "empty1.py": "", "empty2.py": "# nothing\n"}).findings
    assert found.same_files == [["pkg/a.py", "pkg/b.py"]]
    assert found.copies == []


def test_copied_functions_are_found_across_files() -> None:
    """A function that differs in comments only is a copy, in files that differ otherwise."""
    found = surveyed({"a.py": LONG, "b.py": f"import os\n# copied\n{LONG}"}).findings
    assert found.same_files == []
    assert [[place.file for place in places] for places in found.copies] == [["pkg/a.py", "pkg/b.py"]]


def test_imports_are_counted_by_file() -> None:
    """A module counts once for each file that imports it."""
    found = surveyed({"a.py": "import os, os.path\nimport re\n", "b.py": "from os import path\n"}).findings
    assert found.imports == [("os", 2), ("re", 1)]


def test_reasons_are_one_line_of_words() -> None:
    """Why a file failed is said with the line where there is one, and never as an empty text."""
    assert explain_error(SyntaxError("bad", ("x.py", 3, 1, "x"))) == "line 3: bad"
    assert explain_error(SyntaxError("unknown encoding: x")) == "unknown encoding: x"
    assert explain_error(PermissionError(13, "Permission denied")) == "Permission denied"
    assert explain_error(RecursionError()) == "RecursionError"


def test_report_has_every_section() -> None:
    """All findings of a survey come to stand in its report."""
    survey = surveyed({"a.py": LONG, "b.py": LONG, "c.py": f"import os\n{LONG}"})
    survey.add_problem(file("broken.py"), SyntaxError("bad", ("x.py", 3, 1, "x")))
    found = shown(survey)
    for words in (
        "4 files in 1 packages",
        "in 1.2 s",
        "Longest functions",
        "Most branched functions",
        "os (1)",
        "2 times: pkg/a.py, pkg/b.py",
        "2 times 21 lines: pkg/a.py:1 long, pkg/c.py:2 long",
        "pkg/broken.py: line 3: bad",
    ):
        assert words in found


def test_report_of_nothing_is_short() -> None:
    """Sections without findings are left out."""
    assert "Longest" not in shown(surveyed({"a.py": "x = 1\n"}))


def test_report_shows_hostile_names_harmlessly() -> None:
    """Terminal escapes, markup, newlines and lone surrogates in names and reasons are shown, not obeyed, and never fail."""
    survey = Survey()
    survey.add_problem(
        file("[red]\x1b[2J\n\udcff\u202e.py", package="[bold]p\x07"),
        SyntaxError("worse\x1b]0;title\x07" + "x" * 10_000),
    )
    for _, conclude in survey.build_sections():
        conclude()
    found = shown(survey)
    assert "[red]" in found
    assert "[bold]" in found
    assert not set(found) & {"\x1b", "\x07", "\u202e", "\udcff"}
    assert len(found) < 2000
