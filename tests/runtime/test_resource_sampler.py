"""Resource sampler: processor and memory of this process, GPUs of a fake NVML."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import MissingExtraError
from otel_progress.diagnostics import internal_error_counts
from otel_progress.records import ResourceSample
from otel_progress.runtime import resource_sampler
from otel_progress.runtime.resource_sampler import Gpus, ResourceSampler
from otel_progress.testing import FakeClock, Recorder, recording

psutil = pytest.importorskip("psutil")


@pytest.fixture
def sampled() -> Iterator[Recorder]:
    """Record with samples of this process."""
    with recording(resources=True) as recorder:
        yield recorder


def tick(recorder: Recorder, seconds: float) -> None:
    """Advance the clock and collect."""
    recorder.clock.advance(seconds)
    recorder.tick()


def test_active_operation_is_sampled_once_per_second(sampled: Recorder) -> None:
    """The second tick has the first sample. Mean and peak follow the samples."""
    with progress.operation("o", id="o"):
        sampled.tick()
        tick(sampled, 0.1)
        assert sampled.operation("o").resources is not None
        for _ in range(10):
            tick(sampled, 0.25)
        samples = sampled.runtime.reader.resources("o")
        assert [round(sample.clock - samples[0].clock, 3) for sample in samples] == [0.0, 1.0, 2.0]
        use = sampled.operation("o").resources
    assert use is not None
    assert (use.samples, use.last) == (3, samples[-1])
    rss = psutil.Process().memory_info().rss
    assert rss / 2 < use.memory_peak < rss * 2
    assert use.cpu_peak >= use.cpu_mean >= 0.0


def test_sampler_measures_processor_time_of_this_process() -> None:
    """The clock of the test reports that a second has passed."""
    clock, samples = FakeClock(), list[ResourceSample]()
    sampler = ResourceSampler(clock.monotonic, clock.wall, samples.append)
    sampler.sample_if_due(lambda: True)
    before = psutil.Process().cpu_times()
    while psutil.Process().cpu_times().user - before.user < 0.05:
        sum(range(10_000))
    clock.advance(1.0)
    sampler.sample_if_due(lambda: True)
    (sample,) = samples
    assert 0.04 <= sample.cpu_ratio < 5.0
    sampler.close()


def test_sampler_without_active_operation_takes_no_sample(sampled: Recorder) -> None:
    """Processor time between two operations does not count for the second one."""
    for _ in range(5):
        tick(sampled, 1.0)
    assert list(sampled.runtime._store._state.samples) == []
    with progress.operation("o", id="o"):
        tick(sampled, 1.0)
        assert sampled.operation("o").resources is None
        tick(sampled, 1.0)
        assert sampled.operation("o").resources is not None
    tick(sampled, 1.0)
    tick(sampled, 100.0)
    assert len(sampled.runtime._store._state.samples) == 1


def test_change_set_after_a_sample_contains_it(sampled: Recorder) -> None:
    """It also contains the resulting usage of each active operation."""
    with progress.operation("o", id="a"), progress.operation("o", id="b"):
        sampled.tick()
        sampled.clock.advance(1.0)
        sampled.runtime._sampler.sample_if_due(lambda: True)  # type: ignore[union-attr]
        change_set = sampled.runtime._store.collect()
        assert change_set.sample is not None
        assert {use.last for use in change_set.resources.values()} == {change_set.sample}
        assert len(change_set.resources) == 2
        assert sampled.runtime._store.collect().sample is None


def test_failing_sampler_is_counted_once_and_stops(
    sampled: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation continues without samples."""

    def deny(*_: object) -> Any:
        raise psutil.AccessDenied

    before = internal_error_counts["resources"]
    with progress.operation("o", id="o"):
        sampled.tick()
        monkeypatch.setattr(sampled.runtime._sampler._process, "cpu_times", deny)  # type: ignore[union-attr]
        for _ in range(5):
            tick(sampled, 1.0)
        assert sampled.operation("o").resources is None
    assert internal_error_counts["resources"] == before + 1
    assert not sampled.runtime._sampler.is_working  # type: ignore[union-attr]


def test_resources_without_psutil_auto_is_off_and_true_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the command to install it."""
    monkeypatch.setattr(resource_sampler, "is_psutil_installed", lambda: False)
    with recording(resources="auto") as recorder:
        assert recorder.runtime._sampler is None
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'otel-progress\[resources\]'"),
        recording(resources=True),
    ):
        pass


def test_resources_false_is_off_and_auto_is_on_with_psutil() -> None:
    """The default of recordings is off."""
    with recording(resources=False) as recorder:
        assert recorder.runtime._sampler is None
    with recording(resources="auto") as recorder:
        assert recorder.runtime._sampler is not None


FORKED = """
import os
import otel_progress as progress
from otel_progress.testing import recording

def tick():
    recorder.clock.advance(1.0)
    recorder.tick()

with recording(resources=True) as recorder, progress.operation("o"):
    tick()
    recorder.runtime._sampler.is_working = False
    if os.fork() == 0:
        with progress.operation("o", id="child"):
            tick()
            tick()
            use = recorder.operation("child").resources
            print(use is not None, recorder.runtime._sampler._process.pid == os.getpid(), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_child_samples_its_own_process() -> None:
    """It does so even if the sampler of the parent has failed."""
    result = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "True True\n", "")


# --- GPUs ----------------------------------------------------------------------------------------


@dataclass
class Device:
    """Fake device: share in percent, and (pid, bytes, share) of its processes."""

    percent: int = 0
    used: int = 0
    processes: list[tuple[int, int | None, int | None]] = field(default_factory=list)


class Record:
    """Structure of NVML with any fields."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Nvml(ModuleType):
    """Fake of NVML with the functions that the sampler uses."""

    class NVMLError(Exception):
        """Error of NVML."""

    def __init__(self, *devices: Device, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.devices = devices
        self.driver = driver
        self.open = 0
        self.lost = False

    def nvmlInit(self) -> None:  # noqa: N802, D102 - NVML's own name
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802, D102 - NVML's own name
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802, D102 - NVML's own name
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802, D102 - NVML's own name
        return self.devices[index]

    def nvmlDeviceGetComputeRunningProcesses(self, device: Device) -> list[Record]:  # noqa: N802, D102 - NVML's own name
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return [Record(pid=pid, usedGpuMemory=memory) for pid, memory, _ in device.processes]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _: Device) -> list[Record]:  # noqa: N802, D102 - NVML's own name
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetUtilizationRates(self, device: Device) -> Record:  # noqa: N802, D102 - NVML's own name
        return Record(gpu=device.percent, memory=0)

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> Record:  # noqa: N802, D102 - NVML's own name
        return Record(total=2 * device.used, used=device.used, free=device.used)

    def nvmlDeviceGetProcessUtilization(self, device: Device, since: int) -> list[Record]:  # noqa: N802, D102 - NVML's own name
        samples = [
            Record(pid=pid, smUtil=share, timeStamp=since + 1)
            for pid, _, share in device.processes
            if share is not None
        ]
        if not samples:
            raise self.NVMLError("Not Found")
        return samples


ME = os.getpid()
OTHER = ME + 1
"""Another process. :func:`read_gpus` lets it exist."""
MISSING = 2**22 + 7
"""Process id beyond the largest one of Linux."""


def read_gpus(monkeypatch: pytest.MonkeyPatch, *devices: Device) -> tuple[float | None, int | None]:
    """Return share and memory of fake devices."""
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(*devices))
    monkeypatch.setattr(psutil, "pid_exists", {ME, OTHER}.__contains__)
    gpus = Gpus.detect()
    assert gpus is not None
    return gpus.read()


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        # The driver reports the share of the process.
        ([Device(90, 800, [(ME, 300, 40), (OTHER, 500, 50)])], (0.4, 300)),
        # It does not, so the share of the device counts.
        ([Device(90, 800, [(ME, 300, None)])], (0.9, 300)),
        # It does not report the memory either.
        ([Device(90, 800, [(ME, None, None)])], (0.9, 0)),
        # Two devices are used: mean and sum.
        ([Device(90, 800, [(ME, 300, 20)]), Device(50, 700, [(ME, 100, 60)])], (0.4, 400)),
        # Only one of them is used by this process.
        ([Device(90, 800, [(ME, 300, 20)]), Device(50, 700, [(OTHER, 700, 50)])], (0.2, 300)),
        ([Device(50, 700, [(OTHER, 700, 50)])], (None, None)),
        # A container has its own process ids.
        ([Device(50, 700, [(MISSING, 700, 50)])], (0.5, 700)),
        ([Device(50, 700)], (0.5, 700)),
        ([Device(0, 10)], (None, None)),
    ],
)
def test_gpus_count_as_far_as_nvml_lists_this_process(
    monkeypatch: pytest.MonkeyPatch, devices: list[Device], expected: tuple[float | None, int | None]
) -> None:
    """Shares are averaged over devices, and memory is added up."""
    share, memory = read_gpus(monkeypatch, *devices)
    assert (share, memory) == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize(
    "nvml", [None, Nvml(), Nvml(Device(), driver=False)], ids=["not installed", "no device", "no driver"]
)
def test_detect_without_library_driver_or_device_returns_none(
    monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None
) -> None:
    """That is not an internal error."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    before = internal_error_counts["gpu"]
    assert Gpus.detect() is None
    assert internal_error_counts["gpu"] == before


def test_samples_contain_gpu_until_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost GPU is counted once. Other values are still sampled."""
    nvml = Nvml(Device(80, 900, [(ME, 500, 70)]))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    before = internal_error_counts["gpu"]
    with recording(resources=True) as recorder:
        with progress.operation("o", id="o"):
            tick(recorder, 1.0)
            tick(recorder, 1.0)
            use = recorder.operation("o").resources
            assert use is not None
            assert (use.last.gpu_ratio, use.last.gpu_memory_bytes, use.gpu_peak) == (0.7, 500, 0.7)
            nvml.lost = True
            for _ in range(3):
                tick(recorder, 1.0)
            last = recorder.operation("o").resources
            assert last is not None
            assert (last.samples, last.last.gpu_ratio, last.gpu_peak) == (4, None, 0.7)
        assert internal_error_counts["gpu"] == before + 1
        assert nvml.open == 0


def test_shutdown_closes_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler opened it."""
    nvml = Nvml(Device(80, 900))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with recording(resources=True) as recorder, progress.operation("o"):
        recorder.tick()
        assert nvml.open == 1
    assert nvml.open == 0


SLOW_MODULE = """
import warnings
warnings.warn("The pynvml package is deprecated. Please install nvidia-ml-py instead.", FutureWarning)
import __main__
__main__.imported.set()
__main__.released.wait(60)
raise ImportError("no driver")
"""

WARN_DURING_IMPORT = """
import threading, warnings
from otel_progress.runtime.resource_sampler import Gpus
imported, released = threading.Event(), threading.Event()
def warn():
    warnings.warn("known", UserWarning)  # Python shows it once
before = list(warnings.filters)
warn()
thread = threading.Thread(target=Gpus.detect)
thread.start()
assert imported.wait(60)
warn()
warnings.warn("during", UserWarning)
released.set()
thread.join()
warn()
print(list(warnings.filters) == before)
"""


def test_import_of_nvml_changes_no_warnings_of_other_threads(tmp_path: Path) -> None:
    """Only the warning of the package itself is not shown."""
    done = _run_with_slow_nvml(tmp_path, WARN_DURING_IMPORT)
    assert done.stdout == "True\n"
    shown = [line.partition(": ")[2] for line in done.stderr.splitlines() if "Warning: " in line]
    assert shown == ["UserWarning: known", "UserWarning: during"]


CAPTURE_DURING_IMPORT = """
import logging, threading, warnings
from otel_progress.runtime.resource_sampler import Gpus
imported, released = threading.Event(), threading.Event()
thread = threading.Thread(target=Gpus.detect)
thread.start()
assert imported.wait(60)
logging.captureWarnings(True)
released.set()
thread.join()
logging.basicConfig(format="logged %(message)s")
warnings.warn("after", UserWarning)
"""


def test_capture_of_warnings_during_the_import_of_nvml_remains(tmp_path: Path) -> None:
    """The end of the import restores nothing that the application changed."""
    assert _run_with_slow_nvml(tmp_path, CAPTURE_DURING_IMPORT).stderr.startswith("logged ")


def _run_with_slow_nvml(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "pynvml.py").write_text(SLOW_MODULE, encoding="utf-8")
    path = os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done
