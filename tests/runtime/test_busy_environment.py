"""Parts that the environment does not permit are left out."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

import otel_progress as progress
from otel_progress import ConfigurationError, config, diagnostics
from otel_progress.errors import UnavailableError, build_bind_error
from otel_progress.journal import open_journal
from otel_progress.metrics import render_exposition
from otel_progress.runtime import providers
from otel_progress.runtime.runtime import Runtime
from otel_progress.testing import wait_until
from tests.support.configuration import occupy_port, remove_variables, shut_down_active_runtime
from tests.support.servers import free_port

PATIENCE_S = 60.0
"""Time limit of each step. On a busy machine a thread may wait for seconds."""


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run without variables of OpenTelemetry and without earlier errors."""
    counts = diagnostics.internal_error_counts.copy()
    diagnostics.internal_error_counts.clear()
    remove_variables(monkeypatch)
    monkeypatch.setattr(providers, "_own_providers", [])
    monkeypatch.setattr(providers, "_exporting_providers", [])
    yield
    shut_down_active_runtime()
    diagnostics.internal_error_counts.clear()
    diagnostics.internal_error_counts.update(counts)


@pytest.fixture
def used_port() -> Iterator[int]:
    """Port of this machine on which another program listens."""
    with occupy_port() as port:
        yield port


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a user that has no entry in the database of users."""
    import pwd

    def fail(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", fail)


class Threads:
    """Refuses to start threads while ``is_refused``."""

    def __init__(self) -> None:
        self.is_refused = False


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    """Return a switch for threads that this test starts."""
    state, start, own = Threads(), threading.Thread.start, threading.get_ident()

    def start_or_fail(thread: threading.Thread) -> None:
        if state.is_refused and threading.get_ident() == own:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    return state


def configure(**settings: Any) -> Runtime:
    """Configure with a private provider, without files, terminal and network."""
    return progress.configure(
        **{
            "store": "memory:",
            "console": False,
            "otlp": False,
            "resources": False,
            # Why a resource: the SDK starts threads to detect one.
            "tracer_provider": TracerProvider(resource=Resource({}), shutdown_on_exit=False),
            **settings,
        }
    )


def run_operation(runtime: Runtime) -> None:
    """Run an operation, and check that it was recorded."""
    with progress.operation("job", id="o", total=2) as op:
        op.increment(2)
    operation = runtime.get_operation("o")
    assert operation is not None
    assert (operation.status.value, operation.root.current) == ("completed", 2)


def read_warnings(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    """Return the lines of each warning. None has a traceback."""
    records = [record for record in caplog.records if record.name == "otel_progress"]
    assert not any(record.exc_info for record in records)
    return [record.getMessage().splitlines() for record in records]


def read_error_counts(runtime: Runtime) -> dict[str, float]:
    """Return ``progress_sink_errors_total`` by sink."""
    text = render_exposition(runtime.metrics_collector(), "text/plain")[0].decode()
    prefix = 'progress_sink_errors_total{sink="'
    lines = [line for line in text.splitlines() if line.startswith(prefix)]
    return {line[len(prefix) :].partition('"')[0]: float(line.split()[-1]) for line in lines}


@pytest.mark.parametrize(
    ("setting", "place", "problem"),
    [
        ("prometheus_port", "metrics", "The metrics are not served"),
        ("server_port", "server", "The API and the page are not served"),
    ],
)
def test_port_in_use_is_one_warning_and_one_count(
    used_port: int, caplog: pytest.LogCaptureFixture, setting: str, place: str, problem: str
) -> None:
    """The URL is unknown then."""
    if setting == "server_port":
        pytest.importorskip("fastapi")
    runtime = configure(**{setting: used_port})
    (lines,) = read_warnings(caplog)
    assert lines[0] == f"{problem}, and the work continues:"
    assert lines[1].startswith(f"Port {used_port} of 127.0.0.1 is in use")
    # Why: with a shared journal, another process would serve the metrics of this one.
    has_hint = setting == "prometheus_port"
    assert lines[2:] == [line for line in lines[2:] if "Without a shared journal" in line and has_hint]
    assert len(lines) == 2 + has_hint
    assert (runtime.metrics_url, runtime.server_url) == (None, None)
    run_operation(runtime)
    assert read_error_counts(runtime) == {place: 1.0}
    assert runtime.force_flush(PATIENCE_S)


@pytest.mark.parametrize("setting", ["prometheus_port", "server_port"])
def test_strict_configure_with_port_in_use_raises(used_port: int, setting: str) -> None:
    """Nothing is configured then."""
    if setting == "server_port":
        pytest.importorskip("fastapi")
    with pytest.raises(UnavailableError, match=f"Port {used_port}"):
        configure(**{setting: used_port}, strict=True)
    assert config.current_runtime() is None


@pytest.mark.parametrize(
    "settings",
    [
        {"prometheus_port": 70_000},
        {"prometheus_port": 0, "prometheus_host": "192.0.2.1"},
        {"prometheus_port": 0, "prometheus_host": "no such host.invalid"},
        {"server_port": -1},
        {"server_port": 0, "server_host": "0.0.0.0"},
        {"store": "mysql:"},
        {"tick": "soon"},
    ],
    ids=str,
)
def test_invalid_value_is_rejected_without_strict(settings: dict[str, Any]) -> None:
    """A typing error must not go unnoticed."""
    if "server_port" in settings:
        pytest.importorskip("fastapi")
    with pytest.raises(ConfigurationError) as rejection:
        configure(**settings)
    assert not isinstance(rejection.value, UnavailableError)
    assert config.current_runtime() is None


@pytest.mark.parametrize(
    ("error", "is_unavailable"),
    [
        (OSError(errno.EADDRINUSE, "in use"), True),
        (OSError(errno.EACCES, "denied"), True),
        (OSError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.ENOBUFS, "no buffer space"), True),
        (socket.gaierror(socket.EAI_AGAIN, "temporary failure"), True),
        (socket.gaierror(socket.EAI_NONAME, "unknown name"), False),
        (OSError(errno.EADDRNOTAVAIL, "not of this machine"), False),
        (UnicodeError("label too long"), False),
    ],
    ids=str,
)
def test_bind_error_is_unavailable_unless_the_address_is_invalid(
    error: Exception, is_unavailable: bool
) -> None:
    """The message contains host and port."""
    built = build_bind_error(error, "myhost", 9464, "metrics")
    assert isinstance(built, UnavailableError) is is_unavailable
    assert "myhost" in str(built)
    assert "9464" in str(built)


def test_without_threads_work_is_recorded_and_written_by_a_flush(
    tmp_path: Path, threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers and exporters are left out. Later threads start again."""
    pytest.importorskip("fastapi")
    threads.is_refused = True
    runtime = configure(
        store=f"sqlite:///{tmp_path}/p.db", prometheus_port=0, server_port=0, otlp=True, tracer_provider=None
    )
    assert [lines[0].partition(",")[0] for lines in read_warnings(caplog)] == [
        "The metrics are not served",
        "Spans are not exported",
        "Log records and events are not exported",
        "The metrics are not exported",
        "The API and the page are not served",
    ]
    events: list[str] = []
    runtime.add_callback(lambda event, operation: events.append(event))
    run_operation(runtime)
    runtime.force_flush(PATIENCE_S)
    assert events == ["started", "completed"]
    with closing(open_journal(f"sqlite:///{tmp_path}/p.db", read_only=True)) as journal:
        assert [operation.operation_id for operation in journal.history()] == ["o"]
    counts = read_error_counts(runtime)
    assert {"metrics", "otlp.traces", "otlp.logs", "otlp.metrics", "server", "ticker"} <= set(counts)
    threads.is_refused = False
    with progress.operation("job", id="later"):
        wait_until(lambda: "started" in events[2:], PATIENCE_S)
    assert runtime.shutdown(PATIENCE_S)
    # A slow machine sends an update in between.
    ends = [event for event in events if event != "updated"]
    assert ends == ["started", "completed", "started", "completed"]


def test_strict_configure_without_threads_raises(threads: Threads) -> None:
    """The socket of the server is closed again."""
    threads.is_refused = True
    port = free_port()
    with pytest.raises(UnavailableError, match="thread"):
        configure(prometheus_port=port, strict=True)
    threads.is_refused = False
    assert configure(prometheus_port=port, strict=True).metrics_url is not None


@pytest.mark.usefixtures("no_home")
def test_without_a_home_directory_progress_is_recorded_in_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A folder of previews in the home directory is left out as well."""
    runtime = configure(store="sqlite:", previews="~/previews")
    (journal, previews) = read_warnings(caplog)
    assert journal[0] == "Progress is recorded only in memory, and the work continues:"
    assert "no home directory" in journal[1]
    assert previews[0] == "Previews are not stored, and the work continues:"
    run_operation(runtime)
    assert read_error_counts(runtime) == {"journal": 1.0, "previews": 1.0}
    assert runtime.force_flush(PATIENCE_S)


@pytest.mark.usefixtures("no_home")
def test_strict_configure_without_a_home_directory_raises() -> None:
    """An explicit store needs no home directory."""
    with pytest.raises(ConfigurationError, match="no home directory"):
        configure(store="sqlite:", strict=True)


def test_store_in_a_removed_current_directory_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A relative path has no meaning there."""
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    runtime = configure(store="sqlite:///p.db", previews="previews")
    assert len(read_warnings(caplog)) == 2
    run_operation(runtime)
    monkeypatch.undo()


@pytest.mark.parametrize("is_read_first", [False, True])
def test_unwritable_journal_is_one_warning_of_two_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_read_first: bool
) -> None:
    """Each failure is counted, and the journal recovers."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    runtime = configure(store=f"sqlite:///{tmp_path}/file/p.db")
    if is_read_first:
        assert runtime.get_history() == []
    run_operation(runtime)
    assert not runtime.force_flush(PATIENCE_S)
    assert not runtime.force_flush(PATIENCE_S)
    (lines,) = read_warnings(caplog)
    assert len(lines) == 2
    assert f"{tmp_path}/file/p.db cannot be created" in lines[1]
    assert read_error_counts(runtime)["journal"] >= 2
    (tmp_path / "file").unlink()
    assert runtime.force_flush(PATIENCE_S)
    with closing(open_journal(f"sqlite:///{tmp_path}/file/p.db", read_only=True)) as journal:
        assert [operation.operation_id for operation in journal.history()] == ["o"]


def test_strict_configure_with_unwritable_journal_raises(tmp_path: Path) -> None:
    """A writable one is created at once."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be created"):
        configure(store=f"sqlite:///{tmp_path}/file/p.db", strict=True)
    assert config.current_runtime() is None
    configure(store=f"sqlite:///{tmp_path}/p.db", strict=True)
    assert (tmp_path / "p.db").exists()


# --- several processes ---------------------------------------------------------------------------


def start_program(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start ``python program.py`` in a folder, or ``python`` with ``arguments``."""
    (folder / "program.py").write_text(textwrap.dedent(code), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "XDG_"))}
    return subprocess.Popen(
        [sys.executable, *(arguments or ("program.py",))],
        cwd=folder,
        env={**environ, "XDG_STATE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.process
def test_spawned_children_and_a_second_run_share_a_fixed_port(tmp_path: Path) -> None:
    """The first run serves all of them, and no process warns."""
    port = free_port()
    program = start_program(
        tmp_path,
        f"""
        import multiprocessing, subprocess, sys
        import otel_progress as progress

        runtime = progress.configure(console=False, prometheus_port={port})

        def work(number):
            with progress.operation("square", id=f"square-{{number}}"):
                return number * number

        if __name__ == "__main__":
            if sys.argv[1:] == ["second"]:
                print("second", runtime.metrics_url, work(9))
            else:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(pool.map(work, range(4)))
                subprocess.run([sys.executable, __file__, "second"], check=True)
                print("first", runtime.metrics_url, work(10))
        """,
    )
    output = program.communicate(timeout=300)[0]
    assert program.returncode == 0, output
    assert "[0, 1, 4, 9]" in output
    assert f"second http://127.0.0.1:{port}/metrics 81" in output
    assert f"first http://127.0.0.1:{port}/metrics 100" in output
    assert "The metrics are not served" not in output
    assert "Traceback" not in output


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="the workers end by a signal")
def test_uvicorn_workers_with_fixed_ports_all_serve(tmp_path: Path) -> None:
    """One worker serves the metrics of both, and one the API."""
    pytest.importorskip("fastapi")
    metrics_port, server_port, port = (free_port() for _ in range(3))
    program = start_program(
        tmp_path,
        f"""
        import os
        import otel_progress as progress

        runtime = progress.configure(
            console=False, prometheus_port={metrics_port}, server_port={server_port}
        )

        async def app(scope, receive, send):
            if scope["type"] != "http":
                return
            with progress.operation("request"):
                body = f"{{os.getpid()}} {{runtime.metrics_url}} {{runtime.server_url}}"
            headers = [(b"connection", b"close")]
            await send({{"type": "http.response.start", "status": 200, "headers": headers}})
            await send({{"type": "http.response.body", "body": body.encode()}})
        """,
        *("-m", "uvicorn", "program:app", "--workers", "2", "--port", str(port), "--lifespan", "off"),
    )
    answers: dict[str, str] = {}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> bool:
        assert program.poll() is None, program.communicate()[0]
        try:
            with direct.open(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S) as response:
                pid, _, urls = response.read().decode().partition(" ")
        except OSError:
            return False
        answers[pid] = urls
        return len(answers) == 2

    try:
        wait_until(ask, PATIENCE_S)
    finally:
        program.send_signal(signal.SIGTERM)
        output = program.communicate(timeout=300)[0]
    metrics_url, server_url = f"http://127.0.0.1:{metrics_port}/metrics", f"http://127.0.0.1:{server_port}/"
    assert sorted(url for urls in answers.values() for url in urls.split()) == sorted(
        [metrics_url, metrics_url, server_url, "None"]
    )
    assert output.count("and the work continues:") == 1, output
    assert "Traceback" not in output
