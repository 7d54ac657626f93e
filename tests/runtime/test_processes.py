"""Processes: what happens at exit, after a fork, and to those that never configure; each in a real process of its own."""

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

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
QUIET = "console=False, otlp=False, tick=0.01"
PATIENT = """
from otel_progress.runtime.runtime import Runtime
Runtime.shutdown.__defaults__ = (60.0,)
"""
"""At their end processes wait for a disk that may be slow just now as long as it takes: it is not the time that is tested."""


def run(tmp_path: Path, code: str, *, expect: int = 0, patient: bool = True) -> str:
    """Run code in a process of its own, warnings as errors, which imports nothing before unless ``patient``; return what it printed."""
    whole = (PATIENT if patient else "") + textwrap.dedent(code)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "XDG_"))}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", whole],
        env={**clean, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == expect, result.stderr
    assert "Traceback" not in result.stderr or expect, result.stderr
    return result.stdout


def journal(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Return the operations of the journal by id, read by a process of its own."""
    code = """
    import json
    from otel_progress.journal import open_journal
    reader = open_journal("sqlite:")
    print(json.dumps({one.operation_id: {"status": one.status.value, "current": one.root.current, "message": one.message,
        "pid": one.instance.pid, "trace": one.root.info.trace_id, "alive": one.alive}
        for one in (*reader.active(), *reader.history())}))
    reader.close()
    """
    return json.loads(run(tmp_path, code))


def test_at_exit_everything_is_written(tmp_path: Path) -> None:
    """A process that ends without a word has its last state in the journal: what ran is cancelled."""
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
    found = journal(tmp_path)
    assert (found["done"]["status"], found["done"]["current"]) == ("completed", 1)
    assert (found["left"]["status"], found["left"]["current"], found["left"]["message"]) == (
        "cancelled",
        2,
        "the process ended first",
    )


def test_a_process_that_fails(tmp_path: Path) -> None:
    """An exception that ends the process fails its operation."""
    run(
        tmp_path,
        f"""
        import otel_progress as progress
        progress.configure({QUIET})
        with progress.operation("o", id="o"):
            raise SystemExit(3)
        """,
        expect=3,
    )
    assert journal(tmp_path)["o"]["status"] == "failed"


def test_generators_and_threads_at_exit(tmp_path: Path) -> None:
    """Loops, generators and daemon threads that are under way at the end disturb nothing."""
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
    found = journal(tmp_path)
    assert (found["generator"]["status"], found["thread"]["status"]) == ("cancelled", "cancelled")


def test_helpers_import_no_sdk(tmp_path: Path) -> None:
    """Using every helper without configure imports opentelemetry-api only."""
    out = run(
        tmp_path,
        """
        import sys
        import otel_progress as progress
        with progress.operation("o", total=1) as op, op.level("x", stages={"a": 1}) as level, level.stage("a"):
            level.increment()
        list(progress.track([1]))
        print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "prometheus_client", "rich", "sqlite3"))])
        """,
        patient=False,
    )
    assert out.strip() == "[]"


def test_the_testing_kit_needs_no_pytest(tmp_path: Path) -> None:
    """The kit can be imported and used where pytest is not."""
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
        patient=False,
    )
    assert out.strip() == "o"


def test_a_provider_that_comes_after_configure(tmp_path: Path) -> None:
    """A provider that is joined late makes the helpers' spans from then on, when the first one was not the caller's own."""
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
        with progress.operation("after"), late.get_tracer("user").start_as_current_span("plain", attributes={{"progress.total": 1}}):
            runtime._ticker.tick()
            print([one.name for one in runtime.get_active_operations()], [l.info.type for l in runtime.get_active_operations()[0].levels])
        print(sorted(span.name for span in exporter.get_finished_spans()))
        """,
    )
    assert out.splitlines() == ["['after'] ['plain']", "['after', 'plain']"]


@forking
def test_a_forked_child(tmp_path: Path) -> None:
    """A child's own work is recorded as another process; the parent's spans and rows stay the parent's."""
    out = run(
        tmp_path,
        f"""
        import os, sys, json
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter
        import otel_progress as progress
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda s: f"{{os.getpid()}} {{s.name}}\\n")))
        runtime = progress.configure({QUIET}, prometheus_port=0, tracer_provider=provider)
        progress.add_callback(lambda event, one: None)
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
                    assert progress.get_operation("parent") is None or progress.get_operation("parent").root.current == 2
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
    found = journal(tmp_path)
    assert (found["parent"]["status"], found["parent"]["current"], found["parent"]["message"]) == (
        "completed",
        3,
        None,
    )
    assert (found["child"]["status"], found["child"]["current"]) == ("completed", 1)
    assert found["below"]["status"] == "completed"
    assert found["child"]["pid"] != found["parent"]["pid"]


@forking
def test_forks_while_threads_work(tmp_path: Path) -> None:
    """Forking in the middle of other threads' work, again and again, blocks no child."""
    run(
        tmp_path,
        f"""
        import faulthandler, logging, os, threading
        import otel_progress as progress
        # Python's own stderr has a lock that a fork may catch in the hands of another thread: nothing is logged there.
        logging.getLogger("otel_progress").addHandler(logging.NullHandler())
        runtime = progress.configure({QUIET})
        stop = threading.Event()
        def work(number):
            with progress.operation("work", id=f"w{{number}}") as op:
                while not stop.is_set():
                    with op.level("x") as level:
                        level.increment(2)
                        level.item("a", outcome="failed")
                        level.update(total=-1)
        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(3)]
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
    found = journal(tmp_path)
    assert {found[f"c{number}"]["status"] for number in range(10)} == {"completed"}
    with sqlite3.connect(next(tmp_path.rglob("*.db"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@forking
@pytest.mark.parametrize(
    "place",
    [
        "live.counter:counter._creating",
        "live.node:node._creating",
        "diagnostics:diagnostics._lock",
        "instrument.backend:backend.backend_slot.current.warnings._lock",
    ],
)
def test_no_lock_crosses_a_fork(tmp_path: Path, place: str) -> None:
    """A lock that another thread holds at the moment of a fork does not stop the child."""
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
