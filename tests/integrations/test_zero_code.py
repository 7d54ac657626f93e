"""Programs without ``configure()`` under ``opentelemetry-instrument``."""

from __future__ import annotations

from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from otel_progress.journal import open_journal
from tests.support import zero_code
from tests.support.otlp_receiver import attributes, receiving

pytest.importorskip("opentelemetry.distro", reason="these tests run the real distribution")

pytestmark = pytest.mark.process

TRACK = """
import sys
import otel_progress as progress

for _ in progress.track(range(3), "training"):
    sys.stdin.readline()
"""
OPERATION = """
import sys
import otel_progress as progress

with progress.operation("track", "training", total=3) as op:
    for _ in range(3):
        sys.stdin.readline()
        op.increment()
"""
QUIET = """
import os, sys, threading
import otel_progress as progress

print(sorted(each.name for each in threading.enumerate()), "otel_progress.config" in sys.modules)
with progress.operation("job") as op:
    print(op.recording)
print(len(progress.get_history()), os.path.exists(os.environ["XDG_STATE_HOME"]))
"""


@pytest.mark.parametrize(("style", "text"), [("environment", TRACK), ("file", OPERATION)])
def test_program_under_instrument_appears_on_page_and_metrics_and_otlp(
    style: str, text: str, tmp_path: Path
) -> None:
    """Both styles of configuration, with a receiver that stores what is sent."""
    with receiving() as receiver:
        environ = zero_code.build_environ(tmp_path, **zero_code.export_to(receiver.port))
        if style == "environment":
            environ |= {"OTEL_SERVICE_NAME": "nightly", "OTEL_TRACES_SAMPLER": "progress_always_on"}
        else:
            environ |= zero_code.write_file(tmp_path, port=receiver.port, options="otlp: true, tick: 0.05")
        with zero_code.running_live(zero_code.write_program(tmp_path, text), environ) as live:
            operation = live.wait_for_operation("track")
            assert (operation["name"], operation["total"]) == ("training", 3)
            assert operation["worker"]["service"] == "nightly"
            assert f'progress_operation_target{{operation_id="{operation["id"]}"' in live.scrape()
            live.finish()
        (span,) = [(one, resource) for resource, one in receiver.spans()]
        assert attributes(span[0])["progress.status"] == "completed"
        assert span[1]["service.name"] == "nightly"
        assert {record.event_name for _, record in receiver.records()} >= {"progress.finished"}
        assert any(metric.name.startswith("progress.") for _, metric in receiver.metrics())


def test_program_without_settings_writes_nothing_and_starts_at_its_first_use(tmp_path: Path) -> None:
    """The defaults for a package that is installed because another one requires it."""
    # Why without it: the instrumentation of OpenTelemetry imports Celery, which activates ours.
    environ = zero_code.build_environ(tmp_path) | {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery"}
    done = zero_code.run(zero_code.write_program(tmp_path, QUIET), environ)
    assert done.stdout.splitlines() == ["['MainThread'] False", "True", "1 False"]
    assert done.stderr == ""


def test_option_of_the_command_sets_the_journal(tmp_path: Path) -> None:
    """Each setting is an option of ``opentelemetry-instrument``."""
    store = f"sqlite:////{str(tmp_path / 'progress.db').lstrip('/')}"
    zero_code.run(
        zero_code.write_program(tmp_path, QUIET),
        zero_code.build_environ(tmp_path),
        "--progress_store",
        store,
    )
    with closing(open_journal(store, read_only=True)) as journal:
        assert [one.root.info.type for one in journal.history()] == ["job"]


@pytest.mark.parametrize("switch", [pytest.param("variable", marks=pytest.mark.slow), "file"])
def test_disabled_instrumentation_records_nothing(switch: str, tmp_path: Path) -> None:
    """The distribution activates all instrumentors after it has read the file."""
    environ = zero_code.build_environ(tmp_path)
    if switch == "file":
        environ |= zero_code.write_file(tmp_path, options="enabled: false")
    else:
        environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "progress"
    done = zero_code.run(zero_code.write_program(tmp_path, QUIET), environ)
    assert done.stdout.splitlines()[1:] == ["False", "0 False"]


def test_program_that_configures_itself_replaces_the_automatic_recording(tmp_path: Path) -> None:
    """Also if a library has recorded before, with other settings."""
    program = """
import otel_progress as progress
list(progress.track([1], "library"))
runtime = progress.configure(service_name="mine", store="memory:", console=False, tick=0.02)
list(progress.track([1], "program"))
print([(each.root.info.name, each.instance.service) for each in runtime.get_history()])
print(progress.configure(service_name="mine") is runtime)
"""
    done = zero_code.run(zero_code.write_program(tmp_path, program), zero_code.build_environ(tmp_path))
    assert done.stdout.splitlines() == ["[('program', 'mine')]", "True"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "method", ["spawn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("forkserver", "fork"))]
)
def test_children_of_multiprocessing_record_in_the_journal_of_their_parent(
    method: str, tmp_path: Path
) -> None:
    """Each child starts by itself. The resource tracker opens nothing."""
    program = """
import multiprocessing, sys
import otel_progress as progress

def work(number):
    list(progress.track([1, 2], f"child {number}"))

if __name__ == "__main__":
    progress.configure(store=sys.argv[1], console=False)
    context = multiprocessing.get_context(sys.argv[2])
    with context.Pool(1) as pool:
        pool.map(work, [1, 2])
        pool.close()
        pool.join()
"""
    if method != "fork" and version("opentelemetry-instrumentation") < "0.66":
        pytest.skip("older versions do not instrument child processes")
    store = f"sqlite:////{str(tmp_path / 'progress.db').lstrip('/')}"
    path = zero_code.write_program(tmp_path, program.replace("sys.argv[1]", repr(store)))
    path.write_text(path.read_text().replace("sys.argv[2]", repr(method)))
    done = zero_code.run(path, zero_code.build_environ(tmp_path))
    assert done.stderr == ""
    with closing(open_journal(store, read_only=True)) as journal:
        operations = journal.history()
        assert {one.root.info.name for one in operations} == {"child 1", "child 2"}
        assert len({one.instance.id for one in operations if one.instance is not None}) == 1


def test_plain_span_with_progress_starts_the_recording(tmp_path: Path) -> None:
    """Also if the sampler drops it, with a sampler of this package."""
    program = """
import otel_progress as progress
from opentelemetry import trace
tracer = trace.get_tracer("app")
with tracer.start_as_current_span("request"):
    pass
print(progress.get_active_operations())
with tracer.start_as_current_span("import", attributes={"progress.total": 4}) as span:
    span.set_attribute("progress.current", 2)
    progress.flush()
    (operation,) = progress.get_active_operations()
    print(operation.root.info.type, operation.root.total, span.get_span_context().trace_flags.sampled)
"""
    environ = zero_code.build_environ(tmp_path, OTEL_TRACES_SAMPLER="progress_parentbased_always_off")
    done = zero_code.run(zero_code.write_program(tmp_path, program), environ)
    assert done.stdout.splitlines() == ["[]", "import 4 False"]


@pytest.mark.slow
def test_program_without_a_provider_in_its_file_records(tmp_path: Path) -> None:
    """Then the global provider is the proxy of the API."""
    environ = zero_code.build_environ(tmp_path) | zero_code.write_file(tmp_path, options="console: false")
    path = tmp_path / "otel.yaml"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            line for line in lines if not line.startswith(("tracer", "  processors", "    -", "  sampler"))
        )
    )
    done = zero_code.run(zero_code.write_program(tmp_path, QUIET), environ)
    assert done.stdout.splitlines()[1:] == ["True", "1 False"]
