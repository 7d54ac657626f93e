"""What a process uses: processor and memory of the real one, GPUs of a stand-in for NVIDIA's library, which no test machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import MissingExtraError
from otel_progress.diagnostics import internal_error_counts
from otel_progress.records import ResourceSample
from otel_progress.runtime import resource_sampler as usage
from otel_progress.runtime.resource_sampler import Gpus, ResourceSampler
from otel_progress.testing import FakeClock, Recorder, recording

psutil = pytest.importorskip("psutil")


@pytest.fixture
def sampled() -> Iterator[Recorder]:
    """Record with samples of this process."""
    with recording(resources=True) as made:
        yield made


def tick(recorder: Recorder, seconds: float) -> None:
    """Let time pass and collect."""
    recorder.clock.advance(seconds)
    recorder.tick()


def test_a_running_operation_has_samples(sampled: Recorder) -> None:
    """The second tick has the first sample, then there is one a second; memory is the process' own, mean and peak follow."""
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


def test_the_processor_is_really_measured() -> None:
    """A process that spends processor time has a share of it; the clock of this test says that a second went by."""
    clock, taken = FakeClock(), list[ResourceSample]()
    sampler = ResourceSampler(clock.monotonic, clock.wall, taken.append)
    sampler.sample_if_due(lambda: True)
    before = psutil.Process().cpu_times()
    while psutil.Process().cpu_times().user - before.user < 0.05:
        sum(range(10_000))
    clock.advance(1.0)
    sampler.sample_if_due(lambda: True)
    (sample,) = taken
    assert 0.04 <= sample.cpu_ratio < 5.0
    sampler.close()


def test_nothing_is_asked_while_nothing_runs(sampled: Recorder) -> None:
    """Without an active operation no sample is taken, and what the process did meanwhile counts for none that comes."""
    for _ in range(5):
        tick(sampled, 1.0)
    assert list(sampled.runtime._store._samples) == []
    with progress.operation("o", id="o"):
        tick(sampled, 1.0)
        assert sampled.operation("o").resources is None
        tick(sampled, 1.0)
        assert sampled.operation("o").resources is not None
    tick(sampled, 1.0)
    tick(sampled, 100.0)
    assert len(sampled.runtime._store._samples) == 1


def test_a_batch_carries_the_sample(sampled: Recorder) -> None:
    """The batch after a sample has it, and what it makes of each active operation."""
    with progress.operation("o", id="a"), progress.operation("o", id="b"):
        sampled.tick()
        sampled.clock.advance(1.0)
        sampled.runtime._sampler.sample_if_due(lambda: True)  # type: ignore[union-attr]
        batch = sampled.runtime._store.collect()
        assert batch.sample is not None
        assert {use.last for use in batch.resources.values()} == {batch.sample}
        assert len(batch.resources) == 2
        assert sampled.runtime._store.collect().sample is None


def test_trouble_turns_it_off_once(sampled: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system cannot be asked that is counted once, and the work goes on without samples."""

    def refuse(*_: object) -> Any:
        raise psutil.AccessDenied

    before = internal_error_counts["resources"]
    with progress.operation("o", id="o"):
        sampled.tick()
        monkeypatch.setattr(sampled.runtime._sampler._process, "cpu_times", refuse)  # type: ignore[union-attr]
        for _ in range(5):
            tick(sampled, 1.0)
        assert sampled.operation("o").resources is None
    assert internal_error_counts["resources"] == before + 1
    assert not sampled.runtime._sampler.working  # type: ignore[union-attr]


def test_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psutil, auto does without and true says what to install."""
    monkeypatch.setattr(usage, "available", lambda: False)
    with recording(resources="auto") as recorder:
        assert recorder.runtime._sampler is None
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'otel-progress\[resources\]'"),
        recording(resources=True),
    ):
        pass


def test_switched_off_and_auto() -> None:
    """False takes none; auto takes them where psutil is."""
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
    recorder.runtime._sampler.working = False
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
def test_a_forked_child_samples_itself() -> None:
    """A child looks at its own process, also when its parent had given up."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


# --- GPUs ---------------------------------------------------------------------------------------------------------


@dataclass
class Device:
    """What the stand-in says of one device: the whole device's share in percent, and (pid, bytes, share or None) of processes."""

    percent: int = 0
    used: int = 0
    processes: list[tuple[int, int | None, int | None]] = field(default_factory=list)


class Record:
    """A structure of NVML: whatever fields it is given."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Nvml(ModuleType):
    """Speaks as much of NVIDIA's library as is asked for, for devices of the test's choice."""

    class NVMLError(Exception):
        """Its error."""

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
        found = [
            Record(pid=pid, smUtil=share, timeStamp=since + 1)
            for pid, _, share in device.processes
            if share is not None
        ]
        if not found:
            raise self.NVMLError("Not Found")
        return found


ME = os.getpid()
OTHER = ME + 1
"""Another process that exists, as :func:`read` has it told: the test's parent may be one that is not seen from here."""
NOBODY = 2**22 + 7  # beyond the largest process id of Linux


def read(monkeypatch: pytest.MonkeyPatch, *devices: Device) -> tuple[float | None, int | None]:
    """Return what is read of such devices."""
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(*devices))
    monkeypatch.setattr(psutil, "pid_exists", {ME, OTHER}.__contains__)
    gpus = Gpus.find()
    assert gpus is not None
    return gpus.read()


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (
            [Device(90, 800, [(ME, 300, 40), (OTHER, 500, 50)])],
            (0.4, 300),
        ),  # the driver tells the share of a process
        ([Device(90, 800, [(ME, 300, None)])], (0.9, 300)),  # it does not: the whole device's
        ([Device(90, 800, [(ME, None, None)])], (0.9, 0)),  # nor its memory
        (
            [Device(90, 800, [(ME, 300, 20)]), Device(50, 700, [(ME, 100, 60)])],
            (0.4, 400),
        ),  # two in use: mean and sum
        (
            [Device(90, 800, [(ME, 300, 20)]), Device(50, 700, [(OTHER, 700, 50)])],
            (0.2, 300),
        ),  # one is used by others
        ([Device(50, 700, [(OTHER, 700, 50)])], (None, None)),
        (
            [Device(50, 700, [(NOBODY, 700, 50)])],
            (0.5, 700),
        ),  # as seen from a container with process ids of its own
        ([Device(50, 700)], (0.5, 700)),
        ([Device(0, 10)], (None, None)),
    ],
)
def test_shares_of_gpus(
    monkeypatch: pytest.MonkeyPatch, devices: list[Device], expected: tuple[float | None, int | None]
) -> None:
    """A device counts for this process as far as NVML says that it uses it."""
    share, memory = read(monkeypatch, *devices)
    assert (share, memory) == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize(
    "nvml", [None, Nvml(), Nvml(Device(), driver=False)], ids=["not installed", "no device", "no driver"]
)
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None) -> None:
    """No library, no driver or no device is no trouble."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    before = internal_error_counts["gpu"]
    assert Gpus.find() is None
    assert internal_error_counts["gpu"] == before


def test_a_gpu_in_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and the use of an operation have the GPU; one that is lost is counted once and left out, the rest goes on."""
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


def test_the_library_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shutting down closes NVIDIA's library."""
    nvml = Nvml(Device(80, 900))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with recording(resources=True) as recorder, progress.operation("o"):
        recorder.tick()
        assert nvml.open == 1
    assert nvml.open == 0
