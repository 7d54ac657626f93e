"""Totals and rankings of a survey, and its printed report."""

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


def run_survey(contents: dict[str, str], *, package: str = "pkg") -> Survey:
    """Return a survey of some sources with all findings."""
    survey = Survey()
    for name, source in contents.items():
        survey.add(file(name, package=package), measure_source(source.encode(), name))
    for _, fill_section in survey.build_sections():
        fill_section()
    return survey


def print_report(survey: Survey) -> str:
    """Return the report as text."""
    out = io.StringIO()
    report.print_findings(Console(file=out, width=100, soft_wrap=True), survey.findings, 1.25)
    return out.getvalue()


def test_totals_of_packages_add_up() -> None:
    """The package with the most code is first."""
    survey = Survey()
    survey.add(file("a.py", package="small"), measure_source(b"import os\n", "a.py"))
    survey.add(file("b.py", package="large"), measure_source(LONG.encode(), "b.py"))
    survey.add_problem(file("c.py", package="large"), SyntaxError("bad"))
    for _, fill_section in survey.build_sections():
        fill_section()
    findings = survey.findings
    assert [(p.name, p.files, p.failed, p.code_lines, p.functions) for p in findings.packages] == [
        ("large", 2, 1, 21, 1),
        ("small", 1, 0, 1, 0),
    ]
    assert (findings.total.files, findings.total.failed, findings.total.code_lines) == (3, 1, 22)
    assert findings.packages[0].mean_complexity == 1.0
    assert findings.packages[1].mean_complexity is None
    assert findings.packages[1].documented_ratio == 0.0


def test_functions_are_ranked_by_length_and_complexity() -> None:
    """The lists are bounded."""
    many = "\n".join(f"def f{n}():\n    return {n}\n" for n in range(20))
    findings = run_survey(
        {"a.py": LONG + many + "def branched(x):\n    return x if x else 1 if x > 2 else 3\n"}
    ).findings
    assert findings.longest[0].function.name == "long"
    assert findings.most_complex[0].function.name == "branched"
    assert len(findings.longest) == len(findings.most_complex) == MAX_SHOWN


def test_duplicate_files_are_reported_once() -> None:
    """Their functions are not copies, and empty files are not duplicates."""
    findings = run_survey({"a.py": LONG, "b.py": LONG, "empty1.py": "", "empty2.py": "# nothing\n"}).findings
    assert findings.same_files == [["pkg/a.py", "pkg/b.py"]]
    assert findings.copies == []


def test_copied_function_with_other_comments_is_reported() -> None:
    findings = run_survey({"a.py": LONG, "b.py": f"import os\n# copied\n{LONG}"}).findings
    assert findings.same_files == []
    assert [[place.file for place in places] for places in findings.copies] == [["pkg/a.py", "pkg/b.py"]]


def test_imports_are_counted_once_per_file() -> None:
    findings = run_survey(
        {"a.py": "import os, os.path\nimport re\n", "b.py": "from os import path\n"}
    ).findings
    assert findings.imports == [("os", 2), ("re", 1)]


def test_reason_of_error_is_one_line() -> None:
    assert explain_error(SyntaxError("bad", ("x.py", 3, 1, "x"))) == "line 3: bad"
    assert explain_error(SyntaxError("unknown encoding: x")) == "unknown encoding: x"
    assert explain_error(PermissionError(13, "Permission denied")) == "Permission denied"
    assert explain_error(RecursionError()) == "RecursionError"


def test_report_of_all_findings_has_every_section() -> None:
    survey = run_survey({"a.py": LONG, "b.py": LONG, "c.py": f"import os\n{LONG}"})
    survey.add_problem(file("broken.py"), SyntaxError("bad", ("x.py", 3, 1, "x")))
    report_text = print_report(survey)
    for words in (
        "4 files in 1 packages",
        "in 1.2 s",
        "Longest functions",
        "Most complex functions",
        "os (1)",
        "2 times: pkg/a.py, pkg/b.py",
        "2 times 21 lines: pkg/a.py:1 long, pkg/c.py:2 long",
        "pkg/broken.py: line 3: bad",
    ):
        assert words in report_text


def test_report_without_findings_has_no_sections() -> None:
    assert "Longest" not in print_report(run_survey({"a.py": "x = 1\n"}))


def test_report_escapes_control_characters() -> None:
    """Terminal escapes, markup, line breaks and lone surrogates are shown as text."""
    survey = Survey()
    survey.add_problem(
        file("[red]\x1b[2J\n\udcff\u202e.py", package="[bold]p\x07"),
        SyntaxError("worse\x1b]0;title\x07" + "x" * 10_000),
    )
    for _, fill_section in survey.build_sections():
        fill_section()
    report_text = print_report(survey)
    assert "[red]" in report_text
    assert "[bold]" in report_text
    assert not set(report_text) & {"\x1b", "\x07", "\u202e", "\udcff"}
    assert len(report_text) < 2000
