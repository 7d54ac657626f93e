"""The command that replays: what it prints, promises, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import eta, eta_cost, eta_jobs, eta_page, eta_report, record_traces
from benchmarks.eta_baselines import BASELINES
from benchmarks.eta_replay import OURS, Sums
from benchmarks.eta_scenarios import SCENARIOS
from benchmarks.eta_scores import MEAN
from benchmarks.eta_traces import Header, write
from benchmarks.rounds import Effort
from benchmarks.table import Row

from otel_progress.eta import estimate
from tests.support.eta_replays import BY_NAME, results_with, steady, sums

ROOT = Path(__file__).resolve().parents[2]


def test_promises_are_judged() -> None:
    """Below the bounds, better than all and covered as asked: yes to all; each of them missed: NO to that."""
    kept = eta_report.promises(results_with(sums(0.007), sums(0.05)), "traces")
    assert [row.met for row in kept] == ["yes"] * 6
    assert kept[0].what == "traces, 3 to 20 runs of history: error"
    missed = eta_report.promises(results_with(sums(0.02, covered=90, jumps=0.2), sums(0.019)), "traces")
    assert [row.met for row in missed] == ["NO", "NO", "yes", "NO", "NO", "NO"]  # before 25 % more is allowed
    assert missed[4].cost.startswith("not than tqdm on job, average on job")


def test_who_never_answers_beats_nobody() -> None:
    """A rule without an answer is no rival; an estimate without one is never better."""
    silent = Sums(questions=100, runs=1)
    assert {row.met for row in eta_report.promises(results_with(sums(0.007), silent), "t")} == {"yes"}
    rows = eta_report.promises(results_with(silent, sums(0.05)), "t")
    assert {row.met for row in rows} == {"NO"}


def test_the_document_has_the_figures_of_the_tables() -> None:
    """Every scenario that was asked, with each workload and the mean, and the same numbers in text."""
    results = results_with(sums(0.007), sums(0.05))
    document = eta_report.document(results, [BY_NAME["history"], BY_NAME["resume"]])
    assert document["resume"] == {}
    assert (
        document["history"][MEAN][OURS]["error"]
        == document["history"]["job"][OURS]["error"]
        == pytest.approx(0.007)
    )
    table = eta_report.tables(results, [BY_NAME["history"], BY_NAME["resume"]])
    assert table.splitlines()[0] == "3 to 20 runs of history (history)"
    assert "Resumed" not in table
    ours = next(line for line in table.splitlines() if line.startswith("job"))
    assert "0.70 %" in ours
    assert ours.count("5.00 %") == len(BASELINES)


def test_the_page_has_the_figures_between_its_marks() -> None:
    """What is written is a table of scenarios and one of jobs, each row as wide as its heading; the rest of the page stays."""
    written = eta_page.figures(
        {"own traces": results_with(sums(0.007), sums(0.05))}, [Row("one estimate", "9 µs")]
    )
    page = eta_page.with_figures(f"before {eta_page.MARK} old {eta_page.END} after", written)
    assert page.startswith(f"before {eta_page.MARK}\n")
    assert page.endswith(f"{eta_page.END} after")
    assert " old " not in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    named = [row.split(" | ")[0] for row in rows]
    scenario = BY_NAME["history"].title
    assert named == [
        "| scenario",
        "| ---",
        f"| {scenario}",
        "| job",
        "| ---",
        "| job",
        "| what",
        "| ---",
        "| one estimate",
    ]
    assert len({row.count("|") for row in rows[:6]}) == 1
    assert " 0.70 % | 0.70 % | 0.70 % | " in rows[2]
    with pytest.raises(ValueError, match="no place for figures"):
        eta_page.with_figures("a page", written)


def test_the_documentation_has_the_figures() -> None:
    """docs/eta.md has been written by the command: every scenario of the own traces, every job, and the cost."""
    page = (ROOT / "docs" / "eta.md").read_text(encoding="utf-8")
    written = page.partition(eta_page.MARK)[2].partition(eta_page.END)[0]
    assert "Written by `python -m benchmarks.eta --write`" in written
    for name in (
        *(scenario.title for scenario in SCENARIOS),
        *(job.name for job in eta_jobs.JOBS),
        "one estimate, 20 runs of history",
    ):
        assert f"\n| {name} |" in written


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A small file of traces: two jobs on two systems."""
    runs = [
        steady(number, 10.0 + number % 2, workload, system)
        for workload in ("a", "b")
        for system in ("x", "y")
        for number in range(4)
    ]
    write(tmp_path / "small.jsonl.gz", Header("idle", "2026-01-01", "2 cores", 0, 0.0, 0.0), runs)
    return tmp_path / "small.jsonl.gz"


def test_the_command_prints_a_table_for_each_scenario(
    traces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All scenarios that these runs can be in, everybody in the mean, and what an estimate costs."""
    assert eta.main(["--traces", str(traces)]) in (0, 1)
    printed = capsys.readouterr().out
    assert "16 runs of 2 jobs" in printed
    for scenario in SCENARIOS:
        assert (f"({scenario.name})" in printed) == (not scenario.children)
    assert printed.count("mean ninja") == len(SCENARIOS) - 2
    assert "one estimate, 20 runs of history" in printed
    assert "better than tqdm, average" in printed


def test_the_command_prints_json(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One document, with the figures of one scenario and one job when only those are asked for."""
    assert eta.main(["--traces", str(traces), "--json", "--workload", "b", "--scenario", "stall"]) in (0, 1)
    printed = json.loads(capsys.readouterr().out)
    assert printed["traces"]["small.jsonl.gz"]["runs"] == 8
    assert list(printed["traces"]["small.jsonl.gz"]["scenarios"]) == ["stall"]
    assert list(printed["traces"]["small.jsonl.gz"]["scenarios"]["stall"]) == ["b", MEAN]
    assert printed["promises"][0]["promised"] == "≤ 200 µs"


def test_the_command_refuses_what_it_cannot_replay(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is not there and a job that nobody ran end it with 2, and say what there is."""
    assert eta.main(["--traces", str(traces.with_name("missing"))]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert eta.main(["--traces", str(traces), "--workload", "c"]) == 2
    assert "there are no runs of 'c'; there are a, b" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        eta.main(["--scenario", "never"])
    assert refused.value.code == 2
    with pytest.raises(SystemExit) as refused:
        eta.main(["--write", "--json"])
    assert refused.value.code == 2
    with pytest.raises(SystemExit) as refused:
        record_traces.main(["idle", "--repeats", "0"])
    assert refused.value.code == 2
    assert "--repeats is a number from 1" in capsys.readouterr().err


def test_the_cost_is_of_estimates_that_say_something() -> None:
    """What is timed is asked with twenty runs of the most points that are kept, and answered from them."""
    past = eta_cost.history(0)
    assert {len(run.points) for run in past} == {eta_cost.POINTS}
    told_now = estimate(past[0].points[:32], past[0].points[31][0] + 1.0, past)
    assert (told_now.runs, told_now.basis) == (20, "history")
    rows = list(eta_cost.cost(Effort(0.05, 1)))
    assert rows[0].target == "≤ 200 µs"
    assert all(row.cost.endswith("µs") for row in rows)
