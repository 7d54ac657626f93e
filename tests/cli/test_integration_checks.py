"""Check of ``doctor`` for the integrations with other libraries."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from otel_progress.cli.findings import Finding
from otel_progress.cli.integration_checks import check_integrations
from otel_progress.integrations.catalog import INTEGRATIONS, Integration
from tests.support.command_line import run

pytest.importorskip("opentelemetry.instrumentation", reason="the check explains its instrumentors")

USAGE = "Call instrument()."
CODE = """
from otel_progress.integrations.instrumentors import _ModuleInstrumentor


class SupportedInstrumentor(_ModuleInstrumentor):
    _module = "supported"
    _dependency = "pytest >= 1"


class OldInstrumentor(_ModuleInstrumentor):
    _module = "old"
    _dependency = "pytest < 1"
"""
ENTRY_POINTS = """[opentelemetry_instrumentor]
progress-supported = doctor_probe:SupportedInstrumentor
progress-old = doctor_probe:OldInstrumentor
"""


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with two instrumentors."""
    (tmp_path / "doctor_probe.py").write_text(CODE)
    folder = tmp_path / "doctor_probe-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: doctor-probe\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))


def check(integration: Integration, environ: Mapping[str, str] | None = None) -> Finding:
    """Return the finding of one integration, without that of the command."""
    _, finding = check_integrations(environ or {}, [integration])
    return finding


def test_command_records_progress_unless_disabled() -> None:
    (active,) = check_integrations({}, [])
    assert active.state == "ok"
    (inactive,) = check_integrations({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "progress"}, [])
    assert inactive.state == "note"
    assert "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS contains progress" in inactive.text


@pytest.mark.usefixtures("probes")
def test_installed_library_is_active_with_the_command() -> None:
    finding = check(Integration("supported", ("absent-x", "pytest"), USAGE, "progress-supported"))
    assert (finding.state, finding.check) == ("ok", "integration")
    label = f"supported (pytest {pytest.__version__})"
    usage = USAGE[0].lower() + USAGE[1:]
    assert finding.text == f"{label} is active with opentelemetry-instrument. Without it, {usage}"


def test_integration_without_an_instrumentor_is_available() -> None:
    assert check(Integration("x", (), USAGE)) == Finding("integration", "ok", f"x is available. {USAGE}")
    assert check(Integration("x", ("pytest",), USAGE)).text.endswith(f"is available. {USAGE}")


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize(
    ("name", "environ", "reason"),
    [
        ("supported", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "progress"}, "contains progress"),
        ("supported", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "progress-supported"}, "progress-supported"),
        ("supported", {"OTEL_PROGRESS_ENABLED": "false"}, "OTEL_PROGRESS_ENABLED is false"),
        ("old", {}, f"it requires pytest < 1, found pytest {pytest.__version__}"),
        ("new", {}, "the entry point progress-new is missing"),
    ],
)
def test_inactive_integration_has_a_reason_and_the_usage(
    name: str, environ: dict[str, str], reason: str
) -> None:
    finding = check(Integration(name, ("pytest",), USAGE, f"progress-{name}"), environ)
    assert finding.state == "note"
    assert f"{name} (pytest {pytest.__version__}) is inactive: " in finding.text
    assert reason in finding.text
    assert finding.text.endswith(USAGE)


def test_missing_libraries_are_one_finding() -> None:
    rows = [Integration("a", ("absent-a",), USAGE), Integration("b", ("absent-b", "absent-c"), USAGE)]
    _, finding = check_integrations({}, rows)
    assert finding == Finding("integration", "note", "libraries that are not installed: a, b")


def test_check_imports_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for integration in INTEGRATIONS:
        monkeypatch.delitem(sys.modules, integration.name, raising=False)
    before = set(sys.modules)
    list(check_integrations({}))
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not loaded & {integration.name for integration in INTEGRATIONS}


def test_doctor_lists_integrations() -> None:
    result = run("--store", "memory:", "doctor")
    assert result.exit_code == 0
    assert "integration" in result.stdout
    names = [integration.name for integration in INTEGRATIONS]
    assert [name for name in names if name not in result.stdout] == []
