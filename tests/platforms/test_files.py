"""Platforms that read a file: Argo Workflows and GitHub Actions."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress.model import Failure, Status
from otel_progress.platforms.argo import format_progress
from otel_progress.platforms.github import format_summary
from otel_progress.platforms.report import MAX_ENDED, EndedOperations, build_report
from tests.support.factories import ended, operation, snapshot
from tests.support.servers import poll


def test_argo_reads_the_progress_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress"
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(path))
    with (
        progress.configure(store="memory:", console=False, otlp=False, tick=0.02, report_to="argo"),
        progress.operation("import", total=4) as op,
    ):
        op.increment()
        poll(path.exists, what="the file")
        assert path.read_text() in ("0/4\n", "1/4\n")
        op.increment(3)
    assert path.read_text() == "4/4\n"


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (snapshot(), ""),
        (snapshot(current=3), ""),
        (snapshot(current=3, total=7, ratio=3 / 7), "3/7"),
        (snapshot(current=9, total=7, ratio=1.0), "7/7"),
        (snapshot(current=1, total=4, ratio=0.9), "90/100"),
        (snapshot(current=0.5, total=1.5, ratio=1 / 3), "33/100"),
        (snapshot(current=0, total=0, ratio=None), ""),
        (ended(current=3, total=7), "7/7"),
        (ended(current=3, total=7, ratio=3 / 7, status=Status.FAILED), "3/7"),
        (ended(), "100/100"),
    ],
)
def test_argo_format_is_valid(root: progress.LevelSnapshot, expected: str) -> None:
    assert format_progress(operation(root)) == expected


def test_argo_file_that_cannot_be_written_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(tmp_path / "missing" / "progress"))
    with progress.configure(store="memory:", console=False, otlp=False, tick=0.02, report_to="argo"):
        list(progress.track(range(3)))
    assert caplog.text.count("The report to platforms.argo could not be sent") == 1


def test_github_appends_a_table_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary"
    path.write_text("# Build\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    with progress.configure(store="memory:", console=False, otlp=False, tick=0.02, report_to="auto"):
        list(progress.track(range(3), "files"))
        with suppress(ValueError), progress.operation("import"):
            raise ValueError("bad | row")
        assert path.read_text() == "# Build\n"
    text = path.read_text()
    assert text.startswith("# Build\n\n### Progress\n\n| | operation |")
    assert "| ✅ completed | track&#58; files | 3/3 |" in text or "track: files" in text
    assert "❌ failed" in text
    assert "ValueError&#58; bad &#124; row" in text


def test_github_table_shows_texts_as_they_are() -> None:
    error = Failure("E", "<script>`@someone`\n| [x](http://y)")
    done = EndedOperations().add([operation(ended(name="a|b", status=Status.FAILED, error=error))])
    row = format_summary(build_report([], done)).splitlines()[5]
    assert row.count("|") == 6
    assert not set("<`@[(").intersection(row.replace("<br>", ""))


def test_github_table_is_bounded() -> None:
    done = EndedOperations().add([operation(ended(run=str(number))) for number in range(1_000)])
    text = format_summary(build_report([], done))
    assert text.count("completed") == MAX_ENDED
    assert f"{1_000 - MAX_ENDED} earlier operations are not listed." in text
    assert len(text) < 20_000
