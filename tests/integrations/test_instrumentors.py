"""Instrumentors in this process: switches, options, orders and libraries."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler

import otel_progress as progress
from otel_progress import config
from otel_progress.instrument.backend import backend_slot
from otel_progress.integrations import environment_variables, samplers
from otel_progress.integrations.first_use import start_automatically
from otel_progress.integrations.switches import find_switch
from otel_progress.platforms.systemd import stop_watchdogs
from otel_progress.sampling import ProgressSampler
from otel_progress.settings.fields import SETTINGS
from tests.support.configuration import remove_variables, shut_down_active_runtime
from tests.support.platform_servers import service_manager

pytest.importorskip(
    "opentelemetry.instrumentation", reason="instrumentors need the package with the base class"
)

from otel_progress.integrations.core_instrumentor import ProgressConfiguration, ProgressInstrumentor
from otel_progress.integrations.instrumentors import _ModuleInstrumentor


@pytest.fixture
def instrumentor(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProgressInstrumentor]:
    """The instrumentor, without variables. It is removed afterwards."""
    remove_variables(monkeypatch)
    made = ProgressInstrumentor()
    yield made
    made.uninstrument()
    shut_down_active_runtime()
    assert not backend_slot.is_deferred


def test_instrument_opens_nothing_before_the_first_use(instrumentor: ProgressInstrumentor) -> None:
    before = threading.active_count()
    instrumentor.instrument(skip_dep_check=True)
    assert config.current_runtime() is None
    assert threading.active_count() == before
    assert list(progress.track([1, 2], "work")) == [1, 2]
    runtime = config.current_runtime()
    assert runtime is not None
    assert (runtime.settings.store, runtime.settings.console) == ("memory:", False)
    (operation,) = runtime.get_history()
    assert (operation.root.info.name, operation.root.total) == ("work", 2)


def test_first_use_in_many_threads_starts_one_recording(instrumentor: ProgressInstrumentor) -> None:
    instrumentor.instrument(skip_dep_check=True)
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        list(progress.track([1], "work"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(progress.get_history()) == 8


def test_environment_overrides_the_automatic_defaults(
    instrumentor: ProgressInstrumentor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_PROGRESS_STORE", f"sqlite:///{tmp_path / 'progress.db'}")
    monkeypatch.setenv("OTEL_PROGRESS_TICK", "0.5")
    instrumentor.instrument(skip_dep_check=True)
    runtime = start_automatically()
    assert runtime is not None
    assert (runtime.settings.tick, runtime.reader.get("x")) == (0.5, None)
    assert runtime.settings.store.endswith("progress.db")


def test_configure_before_instrument_keeps_its_recording(instrumentor: ProgressInstrumentor) -> None:
    with progress.configure(store="memory:", console=False) as runtime:
        instrumentor.instrument(skip_dep_check=True)
        assert start_automatically() is runtime


def test_configure_after_instrument_has_its_own_settings(instrumentor: ProgressInstrumentor) -> None:
    instrumentor.instrument(tick=0.25, store="memory:", skip_dep_check=True)
    with progress.configure(console=False, stall_after=7.0) as runtime:
        settings = runtime.settings
        assert (settings.tick, settings.store, settings.stall_after) == (0.25, "memory:", 7.0)
        assert start_automatically() is runtime
    assert start_automatically() is None


def test_configure_that_disables_the_recording_has_precedence(instrumentor: ProgressInstrumentor) -> None:
    instrumentor.instrument(skip_dep_check=True)
    with progress.configure(enabled=False) as runtime:
        assert start_automatically() is runtime
        with progress.operation("job") as op:
            assert not op.recording


def test_uninstrument_ends_the_automatic_recording_and_instrument_starts_another(
    instrumentor: ProgressInstrumentor,
) -> None:
    instrumentor.instrument(skip_dep_check=True)
    first = start_automatically()
    instrumentor.uninstrument()
    assert first is not None
    assert first.is_shut_down
    assert start_automatically() is None
    instrumentor.uninstrument()
    instrumentor.instrument(skip_dep_check=True)
    instrumentor.instrument(skip_dep_check=True)
    assert start_automatically() not in (None, first)


def test_watchdog_of_the_service_manager_starts_the_recording_at_once(
    instrumentor: ProgressInstrumentor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expects reports also of a service without work."""
    monkeypatch.setenv("OTEL_PROGRESS_REPORT_TO", "systemd")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    address = f"@otel-progress-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with service_manager(address) as manager:
        instrumentor.instrument(skip_dep_check=True)
        assert manager.recv(4096) == b"WATCHDOG=1"
    shut_down_active_runtime()
    stop_watchdogs()
    for thread in threading.enumerate():
        if thread.name == "otel-progress-watchdog":
            thread.join(30.0)


def test_invalid_variable_is_logged_and_the_program_runs(
    instrumentor: ProgressInstrumentor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_PROGRESS_TICK", "soon")
    instrumentor.instrument(skip_dep_check=True)
    assert list(progress.track([1, 2])) == [1, 2]
    assert config.current_runtime() is None
    assert "OTEL_PROGRESS_TICK" in caplog.text


def test_variable_that_becomes_invalid_is_logged_at_the_first_use(
    instrumentor: ProgressInstrumentor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    instrumentor.instrument(skip_dep_check=True)
    monkeypatch.setenv("OTEL_PROGRESS_TICK", "soon")
    assert list(progress.track([1, 2])) == [1, 2]
    assert config.current_runtime() is None
    assert not backend_slot.is_deferred
    assert "OTEL_PROGRESS_TICK" in caplog.text


@pytest.mark.parametrize(
    ("name", "environ", "expected"),
    [
        ("progress", {}, False),
        ("progress-tqdm", {}, False),
        ("progress-tqdm", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask, progress "}, True),
        ("progress-tqdm", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "progress-tqdm"}, True),
        ("progress", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "progress-tqdm"}, False),
        ("progress", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}, True),
        ("progress-tqdm", {"OTEL_PROGRESS_ENABLED": "off"}, True),
        ("progress-tqdm", {"OTEL_PROGRESS_ENABLED": "maybe"}, False),
        ("progress-tqdm", {"OTEL_CONFIG_FILE": "/nowhere/otel.yaml"}, False),
    ],
)
def test_find_switch_reads_all_switches(name: str, environ: dict[str, str], expected: bool) -> None:
    assert bool(find_switch(name, environ)) is expected


def test_disabled_instrumentor_of_one_library_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.configuration", reason="the declarative configuration is optional")
    path = tmp_path / "otel.yaml"
    section = "progress: {}, progress-tqdm: {enabled: false}"
    path.write_text(f'file_format: "1.0"\ninstrumentation/development:\n  python: {{{section}}}\n')
    environ = {"OTEL_CONFIG_FILE": str(path)}
    assert find_switch("progress-tqdm", environ).endswith("enabled: false for progress-tqdm")
    assert not find_switch("progress", environ)
    assert not find_switch("progress-celery", environ)


def test_process_of_the_resource_tracker_is_not_instrumented(
    instrumentor: ProgressInstrumentor, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["python", "-c", "from multiprocessing.resource_tracker import main;main(5)"]
    monkeypatch.setattr(sys, "orig_argv", command)
    instrumentor.instrument(skip_dep_check=True)
    assert not backend_slot.is_deferred


def test_unknown_options_are_ignored_and_logged(
    instrumentor: ProgressInstrumentor, caplog: pytest.LogCaptureFixture
) -> None:
    instrumentor.instrument(tracer_provider=object(), tick=0.5)
    assert list(progress.track([1], "work")) == [1]
    runtime = config.current_runtime()
    assert runtime is not None
    assert runtime.settings.tick == 0.5
    expected = "Invalid options of progress: tracer_provider. Expected settings of configure()."
    assert expected in caplog.text


# --- options of the configuration file ------------------------------------------------------------


def test_configuration_has_every_setting() -> None:
    names = list(ProgressConfiguration.__dataclass_fields__)
    assert names == [setting.name for setting in SETTINGS]


def test_configuration_converts_texts_as_variables() -> None:
    made = ProgressConfiguration(tick="50ms", console="off", server_port="0", preview_at="25%")
    assert (made.tick, made.console, made.server_port, made.preview_at) == (0.05, False, 0, (0.25,))
    assert made.store is None


@pytest.mark.parametrize("options", [{"tick": []}, {"store": {}}, {"server_port": "many"}])
def test_configuration_with_invalid_option_is_rejected(options: dict[str, object]) -> None:
    with pytest.raises(progress.ConfigurationError, match=f"argument {next(iter(options))}"):
        ProgressConfiguration(**options)


def test_environment_variables_include_all_settings_except_secrets() -> None:
    names = {name for name in dir(environment_variables) if name.startswith("OTEL_")}
    assert "OTEL_PROGRESS_STORE" in names
    assert "OTEL_PROGRESS_TOKEN" not in names
    assert {f"OTEL_PROGRESS_{one.name.upper()}" for one in SETTINGS if not one.secret} == names


# --- samplers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vars(samplers) if name.startswith("build_")])
def test_sampler_is_that_of_opentelemetry_and_keeps_progress(name: str) -> None:
    sampler: Sampler = vars(samplers)[name]()
    assert isinstance(sampler, ProgressSampler)
    assert isinstance(sampler.root, ParentBased) is ("parentbased" in name)
    result = sampler.should_sample(None, 2**64 - 1, "work", attributes={"progress.total": 1})
    assert result.decision is (Decision.RECORD_ONLY if "always_off" in name else Decision.RECORD_AND_SAMPLE)


@pytest.mark.parametrize(
    ("text", "expected"), [("0.25", 0.25), ("1", 1.0), ("", 1.0), ("2", 1.0), ("x", 1.0)]
)
def test_sampler_with_a_ratio_reads_the_argument(text: str, expected: float) -> None:
    assert f"{{{expected}}}" in samplers.build_traceidratio(text).get_description()


def test_sampler_of_a_file_reads_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    assert "0.5" in samplers.build_parentbased_traceidratio().get_description()


# --- integrations with a library ------------------------------------------------------------------


class Probe(ModuleType):
    """A module of this package that notes its calls."""

    def __init__(self) -> None:
        super().__init__("otel_progress.integrations.zero_probe")
        self.calls: list[object] = []

    def instrument(self, *, size: int = 0, fails: bool = False) -> None:
        """Note the call. It fails if an option says so."""
        self.calls.append({"size": size} if size else {})
        if fails:
            raise RuntimeError("broken")

    def uninstrument(self) -> None:
        """Note the call."""
        self.calls.append("uninstrument")


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Probe]:
    """An installed library that is not imported, and the module for it."""
    remove_variables(monkeypatch)
    (tmp_path / "zero_probe.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Probe()
    monkeypatch.setitem(sys.modules, made.__name__, made)
    yield made
    sys.modules.pop("zero_probe", None)


def build(dependency: str = "") -> _ModuleInstrumentor:
    """Return an instrumentor of the library, as a new class without state."""

    class ProbeInstrumentor(_ModuleInstrumentor):
        _module = "zero_probe"
        _dependency = dependency

    return ProbeInstrumentor()


def test_module_is_instrumented_when_the_program_imports_the_library(probe: Probe) -> None:
    instrumentor = build()
    instrumentor.instrument(skip_dep_check=True, size=3)
    assert probe.calls == []
    import zero_probe  # type: ignore[import-not-found]

    assert zero_probe.loaded
    assert probe.calls == [{"size": 3}]
    instrumentor.uninstrument()
    instrumentor.uninstrument()
    instrumentor.instrument(skip_dep_check=True)
    assert probe.calls == [{"size": 3}, "uninstrument", {}]


def test_module_that_was_uninstrumented_before_the_import_stays_inactive(probe: Probe) -> None:
    instrumentor = build()
    instrumentor.instrument(skip_dep_check=True)
    instrumentor.uninstrument()
    import zero_probe

    assert zero_probe.loaded
    assert probe.calls == []


def test_module_that_is_instrumented_again_before_the_import_is_called_once(probe: Probe) -> None:
    instrumentor = build()
    instrumentor.instrument(skip_dep_check=True, size=1)
    instrumentor.uninstrument()
    instrumentor.instrument(skip_dep_check=True, size=2)
    import zero_probe

    assert zero_probe.loaded
    assert probe.calls == [{"size": 2}]


def test_module_is_instrumented_when_a_submodule_of_the_library_is_imported(
    probe: Probe, tmp_path: Path
) -> None:
    (tmp_path / "zero_package").mkdir()
    (tmp_path / "zero_package" / "__init__.py").touch()
    (tmp_path / "zero_package" / "trainer.py").touch()
    instrumentor = build()
    type(instrumentor)._library = "zero_package.trainer"
    instrumentor.instrument(skip_dep_check=True)
    assert "zero_package" not in sys.modules
    importlib.import_module("zero_package")
    assert probe.calls == []
    importlib.import_module("zero_package.trainer")
    assert probe.calls == [{}]
    del sys.modules["zero_package"], sys.modules["zero_package.trainer"]


def test_module_ignores_and_logs_unknown_options(probe: Probe, caplog: pytest.LogCaptureFixture) -> None:
    build().instrument(skip_dep_check=True, size=1, tracer_provider=object(), colour="red")
    import zero_probe

    assert zero_probe.loaded
    assert probe.calls == [{"size": 1}]
    expected = "Invalid options of progress-zero-probe: colour, tracer_provider. Expected size, fails."
    assert expected in caplog.text


@pytest.mark.usefixtures("probe")
def test_module_that_fails_does_not_break_the_import(caplog: pytest.LogCaptureFixture) -> None:
    build().instrument(skip_dep_check=True, fails=True)
    import zero_probe

    assert zero_probe.loaded
    assert "progress-zero-probe is not active" in caplog.text


@pytest.mark.parametrize(("dependency", "logged"), [("zero-probe-x >= 1", ""), ("pytest < 1", "pytest < 1")])
def test_module_whose_library_is_missing_or_unsupported_stays_inactive(
    dependency: str, logged: str, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    import zero_probe

    assert zero_probe.loaded
    with caplog.at_level(logging.WARNING):
        build(dependency).instrument(skip_dep_check=True)
    assert probe.calls == []
    assert logged in caplog.text
    assert bool(caplog.text) is bool(logged)
