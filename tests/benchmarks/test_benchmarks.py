"""The benchmarks run and print what they promise to; how fast anything is, is not asserted here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package

from benchmarks import rounds  # noqa: E402 - only found by the line above
from benchmarks.catalogue import BENCHMARKS  # noqa: E402 - only found by the line above
from benchmarks.report import HEADLINES, document, summary, with_summary  # noqa: E402
from benchmarks.rounds import Effort, Job, Variant, best_seconds  # noqa: E402
from benchmarks.spanning import attributes_of_a_level  # noqa: E402
from benchmarks.table import HEADINGS, Row, judged, markdown, text  # noqa: E402

from otel_progress import semconv  # noqa: E402
from otel_progress.testing import FakeClock  # noqa: E402

EXACT = ("exactly", "nothing active, journal and gauges on: ticks")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, from the root of the repository."""
    environ = {**os.environ, "OTEL_PROGRESS_STORE": "nonsense:", "OTEL_SDK_DISABLED": "true", "no_proxy": "*"}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environ, check=False, capture_output=True, text=True, timeout=120
    )


@pytest.mark.process
@pytest.mark.parametrize("name", [benchmark.name for benchmark in BENCHMARKS])
def test_each_benchmark_prints_its_table(name: str) -> None:
    """In a tiny size, with settings in the shell that must not matter; exact promises are kept even then."""
    ran = run("--effort", "tiny", name)
    assert "Traceback" not in ran.stderr
    assert ran.returncode in (0, 1)
    lines = ran.stdout.splitlines()
    assert lines[0].endswith(f"({name})")
    assert lines[1].split() == list(HEADINGS)
    assert len(lines) > 3
    assert [line for line in lines if any(word in line for word in EXACT) and line.endswith("NO")] == []


def test_the_page_has_a_heading_for_each_benchmark() -> None:
    """What is written to docs/benchmarks.md has a heading and a table for what was run, and nothing else."""
    rows = [Row("a loop", "1 ns", "0.5 × tqdm", "≤ 1 × tqdm", "yes"), Row("tqdm", "2 ns")]
    page = document({"iterations": rows, "command": rows})
    assert page.startswith("# Benchmarks\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Memory of a long loop",
        "## The command's start",
    ]


def test_summary_with_full_page_has_five_rows() -> None:
    """Each headline of the README names a row of docs/benchmarks.md, so no line disappears when a row is renamed."""
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    rows = summary(page).partition("| --- |")[2].splitlines()[1:]
    assert len(rows) == len(HEADLINES) == 5
    assert "| One iteration of `track`, relative to tqdm | 0." in rows[0]


def test_the_readme_has_the_last_results() -> None:
    """The figures of the README are those of docs/benchmarks.md, which one command writes."""
    readme, page = (
        (ROOT / "README.md").read_text(encoding="utf-8"),
        (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"),
    )
    assert with_summary(readme, page) == readme


@pytest.mark.process
def test_writing_is_for_all() -> None:
    """--write with some names would leave the others out of the page, so it is refused."""
    assert run("--write", "track").returncode == 2


@pytest.mark.process
def test_an_unknown_name_says_which_there_are() -> None:
    """A benchmark that does not exist ends the command with 2, before anything is run."""
    ran = run("speed")
    assert ran.returncode == 2
    assert "'speed'" in ran.stderr
    assert "iterations" in ran.stderr
    assert ran.stdout == ""


def test_the_documentation_has_every_benchmark() -> None:
    """docs/benchmarks.md has a section and rows for each benchmark, as the command writes it."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for benchmark in BENCHMARKS:
        section = page.partition(f"\n## {benchmark.title}\n")[2].partition("\n## ")[0]
        assert benchmark.method in section
        assert section.count("\n|") >= 3


def test_a_page_tells_date_and_machine() -> None:
    """What figures depend on stands above them."""
    page = document({"track": [judged("loop", "9 ns", "0.2", "≤ 0.35", met=False)]})
    assert f"{os.cpu_count()} cores, " in page
    assert "tqdm " in page
    assert "| loop | 9 ns | 0.2 | ≤ 0.35 | NO |" in page


def test_variants_take_turns_and_the_best_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round begins with another variant, sets up anew, and only the shortest time of each is kept: that of its job alone."""
    order: list[str] = []
    clock, takes = FakeClock(), {"a": iter([3.0, 2.0]), "b": iter([5.0, 7.0])}
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=clock.monotonic))

    def job(name: str) -> None:
        order.append(name)
        clock.advance(next(takes[name]))

    def variant(name: str) -> Variant:
        @contextmanager
        def prepare() -> Iterator[Job]:
            order.append(f"{name}+")
            clock.advance(100.0)
            yield lambda: job(name)
            order.append(f"{name}-")
            clock.advance(100.0)

        return Variant(name, prepare)

    best = best_seconds([variant("a"), variant("b")], rounds=2)
    assert order == ["a+", "a", "a-", "b+", "b", "b-", "b+", "b", "b-", "a+", "a", "a-"]
    assert best == {"a": 2.0, "b": 5.0}
    assert list(best) == ["a", "b"]


def test_an_effort_scales_and_never_does_nothing() -> None:
    """A tiny effort still does a few of everything."""
    assert Effort(share=0.5).count(1_000) == 500
    assert Effort(share=0.001).count(1_000) == 10
    assert Effort(share=2.0).seconds(5.0) == 10.0
    assert Effort(share=0.001).seconds(5.0) == 0.5


def test_the_bare_span_gets_the_attributes_of_a_level() -> None:
    """What identifies a level is there at its start, what came of it only at its end, and none of it twice."""
    seen = attributes_of_a_level()
    assert {semconv.PATH, semconv.LEVEL_TYPE} <= set(seen.first)
    assert {semconv.STATUS, semconv.CURRENT} <= set(seen.final)
    assert not set(seen.first) & set(seen.final)


def test_tables_line_up_and_escape() -> None:
    """Columns are as wide as their widest cell; a bar in a cell does not end it in Markdown."""
    rows = [Row("a", "1 ns"), Row("a | longer one", "22 ns")]
    first, *others = text(rows).splitlines()
    assert {
        line.index(cell) for line, cell in zip((first, *others), ("cost", "1 ns", "22 ns"), strict=True)
    } == {len(rows[1].what) + 2}
    assert r"| a \| longer one | 22 ns |" in markdown(rows)
