"""The replay command: output, targets, written page and rejected arguments."""

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


def test_promises_are_met_or_missed() -> None:
    """Each target is met in the first case and missed in another."""
    kept = eta_report.promises(results_with(sums(0.007), sums(0.05)), "traces")
    assert [row.met for row in kept] == ["yes"] * 6
    assert kept[0].what == "traces, 3 to 20 runs of history: error"
    missed = eta_report.promises(results_with(sums(0.02, covered=90, jumps=0.2), sums(0.019)), "traces")
    # Before 25 % a larger error is allowed.
    assert [row.met for row in missed] == ["NO", "NO", "yes", "NO", "NO", "NO"]
    assert missed[4].cost.startswith("not than tqdm on job, average on job")


def test_promises_against_rules_without_answers_do_not_count() -> None:
    """An estimate without an answer is never better."""
    silent = Sums(questions=100, runs=1)
    assert {row.met for row in eta_report.promises(results_with(sums(0.007), silent), "t")} == {"yes"}
    rows = eta_report.promises(results_with(silent, sums(0.05)), "t")
    assert {row.met for row in rows} == {"NO"}


def test_document_has_the_figures_of_the_tables() -> None:
    """Every requested scenario has each workload and the mean."""
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


def test_page_has_the_figures_between_its_marks() -> None:
    """A table of scenarios and one of jobs are written, nothing else."""
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
    with pytest.raises(ValueError, match="expected the lines"):
        eta_page.with_figures("a page", written)


def test_committed_page_has_the_figures() -> None:
    """docs/eta.md has every scenario of the own traces, every job, and the cost."""
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


def test_command_prints_a_table_per_scenario(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables have all estimators in the mean and the cost of an estimate."""
    assert eta.main(["--traces", str(traces)]) in (0, 1)
    printed = capsys.readouterr().out
    assert "16 runs of 2 jobs" in printed
    for scenario in SCENARIOS:
        assert (f"({scenario.name})" in printed) == (not scenario.children)
    assert printed.count("mean ninja") == len(SCENARIOS) - 2
    assert "one estimate, 20 runs of history" in printed
    assert "better than tqdm, average" in printed


def test_command_with_json_prints_one_document(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenarios and jobs can be selected."""
    assert eta.main(["--traces", str(traces), "--json", "--workload", "b", "--scenario", "stall"]) in (0, 1)
    printed = json.loads(capsys.readouterr().out)
    assert printed["traces"]["small.jsonl.gz"]["runs"] == 8
    assert list(printed["traces"]["small.jsonl.gz"]["scenarios"]) == ["stall"]
    assert list(printed["traces"]["small.jsonl.gz"]["scenarios"]["stall"]) == ["b", MEAN]
    assert printed["promises"][0]["promised"] == "≤ 200 µs"


def test_command_with_unknown_path_or_job_is_rejected(
    traces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, and the message has the known names."""
    assert eta.main(["--traces", str(traces.with_name("missing"))]) == 2
    assert "expected an existing .jsonl" in capsys.readouterr().err
    assert eta.main(["--traces", str(traces), "--workload", "c"]) == 2
    assert "Invalid workload 'c': expected one of a, b" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        eta.main(["--scenario", "never"])
    assert refused.value.code == 2
    with pytest.raises(SystemExit) as refused:
        eta.main(["--write", "--json"])
    assert refused.value.code == 2
    with pytest.raises(SystemExit) as refused:
        record_traces.main(["idle", "--repeats", "0"])
    assert refused.value.code == 2
    assert "Invalid --repeats 0" in capsys.readouterr().err


def test_cost_is_measured_with_full_history() -> None:
    """The history has twenty runs with the maximum number of points."""
    past = eta_cost.history(0)
    assert {len(run.points) for run in past} == {eta_cost.POINTS}
    told_now = estimate(past[0].points[:32], past[0].points[31][0] + 1.0, past)
    assert (told_now.runs, told_now.basis) == (20, "history")
    rows = list(eta_cost.cost(Effort(0.05, 1)))
    assert rows[0].target == "≤ 200 µs"
    assert all(row.cost.endswith("µs") for row in rows)
