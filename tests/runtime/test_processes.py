"""Exit, fork and imports, each in a process of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
QUIET = "console=False, otlp=False, tick=0.01"
PATIENT_SHUTDOWN = """
from otel_progress.runtime.runtime import Runtime
Runtime.shutdown.__defaults__ = (60.0,)
"""
"""Code that gives shutdowns enough time for a slow disk."""


def run(tmp_path: Path, code: str, *, exit_code: int = 0, is_patient: bool = True) -> str:
    """Run code in another process with warnings as errors. Return its output.

    The process imports this package first if ``is_patient``.
    """
    program = (PATIENT_SHUTDOWN if is_patient else "") + textwrap.dedent(code)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "XDG_"))}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", program],
        env={**environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == exit_code, result.stderr
    assert "Traceback" not in result.stderr or exit_code, result.stderr
    return result.stdout


def read_journal(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Return the operations of the journal by id. Another process reads them."""
    code = """
    import json
    from otel_progress.journal import open_journal
    reader = open_journal("sqlite:")
    print(json.dumps({
        operation.operation_id: {
            "status": operation.status.value,
            "name": operation.root.info.name,
            "current": operation.root.current,
            "message": operation.message,
            "pid": operation.instance.pid,
        }
        for operation in (*reader.active(), *reader.history())
    }))
    reader.close()
    """
    return json.loads(run(tmp_path, code))


def test_process_without_shutdown_writes_its_last_state_at_exit(tmp_path: Path) -> None:
    """Active operations are cancelled."""
    run(
        tmp_path,
        f"""
        import otel_progress as progress
        progress.configure({QUIET})
        with progress.operation("o", id="done", total=1) as op:
            op.increment()
        left = progress.operation("o", id="left", total=3).start()
        left.increment(2)
        """,
    )
    operations = read_journal(tmp_path)
    assert (operations["done"]["status"], operations["done"]["current"]) == ("completed", 1)
    assert (operations["left"]["status"], operations["left"]["current"], operations["left"]["message"]) == (
        "cancelled",
        2,
        "the process ended first",
    )


def test_process_that_exits_with_an_error_fails_its_operation(tmp_path: Path) -> None:
    """The exception passes through the context manager."""
    run(
        tmp_path,
        f"""
        import otel_progress as progress
        progress.configure({QUIET})
        with progress.operation("o", id="o"):
            raise SystemExit(3)
        """,
        exit_code=3,
    )
    assert read_journal(tmp_path)["o"]["status"] == "failed"


def test_active_generators_loops_and_threads_do_not_disturb_the_exit(tmp_path: Path) -> None:
    """Their operations are cancelled."""
    run(
        tmp_path,
        f"""
        import threading
        import otel_progress as progress
        progress.configure({QUIET})
        @progress.operation("generator", id="generator")
        def numbers():
            yield from range(10)
        generator = numbers()
        next(generator)
        loop = iter(progress.track(range(10), type="loop"))
        next(loop)
        started = threading.Event()
        def forever():
            with progress.operation("thread", id="thread") as op:
                while True:
                    op.increment()
                    started.set()
        threading.Thread(target=forever, daemon=True).start()
        started.wait()
        """,
    )
    operations = read_journal(tmp_path)
    assert (operations["generator"]["status"], operations["thread"]["status"]) == ("cancelled", "cancelled")


def test_instrumentation_without_configure_imports_no_sdk(tmp_path: Path) -> None:
    """It imports opentelemetry-api only."""
    out = run(
        tmp_path,
        """
        import sys
        import otel_progress as progress
        with progress.operation("o", total=1) as op, op.level("x", stages={"a": 1}) as level:
            with level.stage("a"):
                level.increment()
        list(progress.track([1]))
        forbidden = ("opentelemetry.sdk", "prometheus_client", "rich", "sqlite3")
        print([name for name in sys.modules if name.startswith(forbidden)])
        """,
        is_patient=False,
    )
    assert out.strip() == "[]"


def test_testing_module_works_without_pytest(tmp_path: Path) -> None:
    """It can be imported and used."""
    out = run(
        tmp_path,
        """
        import sys
        sys.modules["pytest"] = None
        import otel_progress as progress
        from otel_progress.testing import recording
        with recording() as recorder:
            with progress.operation("o"):
                pass
            print(recorder.span_trees()[0]["name"])
        """,
        is_patient=False,
    )
    assert out.strip() == "o"


def test_provider_joined_after_configure_creates_spans_from_then_on(tmp_path: Path) -> None:
    """The first provider was the global one."""
    out = run(
        tmp_path,
        f"""
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        import otel_progress as progress
        runtime = progress.configure(store="memory:", {QUIET})
        with progress.operation("before"):
            pass
        exporter, late = InMemorySpanExporter(), TracerProvider()
        late.add_span_processor(SimpleSpanProcessor(exporter))
        assert progress.configure(tracer_provider=late) is runtime
        tracer = late.get_tracer("user")
        plain_span = tracer.start_as_current_span("plain", attributes={{"progress.total": 1}})
        with progress.operation("after"), plain_span:
            runtime._ticker.tick()
            active = runtime.get_active_operations()
            print([operation.name for operation in active], [level.info.type for level in active[0].levels])
        print(sorted(span.name for span in exporter.get_finished_spans()))
        """,
    )
    assert out.splitlines() == ["['after'] ['plain']", "['after', 'plain']"]


@needs_fork
def test_forked_child_records_its_operations_as_another_process(tmp_path: Path) -> None:
    """Spans and rows of the parent stay its own. Its handle adds to its operation."""
    out = run(
        tmp_path,
        f"""
        import os, sys, json
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter
        import otel_progress as progress
        provider = TracerProvider()
        exporter = ConsoleSpanExporter(formatter=lambda span: f"{{os.getpid()}} {{span.name}}\\n")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        runtime = progress.configure({QUIET}, prometheus_port=0, tracer_provider=provider)
        progress.add_callback(lambda event, operation: None)
        with progress.operation("parent", id="parent", total=4) as op:
            op.increment(2)
            assert runtime.force_flush(60.0)
            pid = os.fork()
            if pid == 0:
                op.increment()
                op.update(message="from the child")
                op.level("x").start()
                with progress.operation("child", id="child", total=2) as own:
                    own.increment()
                    assert progress.get_active_operations()[0].operation_id == "child"
                    parent = progress.get_operation("parent")
                    assert parent is None or parent.root.current == 2
                with progress.level("file", id="below"):
                    list(progress.track([1, 2, 3], type="loop"))
                assert runtime.force_flush(60.0)
            else:
                assert os.waitpid(pid, 0)[1] == 0
                op.increment()
        print(os.getpid(), pid and "parent", flush=True)
        """,
    )
    lines = [line.split() for line in out.splitlines()]
    pids = {name: pid for pid, name in lines if name in ("child", "parent")}
    spans = [tuple(line) for line in lines]
    assert len({(pid, name) for pid, name in spans if name == "parent"}) == 1
    assert pids["child"] != pids["parent"]
    operations = read_journal(tmp_path)
    assert (
        operations["parent"]["status"],
        operations["parent"]["current"],
        operations["parent"]["message"],
    ) == (
        "completed",
        4,
        "from the child",
    )
    assert (operations["child"]["status"], operations["child"]["current"]) == ("completed", 1)
    # The handle is the current level of the child after its first use there.
    assert set(operations) == {"parent", "child"}
    assert operations["child"]["pid"] != operations["parent"]["pid"]


@needs_fork
def test_fork_while_threads_record_does_not_block_the_child(tmp_path: Path) -> None:
    """Each child writes its operation to the journal."""
    run(
        tmp_path,
        f"""
        import faulthandler, logging, os, threading
        import otel_progress as progress
        # Why: Python's stderr has a lock that another thread may hold at the fork.
        logging.getLogger("otel_progress").addHandler(logging.NullHandler())
        runtime = progress.configure({QUIET})
        stop = threading.Event()
        def record(number):
            with progress.operation("work", id=f"w{{number}}") as op:
                while not stop.is_set():
                    with op.level("x") as level:
                        level.increment(2)
                        level.item("a", outcome="failed")
                        level.update(total=-1)
        threads = [threading.Thread(target=record, args=(number,), daemon=True) for number in range(3)]
        for thread in threads:
            thread.start()
        for number in range(10):
            pid = os.fork()
            if pid == 0:
                faulthandler.dump_traceback_later(60, exit=True)
                with progress.operation("child", id=f"c{{number}}") as op:
                    op.increment(2)
                    op.item("a", outcome="skipped")
                    op.update(total=-1)
                runtime.force_flush(50.0)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0, number
        stop.set()
        for thread in threads:
            thread.join()
        """,
    )
    operations = read_journal(tmp_path)
    assert {operations[f"c{number}"]["status"] for number in range(10)} == {"completed"}
    with sqlite3.connect(next(tmp_path.rglob("*.db"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@needs_fork
@pytest.mark.parametrize(
    "place",
    [
        "diagnostics:diagnostics._lock.lock",
        "eta.cache:cache._lock",
        "instrument.backend:backend.backend_slot.current.store._state.lock",
    ],
)
def test_fork_while_another_thread_holds_a_lock_does_not_block_the_child(tmp_path: Path, place: str) -> None:
    """The locks are those of levels, estimates and internal errors."""
    module, _, lock = place.partition(":")
    package, _, name = f"otel_progress.{module}".rpartition(".")
    run(
        tmp_path,
        f"""
        import os, signal, threading
        import otel_progress as progress
        from otel_progress.diagnostics import report_internal_error
        from {package} import {name}
        progress.configure(store="memory:", {QUIET})
        held, forked = threading.Event(), threading.Event()
        def hold():
            with {lock}:
                held.set()
                forked.wait(0.2)  # a fork may wait until the lock is free
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            with progress.operation("o") as op:
                op.increment(2)
                op.item("a", outcome="failed")
                op.update(total=-1)
            report_internal_error("test", "something")
            os._exit(0)
        forked.set()
        holder.join()
        assert os.waitpid(pid, 0)[1] == 0
        """,
    )


@needs_fork
def test_part_that_fails_to_restart_after_a_fork_leaves_the_others_working(tmp_path: Path) -> None:
    """Otherwise the child would wait for locks of threads that only its parent has."""
    code = f"""
    import os, sys
    import otel_progress as progress
    runtime = progress.configure({QUIET})
    ticker, journal = runtime._ticker, runtime._components.journal

    def fail(instance_id):
        raise LookupError("a part failed")

    runtime._components.fork_callbacks.insert(0, fail)
    with progress.operation("o", id="parent"):
        # Why: the child inherits the state of a tick of another thread.
        with ticker._tick_lock.lock:
            pid = os.fork()
            if pid == 0:
                with progress.operation("o", id="child", total=1) as op:
                    op.increment()
                sys.stderr.flush()
                os._exit(0 if runtime.force_flush() else 1)
            assert os.waitpid(pid, 0)[1] == 0
    """
    program = textwrap.dedent(code)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "XDG_"))}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("A fork hook failed") == 1
    assert "a part failed" in result.stderr
    operations = read_journal(tmp_path)
    assert {name: operation["status"] for name, operation in operations.items()} == {
        "parent": "completed",
        "child": "completed",
    }
