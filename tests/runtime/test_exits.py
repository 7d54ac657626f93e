"""Paths on which a process leaves, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.exit_programs import finish, read_ends, run, start

pytestmark = pytest.mark.process

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
CONFIGURE = "progress.configure(console=False, otlp=False)"


# --- os._exit ------------------------------------------------------------------------------------


def test_os_exit_after_an_end_delivers_the_end(tmp_path: Path) -> None:
    """The exit status and the output stay those of the program."""
    code = f"""
    import os
    {CONFIGURE}
    with progress.operation("o", id="ended"):
        pass
    running = progress.operation("o", id="running").start()
    os._exit(7)
    """
    assert run(tmp_path, code) == (7, "", "")
    assert read_ends(tmp_path) == {
        "ended": ("completed", None),
        "running": ("cancelled", "the process ended first"),
    }


@needs_fork
def test_os_exit_of_forked_children_delivers_each_end_once(tmp_path: Path) -> None:
    """The operation of the parent continues."""
    code = f"""
    import os
    {CONFIGURE}
    with progress.operation("o", id="parent"):
        for number in range(5):
            if os.fork() == 0:
                with progress.operation("o", id=f"child-{{number}}"):
                    pass
                os._exit(number)
        for number in range(5):
            os.wait()
    """
    assert run(tmp_path, code) == (0, "", "")
    expected = {f"child-{number}" for number in range(5)} | {"parent"}
    assert read_ends(tmp_path) == dict.fromkeys(expected, ("completed", None))


def test_os_exit_is_the_original_after_the_shutdown(tmp_path: Path) -> None:
    """Without a configuration it is the original, too."""
    code = f"""
    import os
    original = os._exit
    runtime = {CONFIGURE}
    replaced = os._exit
    runtime.shutdown()
    print(replaced is not original, os._exit is original, flush=True)
    replaced(3)
    """
    assert run(tmp_path, code) == (3, "True True\n", "")


@needs_signals
def test_program_that_replaces_itself_delivers_the_ends(tmp_path: Path) -> None:
    """The process continues with the same id, so its operations would seem to run."""
    code = f"""
    import os, sys
    {CONFIGURE}
    with progress.operation("o", id="ended"):
        pass
    running = progress.operation("o", id="running").start()
    os.execlp(sys.executable, sys.executable, "-c", "print('replaced')")
    """
    assert run(tmp_path, code) == (0, "replaced\n", "")
    assert read_ends(tmp_path) == {
        "ended": ("completed", None),
        "running": ("cancelled", "the process ended first"),
    }


@needs_signals
def test_program_that_restarts_itself_resumes_its_operation(tmp_path: Path) -> None:
    """The old session has the process id of the new one."""
    code = f"""
    import os, sys
    {CONFIGURE}
    with progress.operation("o", id="restarts", total=3, resume=True) as op:
        for number in op.track(range(3), "items", key=str):
            print(number, flush=True)
            if number == 1 and len(sys.argv) == 1:
                os.execv(sys.executable, [sys.executable, __file__, "again"])
    print(op.snapshot().status.value)
    """
    assert run(tmp_path, code) == (0, "0\n1\n1\n2\ncompleted\n", "")


@needs_signals
def test_failed_replacement_of_the_program_changes_no_operation(tmp_path: Path) -> None:
    """Without a configuration the functions are the original ones, too."""
    code = f"""
    import os, sys
    functions = os.execv, os.execve
    runtime = {CONFIGURE}
    with progress.operation("o", id="running"):
        for call, path in ((os.execv, "/"), (os.execvp, "no-such-program"), (os.execv, None)):
            try:
                call(path, ["program"])
            except (OSError, TypeError) as error:
                print(type(error).__name__)
    runtime.shutdown()
    print((os.execv, os.execve) == functions)
    """
    assert run(tmp_path, code) == (0, "PermissionError\nFileNotFoundError\nTypeError\nTrue\n", "")
    assert read_ends(tmp_path) == {"running": ("completed", None)}


@needs_fork
def test_thread_of_a_child_ends_its_operation_after_the_finalizers(tmp_path: Path) -> None:
    """Multiprocessing waits for threads after its finalizers."""
    code = f"""
    import multiprocessing, threading, time
    {CONFIGURE}
    def work():
        with progress.operation("o", id="returned"):
            time.sleep(0.3)
    def fail():
        with progress.operation("o", id="raised"):
            time.sleep(0.3)
            raise ValueError("broken")
    def linger():
        with progress.operation("o", id="daemon"):
            time.sleep(1000)
    def child():
        threading.excepthook = lambda arguments: None
        threading.Thread(target=linger, daemon=True).start()
        for target in (work, fail):
            threading.Thread(target=target).start()
        while len(progress.configure().get_active_operations()) < 3:
            time.sleep(0.01)
    if __name__ == "__main__":
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
    """
    assert run(tmp_path, code) == (0, "", "")
    assert {identity: status for identity, (status, _) in read_ends(tmp_path).items()} == {
        "returned": "completed",
        "raised": "failed",
        "daemon": "cancelled",
    }


@needs_fork
def test_provider_of_the_application_is_flushed_in_children(tmp_path: Path) -> None:
    """Nothing else exports its spans, because such a child runs no ``atexit``."""
    spans = tmp_path / "spans"
    code = f"""
    import multiprocessing, os
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    file = open({str(spans)!r}, "a")
    def render(span):
        return span.attributes["progress.operation.id"] + "\\n"
    exporter = ConsoleSpanExporter(out=file, formatter=render)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    {CONFIGURE}
    def work(identity):
        with progress.operation("o", id=identity):
            pass
    def leave(identity):
        work(identity)
        os._exit(0)
    if __name__ == "__main__":
        context = multiprocessing.get_context("fork")
        for target in (work, leave):
            process = context.Process(target=target, args=(target.__name__,))
            process.start()
            process.join()
    """
    assert run(tmp_path, code) == (0, "", "")
    assert sorted(spans.read_text().split()) == ["leave", "work"]


@needs_fork
def test_child_that_records_nothing_leaves_without_an_export(tmp_path: Path) -> None:
    """It would wait for a collector that does not answer."""
    code = """
    import multiprocessing, socket, time
    silent = socket.create_server(("127.0.0.1", 0))
    import os
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
    os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    from otel_progress.runtime.runtime import Runtime
    progress.configure(console=False, otlp=True)
    Runtime.shutdown = Runtime.force_flush = lambda *arguments: print("exported", flush=True)
    if __name__ == "__main__":
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        process.join()
        print(process.exitcode, flush=True)
        os.kill(os.getpid(), 9)
    """
    assert run(tmp_path, code) == (-9, "0\n", "")


def test_unhandled_exception_in_a_thread_delivers_the_end_before_the_process_leaves(tmp_path: Path) -> None:
    """The thread outlives the main thread."""
    code = f"""
    import threading, time
    {CONFIGURE}
    threading.excepthook = lambda arguments: None
    def fail():
        time.sleep(0.2)
        with progress.operation("o", id="o"):
            raise ValueError("broken")
    threading.Thread(target=fail).start()
    """
    assert run(tmp_path, code) == (0, "", "")
    assert read_ends(tmp_path)["o"][0] == "failed"


# --- signals -------------------------------------------------------------------------------------

WAIT = """
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def run_with_signal(tmp_path: Path, code: str, number: int, *prefix: str) -> tuple[int, str, str]:
    """Run a program until it prints a line, and send a signal to it."""
    process = start(tmp_path, "import signal, sys, time\n" + textwrap.dedent(code), *prefix)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    return finish(process)


SIGNAL_CODE = """
{before}
progress.configure(console=False, otlp=False, terminate_signals=True)
op = progress.operation("o", id="o", total=10).start()
op.level("file", id="a").start().increment()
"""


@needs_signals
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_terminate_signal_cancels_operations_and_has_its_default_effect(tmp_path: Path, name: str) -> None:
    """The exit status is that of the signal."""
    number = getattr(signal, name)
    before = "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    code = SIGNAL_CODE.format(before=before) + WAIT
    assert run_with_signal(tmp_path, code, number) == (-number, "", "")
    assert read_ends(tmp_path) == {"o": ("cancelled", f"stopped by {name}")}


@needs_signals
def test_terminate_signal_calls_the_previous_handler_after_the_flush(tmp_path: Path) -> None:
    """Its exception and its exit status reach the program."""
    before = """
    import os
    def stop(number, frame):
        found = progress.get_operation("o")
        # Why not print: the signal may arrive while the program prints.
        os.write(1, f"{number} {frame.f_code.co_name} {found.status.value}\\n".encode())
        sys.exit(5)
    signal.signal(signal.SIGTERM, stop)
    """
    code = SIGNAL_CODE.format(before=textwrap.dedent(before)) + WAIT
    assert run_with_signal(tmp_path, code, signal.SIGTERM) == (5, "15 <module> cancelled\n", "")
    assert read_ends(tmp_path) == {"o": ("cancelled", "stopped by SIGTERM")}


@needs_signals
def test_terminate_signals_are_off_by_default_and_restored_by_the_shutdown(tmp_path: Path) -> None:
    """An ignored signal stays ignored."""
    code = """
    import signal
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    def get():
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    before = get()
    progress.configure(store="memory:", console=False, otlp=False)
    print(get() == before)
    progress.shutdown()
    progress.configure(store="memory:", console=False, otlp=False, terminate_signals=True)
    print([one == other for one, other in zip(get(), before)])
    progress.shutdown()
    print(get() == before)
    """
    assert run(tmp_path, code) == (0, "True\n[False, True]\nTrue\n", "")


@needs_signals
def test_terminate_signals_outside_of_the_main_thread_are_reported(tmp_path: Path) -> None:
    """The work continues."""
    code = """
    import threading
    def configure():
        progress.configure(store="memory:", console=False, otlp=False, terminate_signals=True)
    thread = threading.Thread(target=configure)
    thread.start()
    thread.join()
    """
    status, output, errors = run(tmp_path, code)
    assert (status, output) == (0, "")
    assert "Invalid thread for terminate_signals: expected the main thread" in errors


@needs_signals
def test_second_terminate_signal_during_the_flush_does_not_wait(tmp_path: Path) -> None:
    """The previous handler is called at once."""
    before = """
    from otel_progress.runtime.runtime import Runtime
    import os, threading
    def hang(self, reason, timeout):
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        time.sleep(1000)
    Runtime._finish = hang
    """
    code = SIGNAL_CODE.format(before=textwrap.dedent(before)) + WAIT
    assert run_with_signal(tmp_path, code, signal.SIGTERM)[0] == -signal.SIGTERM


def can_unshare() -> bool:
    """Return True if this user may create a namespace of process ids."""
    unshare = shutil.which("unshare")
    command = [str(unshare), "--pid", "--fork", "true"]
    return unshare is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@needs_signals
@pytest.mark.skipif(not can_unshare(), reason="needs the permission to create a namespace")
def test_terminate_signal_ends_the_first_process_of_a_container(tmp_path: Path) -> None:
    """The kernel ignores the default action there."""
    code = (
        SIGNAL_CODE.format(before="")
        + """
import os
assert os.getpid() == 1
pid = os.fork()
if pid == 0:
    time.sleep(0.2)
    os.kill(1, signal.SIGTERM)
    os._exit(0)
while True:
    time.sleep(0.05)
"""
    )
    assert run(tmp_path, "import signal, sys, time\n" + code, "unshare", "--pid", "--fork") == (143, "", "")
    assert read_ends(tmp_path) == {"o": ("cancelled", "stopped by SIGTERM")}


@needs_fork
def test_terminate_signals_of_a_pool_cancel_the_operations_of_its_children(tmp_path: Path) -> None:
    """Leaving the block of a pool sends SIGTERM to its children."""
    code = """
    import multiprocessing, time
    progress.configure(console=False, otlp=False, terminate_signals=True)
    def work(number):
        with progress.operation("o", id=f"o-{number}"):
            queue.put(number)
            # Why a loop: Python runs no handler of a signal that arrives just before a long sleep.
            while True:
                time.sleep(0.05)
    if __name__ == "__main__":
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        with context.Pool(2) as pool:
            pool.map_async(work, range(2), chunksize=1)
            assert sorted(queue.get() for _ in range(2)) == [0, 1]
    """
    assert run(tmp_path, code) == (0, "", "")
    assert read_ends(tmp_path) == dict.fromkeys(("o-0", "o-1"), ("cancelled", "stopped by SIGTERM"))
