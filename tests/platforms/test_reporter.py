"""Reporters: selected platforms and operations, intervals, retries, forks."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

import otel_progress as progress
from otel_progress.errors import ConfigurationError, UnavailableError
from otel_progress.model import ParentLink, Status
from otel_progress.platforms.report import (
    MAX_ENDED,
    EndedOperations,
    PlatformReport,
    build_report,
    format_seconds,
)
from otel_progress.platforms.reporter import PlatformReporter
from otel_progress.platforms.selection import is_present, select_platforms
from otel_progress.semconv import SinkName
from otel_progress.settings.fields import Settings
from tests.support.configuration import remove_variables, shut_down_active_runtime
from tests.support.factories import CLOCK, WALL, ended, operation, snapshot
from tests.support.forks import needs_fork, run_in_child

NOTHING = build_report([], EndedOperations())


class Probe:
    """Platform that stores reports. ``failures`` of the next reports fail."""

    name: SinkName = "platforms.argo"
    is_always_active = False

    def __init__(self, interval_s: float = 0.0, failures: int = 0) -> None:
        self.interval_s = interval_s
        self.failures = failures
        self.reports: list[PlatformReport] = []
        self.sent = threading.Event()

    def send(self, report: PlatformReport) -> float | None:
        """Store the report."""
        if self.failures:
            self.failures -= 1
            raise OSError("no route")
        self.reports.append(report)
        self.sent.set()
        return None


def build(probe: Probe, errors: list[str], retry_s: float = 0.01) -> PlatformReporter:
    """Return a reporter without a recording."""
    return PlatformReporter(probe, lambda: NOTHING, errors.append, retry_s=retry_s)


# --- reports -------------------------------------------------------------------------------------


def test_report_has_the_running_operation_that_started_first() -> None:
    """In any order of the reader. Without one it is the one that ended last."""
    first, second = snapshot(run="b", started_at=1.0), snapshot(run="a", started_at=2.0)
    pending = snapshot(run="c", started_at=None, status=Status.PENDING)
    child = snapshot(run="d", started_at=0.5, parent=ParentLink("main", "run-1"))
    report = build_report([operation(each) for each in (second, first, pending, child)], EndedOperations())
    assert report.operation is not None
    assert (report.operation.run, report.running) == ("b", 2)
    same = build_report([operation(snapshot(run=run)) for run in "ba"], EndedOperations())
    assert same.operation is not None
    assert same.operation.run == "a"
    done = EndedOperations().add([operation(ended(run="e")), operation(ended(run="f"))])
    last = build_report([operation(child)], done)
    assert last.operation is not None
    assert (last.operation.run, last.running, last.ended_count) == ("f", 0, 2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"advanced_clock": CLOCK + 55.0}, False),
        ({"paused_clock": CLOCK}, False),
        ({"deadline_at": WALL + 1.0}, True),
        ({"deadline_at": WALL + 1.0, "advanced_clock": CLOCK + 55.0}, False),
        ({"deadline_at": WALL + 1.0, "paused_clock": CLOCK}, False),
    ],
)
def test_work_is_stalled_without_an_advance_also_if_it_is_overdue(
    fields: dict[str, float], expected: bool
) -> None:
    root = snapshot(stall_after_s=30.0, **fields)
    assert build_report([operation(root)], EndedOperations()).is_stalled is expected


def test_ended_operations_are_bounded_and_counted() -> None:
    done = EndedOperations().add([operation(ended(run=str(number))) for number in range(1_000)])
    assert (len(done.newest), sum(done.counts.values())) == (MAX_ENDED, 1_000)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (3_725.0, "1 h 2 min"), (180_000.0, "2 d 2 h"), (-3.0, "0 s")],
)
def test_format_seconds_has_two_units(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected


# --- threads -------------------------------------------------------------------------------------


def test_reports_within_an_interval_are_one_report() -> None:
    probe = Probe(interval_s=60.0)
    reporter = build(probe, [])
    for _ in range(100):
        reporter.notify()
    assert probe.sent.wait(30.0)
    probe.sent.clear()
    for _ in range(100):
        reporter.notify()
    # Without the interval it is sent within a millisecond.
    assert not probe.sent.wait(0.2)
    reporter.close()
    assert reporter.wait(30.0)
    assert len(probe.reports) == 2


def test_flush_sends_a_waiting_report_at_once() -> None:
    probe = Probe(interval_s=60.0)
    reporter = build(probe, [])
    assert reporter.flush(0.0)
    reporter.notify()
    assert probe.sent.wait(30.0)
    reporter.notify()
    assert reporter.flush(30.0)
    assert len(probe.reports) >= 2
    reporter.close()
    assert reporter.wait(30.0)


def test_failed_report_is_sent_again() -> None:
    probe, errors = Probe(failures=3), []
    reporter = build(probe, errors)
    reporter.notify()
    assert probe.sent.wait(30.0)
    reporter.close()
    assert reporter.wait(30.0)
    assert errors == ["platforms.argo"] * 3


def test_final_report_that_fails_is_sent_again_once() -> None:
    probe, errors = Probe(), []
    reporter = build(probe, errors)
    reporter.notify()
    assert probe.sent.wait(30.0)
    probe.failures = 1
    reporter.close()
    assert reporter.wait(30.0)
    assert (len(probe.reports), len(errors)) == (2, 1)


def test_close_before_the_first_report_starts_no_thread() -> None:
    reporter = build(Probe(), [])
    reporter.close()
    reporter.notify()
    assert reporter.wait(0.0)


@needs_fork
def test_forked_child_sends_nothing() -> None:
    probe = Probe()
    reporter = build(probe, [])
    reporter.notify()
    assert probe.sent.wait(30.0)

    def use_in_child() -> None:
        reporter.notify()
        assert reporter.flush(0.0)
        reporter.close()
        assert reporter.wait(0.0)

    assert run_in_child(use_in_child) == 0
    reporter.close()
    assert reporter.wait(30.0)


# --- selection -----------------------------------------------------------------------------------


def test_auto_selects_the_platforms_that_are_present(tmp_path: Path) -> None:
    path = str(tmp_path)
    environ = {"ARGO_PROGRESS_FILE": path, "GITHUB_STEP_SUMMARY": path, "NOTIFY_SOCKET": "/run/notify"}
    assert select_platforms(["auto"], {}) == []
    assert select_platforms(["auto"], environ) == ["argo", "github", "systemd"]
    assert select_platforms(["systemd", "auto"], environ) == ["systemd", "argo", "github"]
    assert select_platforms(["auto", "https://x.y/z"], {}) == ["https://x.y/z"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"KUBEFLOW_TRAINER_SERVER_TOKEN": ""}, False),
        ({"KUBEFLOW_TRAINER_SERVER_URL": "http://host"}, False),
    ],
)
def test_kubeflow_is_present_in_the_first_process_of_a_training(
    variables: dict[str, str], expected: bool
) -> None:
    environ = {
        "KUBEFLOW_TRAINER_SERVER_URL": "https://host",
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": "/ca",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": "/token",
    }
    assert is_present("kubeflow", {**environ, **variables}) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("auto", ("auto",)),
        (True, ("auto",)),
        ("true", ("auto",)),
        (False, ()),
        ("off", ()),
        ("none", ()),
        ((), ()),
        ("Argo, systemd", ("argo", "systemd")),
        (["argo", "argo"], ("argo",)),
        ({"systemd", "argo"}, ("argo", "systemd")),
        ("auto,https://hc-ping.com/Uuid", ("auto", "https://hc-ping.com/Uuid")),
    ],
)
def test_report_to_accepts_names_and_urls(value: object, expected: tuple[str, ...]) -> None:
    assert Settings().with_arguments(report_to=value).report_to == expected


@pytest.mark.parametrize(
    "value",
    [
        "kubernetes",
        "auto,off",
        "argo,,github",
        "ftp://host/secret",
        "https:///secret",
        "https://host/secret#x",
        "https://host/a secret",
        "https://host:99999/secret",
        ["argo", 3],
        3,
        {"argo": 1},
        [f"https://host/{number}" for number in range(21)],
    ],
)
def test_invalid_report_to_is_rejected_without_its_value(value: object) -> None:
    with pytest.raises(ConfigurationError, match="report_to: expected") as error:
        Settings().with_arguments(report_to=value)
    assert "secret" not in str(error.value)


def test_missing_platform_is_left_out_or_rejected_in_strict_mode(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove_variables(monkeypatch)
    monkeypatch.delenv("ARGO_PROGRESS_FILE", raising=False)
    options = {"store": "memory:", "console": False, "report_to": ["argo"]}
    with pytest.raises(UnavailableError, match="the variable ARGO_PROGRESS_FILE"):
        progress.configure(**options, strict=True)
    with progress.configure(**options):
        list(progress.track(range(3)))
    assert "expected the variable ARGO_PROGRESS_FILE" in caplog.text


def record_in_child(path: str) -> None:
    """Record an operation with the settings of the parent."""
    progress.configure(
        store="memory:", console=False, otlp=False, report_to="argo", resources=False, tick=0.02
    )
    list(progress.track(range(9)))
    shut_down_active_runtime()
    Path(path).touch()


@pytest.mark.process
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_child_of_multiprocessing_does_not_report(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform shows the process that the user has started."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no start method {method}")
    path, done = tmp_path / "progress", tmp_path / "done"
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(path))
    with progress.configure(
        store="memory:", console=False, otlp=False, report_to="argo", resources=False, tick=0.02
    ):
        child = multiprocessing.get_context(method).Process(target=record_in_child, args=(str(done),))
        child.start()
        child.join(60.0)
        assert done.exists()
        assert not path.exists()
        list(progress.track(range(3)))
    assert path.read_text() == "3/3\n"
    assert os.environ["ARGO_PROGRESS_FILE"] == str(path)
