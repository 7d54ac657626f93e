"""Trace files: reading, validation, and the committed recordings."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import eta_jobs, record_traces
from benchmarks.eta_replay import OURS, Series, replay
from benchmarks.eta_scores import table_of
from benchmarks.eta_traces import FOLDER, FORMAT, Header, Run, TraceError, load, write
from benchmarks.setting import configured

from tests.support.eta_replays import BY_NAME, STEADY, steady


def line(**changes: Any) -> str:
    """Return a run as a line with changes. A change to None removes the name."""
    usual = {
        "workload": "job",
        "system": "here",
        "number": 0,
        "duration_s": 4.0,
        "points": [[0, 0], [1, 0.5]],
    }
    return json.dumps({name: value for name, value in (usual | changes).items() if value is not None})


def texts(document: Any) -> Iterator[str]:
    """Yield every text in a document, including names."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for one in (*document, *document.values()) if isinstance(document, dict) else document:
            yield from texts(one)


def test_written_runs_are_read_back(tmp_path: Path) -> None:
    """Runs are in the order of their numbers, and equal runs have equal bytes."""
    runs = [steady(1), replace(steady(0), stages={"a": 1.5}, children=((0.0, 1.0),), workers=2)]
    header = Header("idle", "2026-01-01", "2 cores", 0, 0.1, 0.2)
    write(tmp_path / "a.jsonl.gz", header, runs)
    write(tmp_path / "b.jsonl.gz", header, runs)
    assert load(tmp_path / "a.jsonl.gz") == {("job", "here"): [runs[1], runs[0]]}
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_published_checkpoints_are_equal_units(tmp_path: Path) -> None:
    """The i-th of n checkpoints is i/n of the work. Files are read together."""
    checkpoints = line(points=None, number=None, run=3, checkpoints_s=[1.0, 1.5, 3.0, 3.5])
    (tmp_path / "a.jsonl").write_text(checkpoints + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(line(number=1).encode()))
    (tmp_path / "README.md").write_text("not read")
    first, second = load(tmp_path)["job", "here"]
    assert (first.number, second.number) == (1, 3)
    assert second.points == ((0.0, 0.0), (1.0, 0.25), (1.5, 0.5), (3.0, 0.75), (3.5, 1.0))


def test_history_has_the_limited_points() -> None:
    """A long run has 64 points with its first and last, a short one all points."""
    long = Run("job", "here", 0, 999.0, tuple((float(second), second / 999) for second in range(1000)))
    assert len(long.trajectory.points) == 64
    assert (long.trajectory.points[0], long.trajectory.points[-1]) == (long.points[0], long.points[-1])
    assert steady(0).trajectory.points == STEADY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected at least one run"),
        ("nonsense", "line 1: Invalid JSON"),
        ("[" * 100_000, "line 1: Invalid JSON"),
        ("[]", "Invalid list: expected an object"),
        ('{"format": "other/9"}', "Invalid format 'other/9'"),
        (line(workload=""), "Invalid workload ''"),
        (line(system=3), "system 3: expected non-empty texts"),
        (line(number="1"), "Invalid number '1': expected an integer"),
        (line(duration_s=0), "Invalid duration_s 0.0: expected more than 0"),
        (line(duration_s=-1), "Invalid duration_s -1: expected a number of at least 0"),
        (line(duration_s=float("nan")), "Invalid duration_s nan: expected a number"),
        (line(duration_s=True), "Invalid duration_s True: expected a number"),
        (line(points="all"), "Invalid points: expected a list of pairs"),
        (line(points=[]), "expected [0, ratio] as the first one"),
        (line(points=[[1, 0.5]]), "expected [0, ratio] as the first one"),
        (line(points=[[0, 0], [2, 0.5], [1, 0.7]]), "expected ascending times"),
        (line(points=[[0, 0], [1, 0.5], [2, 0.4]]), "expected ascending times"),
        (line(points=[[0, 0], [5, 0.5]]), "expected at most duration_s (4.0)"),
        (line(points=[[0, 0], [1, 1.5]]), "expected at most duration_s (4.0) and 1"),
        (line(points=[[0, 0, 0]]), "Invalid points: expected a list of pairs"),
        (line(checkpoints_s=[]), "expected a non-empty list of seconds"),
        (line(checkpoints_s=["1"]), "Invalid checkpoints_s '1': expected a number"),
        (line(stages=[1]), "Invalid stages [1]"),
        (line(workers=0), "workers 0: expected an object of seconds and an integer above 0"),
        (line(children=[1]), "Invalid children: expected a list of pairs"),
    ],
)
def test_load_with_invalid_line_is_rejected(tmp_path: Path, text: str, says: str) -> None:
    """The message has the file, the line, the value and the expectation."""
    (tmp_path / "bad.jsonl").write_text(text + "\n" if text else "")
    with pytest.raises(TraceError) as refused:
        load(tmp_path / "bad.jsonl")
    assert says in str(refused.value)
    assert "bad.jsonl" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("torn.jsonl.gz", gzip.compress(b"x" * 10_000, mtime=0)[:-20], "expected JSON lines in UTF-8"),
        ("plain.jsonl.gz", b"{}", "expected JSON lines in UTF-8"),
        ("latin.jsonl", b"\xe9\n", "expected JSON lines in UTF-8"),
        ("long.jsonl", b" " * 4_000_001, "expected lines of at most 4,000,000 bytes"),
    ],
)
def test_load_with_invalid_file_is_rejected(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """The file is truncated, of another type or encoding, or one endless line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TraceError, match=says):
        load(tmp_path)


def test_load_without_traces_is_rejected(tmp_path: Path) -> None:
    """The path does not exist, or the folder has no traces."""
    with pytest.raises(TraceError, match="expected an existing"):
        load(tmp_path / "missing")
    with pytest.raises(TraceError, match=r"at least one \.jsonl or \.jsonl\.gz file"):
        load(tmp_path)


def test_committed_traces_are_complete() -> None:
    """At least four jobs, 24 runs each, on an idle and a busy machine."""
    groups = load(FOLDER)
    assert {system for _, system in groups} == {"idle", "busy"}
    assert {workload for workload, _ in groups} == {job.name for job in eta_jobs.JOBS}
    assert len(groups) == 2 * len(eta_jobs.JOBS) >= 8
    for (workload, _), runs in groups.items():
        assert [run.number for run in runs] == list(range(len(runs)))
        assert len(runs) >= 24
        assert all(len(run.points) > 10 and run.points[0] == (0.0, 0.0) for run in runs)
        assert len({run.duration_s for run in runs}) > len(runs) / 2
        assert all(len(run.stages) == (4 if workload == "pipeline" else 0) for run in runs)
        assert all((len(run.children) > 5 and run.workers == 2) == (workload == "pool") for run in runs)


def test_committed_traces_are_anonymous() -> None:
    """They have what results depend on, but no path, host or user, and are small."""
    files = sorted(FOLDER.glob("*.jsonl.gz"))
    assert sum(file.stat().st_size for file in files) < 1_500_000
    for file in files:
        text = gzip.decompress(file.read_bytes()).decode()
        header = json.loads(text.splitlines()[0])
        assert header["format"] == FORMAT
        assert set(header) == {
            "format",
            "machine",
            "recorded",
            "shape",
            "burners",
            "load_before",
            "load_after",
            "note",
        }
        assert (header["burners"] > 0) == (file.name == "busy.jsonl.gz")
        told = {word for each in text.splitlines() for word in texts(json.loads(each))}
        jobs = {job.name for job in eta_jobs.JOBS} | {
            stage for job in eta_jobs.JOBS for stage in job.declared
        }
        assert told <= {
            *json.loads(line()),
            *("stages", "children", "workers"),
            *header,
            *header.values(),
            *jobs,
        }
        assert (header["format"], header["note"]) == (FORMAT, "")
        assert header["machine"] == file.name.partition(".")[0]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", header["recorded"])
        assert re.fullmatch(r"\d+ cores?, CPython 3\.\d+, \w+", header["shape"])


def test_estimates_of_committed_traces_are_better_than_others() -> None:
    """With history, the error is a fraction of that of other tools."""
    groups = load(FOLDER)
    series = [Series(groups["eliminate", system][:12]) for system in ("idle", "busy")]
    scores = table_of(replay(series, [BY_NAME["history"]], processes=1), "history")["eliminate"]
    errors = {name: figures.error for name, figures in scores.items()}
    ours = errors.pop(OURS)
    assert ours is not None
    assert all(error is not None and ours < error for error in errors.values()), (ours, errors)
    for blind in ("tqdm", "average", "rich"):
        assert ours < errors[blind] / 3


@pytest.mark.parametrize("job", eta_jobs.JOBS, ids=[job.name for job in eta_jobs.JOBS])
def test_record_job_has_ascending_curve_and_children(job: eta_jobs.Job) -> None:
    """A small job is run. Its stages and children are those of the live store."""
    with configured(resources=False):
        run = record_traces.record(job, eta_jobs.corpus(2_000, 6_000), "idle", 7, 0.2)
    assert (run.workload, run.system, run.number) == (job.name, "idle", 7)
    assert list(run.points) == sorted(run.points)
    assert run.points[0] == (0.0, 0.0)
    assert 0.0 < run.points[-1][1] <= 1.0
    assert run.points[-1][0] <= run.duration_s
    assert list(run.stages) == list(job.declared)
    assert all(0.0 <= seconds <= run.duration_s for seconds in run.stages.values())
    assert (len(run.children) > 2) == (job.workers is not None)
    assert all(start + seconds <= run.duration_s + 0.001 for start, seconds in run.children)


@pytest.mark.process
def test_burners_end_with_the_recording() -> None:
    """One process per core runs during the recording, and none afterwards."""
    with record_traces._burning(1) as burners:
        assert len(burners) == 1
        assert burners[0].poll() is None
    assert burners[0].poll() is not None
