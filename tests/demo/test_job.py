"""Demo with real files, a real journal and real metrics, and its exit codes."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from otel_progress import Level, config
from otel_progress.demo import code_map, job, measure, run, sources
from otel_progress.journal import open_journal
from otel_progress.model import Outcome, Status
from otel_progress.processes import host_class
from otel_progress.protocols import EventQuery, LogQuery
from otel_progress.records import TrajectoryKey
from tests.support.demo_journal import PATIENCE_S, kept


def test_survey_of_folder_is_reported_and_stored(
    tree: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal has the stages, the nested levels and their counts."""
    assert run(str(tree), store=store, prometheus_port=0, console=False) == 0
    out, err = capsys.readouterr()
    assert "5 files in 3 packages" in out
    assert "one/deep/bad.py: line 1:" in out
    assert f"--store {store} show survey-" in out
    assert "/metrics" in err
    operation = kept(store)
    assert operation.status is Status.COMPLETED
    assert operation.message == "5 files, 4 lines of code, 1 files that do not compile"
    levels = {level.path: (level.status.value, level.current, level.total) for level in operation.levels}
    assert levels == {
        "stage:discover": ("completed", 6, None),
        "stage:analyse": ("completed", 5, 5),
        "stage:analyse/package:(top level)": ("completed", 1, 1),
        "stage:analyse/package:one": ("completed", 3, 3),
        "stage:analyse/package:one/folder:(top level)": ("completed", 2, 2),
        "stage:analyse/package:one/folder:deep": ("completed", 1, 1),
        "stage:analyse/package:two": ("completed", 1, 1),
        "stage:report": ("completed", 5, 5),
    }
    deep = operation.get_level("stage:analyse/package:one/folder:deep")
    assert deep is not None
    assert deep.failed == 1


def test_survey_serves_page_while_running(
    tree: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line of stderr is the address of the page."""
    pytest.importorskip("uvicorn")
    answers: list[str] = []
    measure_source = measure.measure_source

    def request_and_measure(data: bytes, name: str) -> measure.Measures:
        runtime = config.current_runtime()
        assert runtime is not None
        with urllib.request.urlopen(
            f"{runtime.server_url}api/v1/operations?type=code_survey", timeout=PATIENCE_S
        ) as answer:
            answers.append(answer.read().decode())
        return measure_source(data, name)

    monkeypatch.setattr(measure, "measure_source", request_and_measure)
    assert run(str(tree), store=store, prometheus_port=0, server_port=0, console=False) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(r"Watch in a browser: http://127\.0\.0\.1:\d+/#/operations/survey-[0-9a-f]{8}", first)
    assert kept(store).operation_id in answers[0]
    address = first.partition(": ")[2].partition("#")[0]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=PATIENCE_S)


def test_survey_without_server_packages_prints_installation_command(
    tree: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "find_spec", lambda _: None)
    assert run(str(tree), store=store, prometheus_port=0, console=False) == 0
    assert capsys.readouterr().err.startswith("To watch in a browser: pip install 'otel-progress[server]'\n")


def test_survey_with_pil_stores_map_as_previews(tree: Path, store: str) -> None:
    """The last preview shows the file that does not compile."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: it draws the map")
    run(str(tree), store=store, prometheus_port=0, console=False)
    journal = open_journal(store, read_only=True)
    try:
        previews = journal.previews(kept(store).operation_id)
    finally:
        journal.close()
    assert {(preview.path, preview.name, preview.media_type) for preview in previews} == {
        ("", "map", "image/png")
    }
    with image.open(
        BytesIO(urllib.request.urlopen(previews[-1].location, timeout=PATIENCE_S).read())
    ) as last:
        colours = {colour for _, colour in last.convert("RGB").getcolors(100_000)}
    assert code_map.BROKEN in colours


def test_survey_without_pil_has_no_map_and_no_message(
    tree: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert run(str(tree), store=store, prometheus_port=0, console=False) == 0
    assert "PIL" not in capsys.readouterr().err
    assert [record for record in caplog.records if record.name.startswith("otel_progress")] == []
    assert kept(store).root.previews == 0


def test_survey_stores_trajectories_per_folder_and_part(tree: Path, store: str) -> None:
    """Estimates use earlier surveys of the same folder."""
    for _ in range(2):
        run(str(tree), store=store, prometheus_port=0, console=False)
    run(str(tree), quick=True, store=store, prometheus_port=0, console=False)
    journal = open_journal(store, read_only=True)
    try:
        whole = TrajectoryKey("code_survey", "", host_class(), str(tree))
        assert len(journal.trajectories(whole)) == 2
        assert len(journal.trajectories(replace(whole, eta_key=f"part of {tree}"))) == 1
    finally:
        journal.close()


def test_survey_stores_log_records_without_printing_them(
    tree: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that does not compile is a warning at its folder."""
    run(str(tree), store=store, prometheus_port=0, console=False)
    journal = open_journal(store, read_only=True)
    try:
        records = journal.logs(kept(store).operation_id, LogQuery(severity=30))
    finally:
        journal.close()
    assert [(record.logger, record.path) for record in records] == [
        ("code_survey", "stage:analyse/package:one/folder:deep")
    ]
    assert "does not compile" in records[0].message
    assert "does not compile" not in capsys.readouterr().err


def test_survey_stores_items_of_failed_and_skipped_files(tree: Path, store: str) -> None:
    run(str(tree), store=store, prometheus_port=0, console=False)
    journal = open_journal(store, read_only=True)
    try:
        operation_id = kept(store).operation_id
        (failed,) = journal.events(operation_id, EventQuery(outcome=Outcome.FAILED))
        (skipped,) = journal.events(operation_id, EventQuery(outcome=Outcome.SKIPPED))
        assert (failed.name, failed.path) == ("bad.py", "stage:analyse/package:one/folder:deep")
        assert failed.error is not None
        assert failed.error.type == "SyntaxError"
        assert (skipped.name, skipped.metadata["reason"]) == (
            str(tree / "two" / "link.py"),
            "a symbolic link",
        )
        assert len(journal.events(operation_id, EventQuery(outcome=Outcome.COMPLETED))) == 4
    finally:
        journal.close()


def test_survey_serves_metrics_while_running(tree: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scrapes: list[str] = []

    def scrape_and_measure(data: bytes, name: str) -> measure.Measures:
        runtime = config.current_runtime()
        assert runtime is not None
        assert runtime.metrics_url is not None
        with urllib.request.urlopen(runtime.metrics_url, timeout=PATIENCE_S) as answer:
            scrapes.append(answer.read().decode())
        return measure_source(data, name)

    measure_source = measure.measure_source
    monkeypatch.setattr(measure, "measure_source", scrape_and_measure)
    assert run(str(tree), store=store, prometheus_port=0, console=False) == 0
    assert len(scrapes) == 5
    assert 'operation_type="code_survey",status="running"} 1.0' in scrapes[-1]


@pytest.mark.usefixtures("store")
def test_survey_in_memory_prints_no_journal_commands(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tree), store="memory:", prometheus_port=0, console=False) == 0
    out, err = capsys.readouterr()
    assert "otel-progress" not in out + err
    assert "curl" in err


def test_demo_with_invalid_path_or_store_exits_with_2(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is created."""
    assert run(str(tmp_path / "missing"), store=store) == 2
    assert run(None, store="nonsense") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "expected a folder with Python files (*.py), but it does not exist" in err
    assert "nonsense" in err
    assert list(tmp_path.iterdir()) == []


def test_survey_with_deleted_file_examines_other_files(
    tree: Path, store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    discover = job._discover_files

    def discover_and_lose(stage: Level, roots: Sequence[sources.Root]) -> list[sources.SourceFile]:
        files = discover(stage, roots)
        (tree / "two" / "only.py").unlink()
        return files

    monkeypatch.setattr(job, "_discover_files", discover_and_lose)
    assert run(str(tree), store=store, prometheus_port=0, console=False) == 0
    assert "two/only.py: No such file or directory" in capsys.readouterr().out
    assert kept(store).status is Status.COMPLETED


@pytest.mark.server
@pytest.mark.slow
def test_quick_survey_without_path_examines_part_of_interpreter(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(quick=True, store=store, prometheus_port=0, console=False) == 0
    assert " of " in capsys.readouterr().out.splitlines()[1]
    operation = kept(store)
    assert operation.name.startswith("Survey of the sources of Python 3.")
    analyse = operation.get_level("stage:analyse")
    assert analyse is not None
    assert analyse.current == analyse.total
    assert analyse.current >= 100
