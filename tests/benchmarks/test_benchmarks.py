"""The benchmarks run and print their tables. Speed is not asserted."""

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
sys.path.insert(0, str(ROOT))  # The benchmarks are not part of the package.

from benchmarks import rounds  # noqa: E402 - only found by the line above
from benchmarks.catalogue import BENCHMARKS  # noqa: E402 - only found by the line above
from benchmarks.report import HEADLINES, document, summary, with_summary  # noqa: E402
from benchmarks.rounds import Effort, Job, Variant, best_seconds  # noqa: E402
from benchmarks.spanning import attributes_of_a_level  # noqa: E402
from benchmarks.table import HEADINGS, Row, judged, markdown, text  # noqa: E402

from otel_progress import semconv  # noqa: E402
from otel_progress.testing import FakeClock  # noqa: E402
from tests.support.servers import require  # noqa: E402

EXACT = ("exactly", "nothing active, journal and gauges on: ticks")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command from the root of the repository, as a user does."""
    environ = {**os.environ, "OTEL_PROGRESS_STORE": "nonsense:", "OTEL_SDK_DISABLED": "true", "no_proxy": "*"}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environ, check=False, capture_output=True, text=True, timeout=120
    )


@pytest.mark.process
@pytest.mark.parametrize("name", [benchmark.name for benchmark in BENCHMARKS])
def test_benchmark_with_tiny_effort_prints_its_table(name: str) -> None:
    """Settings of the shell have no effect, and exact targets are met."""
    ran = run("--effort", "tiny", name)
    assert "Traceback" not in ran.stderr
    assert ran.returncode in (0, 1)
    lines = ran.stdout.splitlines()
    assert lines[0].endswith(f"({name})")
    assert lines[1].split() == list(HEADINGS)
    assert len(lines) > 3
    assert [line for line in lines if any(word in line for word in EXACT) and line.endswith("NO")] == []


def test_page_has_a_heading_per_benchmark() -> None:
    """docs/benchmarks.md has a heading and a table for each benchmark that was run."""
    rows = [Row("a loop", "1 ns", "0.5 × tqdm", "≤ 1 × tqdm", "yes"), Row("tqdm", "2 ns")]
    page = document({"iterations": rows, "command": rows})
    assert page.startswith("# Benchmarks\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Memory of a long loop",
        "## The command's start",
    ]


def test_summary_with_full_page_has_five_rows() -> None:
    """Each headline of the README names a row of docs/benchmarks.md."""
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    rows = summary(page).partition("| --- |")[2].splitlines()[1:]
    assert len(rows) == len(HEADLINES) == 5
    assert "| One iteration of `track`, relative to tqdm | 0." in rows[0]


def test_readme_has_the_results_of_the_page() -> None:
    """One command writes both."""
    readme, page = (
        (ROOT / "README.md").read_text(encoding="utf-8"),
        (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"),
    )
    assert with_summary(readme, page) == readme


@pytest.mark.process
def test_write_with_names_is_rejected() -> None:
    """Other benchmarks would be missing on the page."""
    assert run("--write", "track").returncode == 2


@pytest.mark.process
def test_unknown_benchmark_name_is_rejected() -> None:
    """The command exits with 2 before a benchmark is run."""
    ran = run("speed")
    assert ran.returncode == 2
    assert "'speed'" in ran.stderr
    assert "iterations" in ran.stderr
    assert ran.stdout == ""


def test_committed_page_has_every_benchmark() -> None:
    """docs/benchmarks.md has a section and rows for each benchmark."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for benchmark in BENCHMARKS:
        section = page.partition(f"\n## {benchmark.title}\n")[2].partition("\n## ")[0]
        assert benchmark.method in " ".join(section.split())
        assert section.count("\n|") >= 3


def test_page_has_date_and_machine_before_results() -> None:
    """Results depend on both."""
    page = document({"track": [judged("loop", "9 ns", "0.2", "≤ 0.35", met=False)]})
    assert f"{os.cpu_count()} cores, " in page
    assert "tqdm " in page
    assert "| loop | 9 ns | 0.2 | ≤ 0.35 | NO |" in page


def test_best_seconds_alternates_variants_and_returns_the_shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round starts with another variant. Preparation is not timed."""
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


def test_effort_with_tiny_share_has_a_minimum() -> None:
    """A tiny effort runs a few of everything."""
    assert Effort(share=0.5).count(1_000) == 500
    assert Effort(share=0.001).count(1_000) == 10
    assert Effort(share=2.0).seconds(5.0) == 10.0
    assert Effort(share=0.001).seconds(5.0) == 0.5


def test_bare_span_has_the_attributes_of_a_level() -> None:
    """Identifying attributes are set at the start, results at the end, and none twice."""
    seen = attributes_of_a_level()
    assert {semconv.PATH, semconv.LEVEL_TYPE} <= set(seen.first)
    assert {semconv.STATUS, semconv.CURRENT} <= set(seen.final)
    assert not set(seen.first) & set(seen.final)


def test_tables_are_aligned_and_escaped() -> None:
    """A bar in a cell does not end the cell in Markdown."""
    rows = [Row("a", "1 ns"), Row("a | longer one", "22 ns")]
    first, *others = text(rows).splitlines()
    assert {
        line.index(cell) for line, cell in zip((first, *others), ("cost", "1 ns", "22 ns"), strict=True)
    } == {len(rows[1].what) + 2}
    assert r"| a \| longer one | 22 ns |" in markdown(rows)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.process
def test_benchmark_of_a_shared_journal_prints_its_table() -> None:
    """It needs a Redis server, so it is not in the catalogue. Speed is not asserted."""
    require("redis-server")
    sizes = ["--seconds", "1", "--processes", "2", "--operations", "20", "--clients", "10", "--outage", "0.5"]
    command = [sys.executable, "-m", "benchmarks.sharing", *sizes]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert ran.returncode in (0, 1), ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].split() == list(HEADINGS)
    assert lines[1].startswith("20 operations of 2 processes: p99 from tick to reader")
    assert len(lines) == 10


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.process
def test_benchmark_of_scale_prints_its_tables() -> None:
    """Speed is not asserted. The number of live operations follows from the rates."""
    for program in ("redis-server", "prometheus"):
        require(program)
    command = [sys.executable, "-m", "benchmarks.scaling", "--effort", "tiny"]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    cells = [line.strip("| ").split(" | ") for line in ran.stdout.splitlines() if line.startswith("| ")]
    found = {row[0]: row[1] for row in cells}
    assert [name for name in found if name.startswith("Simulated day")]
    assert 90_000 < float(found["live operations, mean"].replace(",", "")) < 110_000
    assert float(found["live operations, peak"].replace(",", "")) > 100_000
