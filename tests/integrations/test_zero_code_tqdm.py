"""A plain tqdm loop under ``opentelemetry-instrument``: no import of this package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.support import zero_code
from tests.support.otlp_receiver import attributes, receiving

pytest.importorskip("opentelemetry.distro", reason="these tests run the real distribution")
pytest.importorskip("tqdm", reason="the loop is one of tqdm")
if importlib.util.find_spec("otel_progress.integrations.tqdm") is None:
    pytest.skip("the integration with tqdm is not part of this version", allow_module_level=True)

pytestmark = pytest.mark.process

LOOP = """
import sys, time
from tqdm import tqdm

for _ in tqdm(range(3), desc="training"):
    sys.stdin.readline()
"""


@pytest.mark.parametrize("style", ["environment", "file"])
def test_tqdm_loop_under_instrument_appears_on_page_and_metrics_and_otlp(style: str, tmp_path: Path) -> None:
    """Both styles of configuration, with a receiver that stores what is sent."""
    with receiving() as receiver:
        environ = zero_code.build_environ(tmp_path, **zero_code.export_to(receiver.port))
        if style == "environment":
            environ |= {"OTEL_SERVICE_NAME": "nightly", "OTEL_TRACES_SAMPLER": "progress_always_on"}
        else:
            environ |= zero_code.write_file(tmp_path, port=receiver.port, options="otlp: true")
        with zero_code.running_live(zero_code.write_program(tmp_path, LOOP), environ) as live:
            operation = live.wait_for_operation("tqdm")
            assert (operation["name"], operation["total"]) == ("training", 3)
            assert f'progress_operation_target{{operation_id="{operation["id"]}"' in live.scrape()
            live.finish()
        ((resource, span),) = receiver.spans()
        assert attributes(span)["progress.status"] == "completed"
        assert resource["service.name"] == "nightly"
        assert {record.event_name for _, record in receiver.records()} >= {"progress.finished"}
        assert any(metric.name.startswith("progress.") for _, metric in receiver.metrics())


@pytest.mark.parametrize("name", ["progress", "progress-tqdm"])
def test_disabled_instrumentation_of_tqdm_records_nothing(name: str, tmp_path: Path) -> None:
    """``progress`` disables all instrumentations of this package."""
    program = """
import time
import otel_progress as progress
from tqdm import tqdm

for _ in tqdm(range(3)):
    time.sleep(0.6)
with progress.operation("job"):
    pass
print([each.root.info.type for each in progress.get_history()])
"""
    environ = zero_code.build_environ(tmp_path, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=name)
    done = zero_code.run(zero_code.write_program(tmp_path, program), environ)
    assert done.stdout.strip() == ("[]" if name == "progress" else "['job']")
