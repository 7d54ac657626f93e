"""Sampler of the resource usage of this process.

It samples once per second while an operation is active. Processor and memory come from psutil,
GPUs from NVML. The sampler runs on the ticker's thread. A source that fails is reported as an
internal error once and not read again.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import defer_fork
from otel_progress.records import ResourceSample

SAMPLE_INTERVAL_S: Final = 1.0
"""Time between two samples, in seconds."""


_FIRST_S: Final = 0.05
"""Delay of the first sample, in seconds. A shorter time gives no meaningful processor share."""


_MAX_GAP_S: Final = 10.0
"""Age, in seconds, beyond which a reading is no longer a base for the processor share."""


def is_psutil_installed() -> bool:
    """True if psutil is installed."""
    return find_spec("psutil") is not None


class _ProcessorReading(NamedTuple):
    """Monotonic time, and the processor time used until then, in seconds."""

    clock: float
    busy_s: float


class ResourceSampler:
    """Samples this process. ``on_sample`` receives each sample.

    ``clock`` returns monotonic seconds and ``now`` Unix seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        now: Callable[[], float],
        on_sample: Callable[[ResourceSample], None],
    ) -> None:
        self._clock = clock
        self._now = now
        self._on_sample = on_sample
        self.restart()

    def restart(self) -> None:
        """Discard the state of the parent process, as a forked child does."""
        self.is_working = True
        self._process: Any = None
        self._gpus: Gpus | None = None
        self._last_reading: _ProcessorReading | None = None
        self._due_at = float("-inf")

    def sample_if_due(self, get_active: Callable[[], object]) -> None:
        """Sample if the interval has passed and an operation is active.

        Called at every tick, so it is cheap otherwise.
        """
        if not self.is_working or self._clock() < self._due_at:
            return
        if not get_active():
            # Why: a processor share must not include the time between two operations.
            self._last_reading = None
            return
        try:
            self._sample()
        except Exception as error:
            self.is_working = False
            report_internal_error(
                "resources",
                "The resource usage of this process cannot be read and is not sampled any more",
                error=error,
            )

    def close(self) -> None:
        """Stop sampling and close NVML."""
        self.is_working = False
        if self._gpus is not None:
            self._gpus.close()

    def _sample(self) -> None:
        if self._process is None:
            with defer_fork():
                import psutil

                self._process = psutil.Process()
                self._gpus = Gpus.detect()
        with self._process.oneshot():
            times, memory = self._process.cpu_times(), self._process.memory_info().rss
        reading = _ProcessorReading(self._clock(), times.user + times.system)
        last_reading, self._last_reading = self._last_reading, reading
        if last_reading is None or reading.clock - last_reading.clock > _MAX_GAP_S:
            self._due_at = reading.clock + _FIRST_S
            return
        elapsed_s = reading.clock - last_reading.clock
        if elapsed_s <= 0.0:
            return
        self._due_at = reading.clock + SAMPLE_INTERVAL_S
        share = max(0.0, reading.busy_s - last_reading.busy_s) / elapsed_s
        gpu_share, gpu_memory = (None, None) if self._gpus is None else self._gpus.read()
        self._on_sample(ResourceSample(self._now(), reading.clock, share, memory, gpu_share, gpu_memory))


_DEPRECATION: Final = ("ignore", re.compile("The pynvml package is deprecated"), FutureWarning, None, 0)
"""Filter for the warning of one of the packages with the name ``pynvml``."""


@contextmanager
def _ignoring_deprecation() -> Iterator[None]:
    """Ignore the deprecation of the package ``pynvml`` while it is imported.

    Why not ``catch_warnings``: it would suppress warnings of all threads, and undo
    ``logging.captureWarnings`` or a filter that another thread sets at the same time. A change of
    the filters by a function also makes Python show known warnings again.
    """
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters.insert(0, _DEPRECATION)
    try:
        yield
    finally:
        with suppress(ValueError):
            filters.remove(_DEPRECATION)


class Gpus:
    """NVIDIA devices that this process uses.

    A device that NVML lists with this process counts. Its share is that of the process if the
    driver reports it, otherwise that of the whole device. In containers NVML may list process
    ids of the host. So a busy device counts as a whole if none of its listed processes exists
    here. A device that only other processes use does not count.
    """

    def __init__(self, nvml: Any, devices: list[Any]) -> None:
        import psutil

        self._nvml = nvml
        self._devices = devices
        self._has_process = psutil.pid_exists
        self._read_until_us = [0] * len(devices)
        self._pid = os.getpid()

    @classmethod
    def detect(cls) -> Gpus | None:
        """Return the devices, or None without NVML, its driver or a device."""
        try:
            with _ignoring_deprecation():
                import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
            pynvml.nvmlInit()
            devices = [
                pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
            ]
        except Exception:  # usual on a machine without such a device
            return None
        return cls(pynvml, devices) if devices else None

    def read(self) -> tuple[float | None, int | None]:
        """Return mean share (0 to 1) and total memory in bytes of the used devices.

        Both are None when they are unknown or no device is used.
        """
        if not self._devices:
            return None, None
        try:
            readings = [self._read_device(index) for index in range(len(self._devices))]
        except Exception as error:
            self.close()
            report_internal_error(
                "gpu", "The usage of a GPU cannot be read and is not sampled any more", error=error
            )
            return None, None
        used = [reading for reading in readings if reading is not None]
        if not used:
            return None, None
        return sum(share for share, _ in used) / len(used), sum(memory for _, memory in used)

    def close(self) -> None:
        """Stop reading and close NVML."""
        if self._devices:
            self._devices = []
            with suppress(Exception):
                self._nvml.nvmlShutdown()

    def _read_device(self, index: int) -> tuple[float, int] | None:
        """Return share and memory of a device, or None if this process does not use it."""
        nvml, device = self._nvml, self._devices[index]
        processes = [*nvml.nvmlDeviceGetComputeRunningProcesses(device)]
        # Not supported by every device.
        with suppress(nvml.NVMLError):
            processes += nvml.nvmlDeviceGetGraphicsRunningProcesses(device)
        device_share = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100.0
        own_memory = [process.usedGpuMemory or 0 for process in processes if process.pid == self._pid]
        if own_memory:
            own_share = self._read_own_share(index)
            return device_share if own_share is None else own_share, max(own_memory)
        if device_share == 0.0 or any(self._has_process(process.pid) for process in processes):
            return None
        return device_share, int(nvml.nvmlDeviceGetMemoryInfo(device).used)

    def _read_own_share(self, index: int) -> float | None:
        """Return the share of this process since the last reading, or None."""
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(
                self._devices[index], self._read_until_us[index]
            )
        except self._nvml.NVMLError:  # not supported by this device, or no new samples
            return None
        self._read_until_us[index] = max(
            (sample.timeStamp for sample in samples), default=self._read_until_us[index]
        )
        shares = [sample.smUtil / 100.0 for sample in samples if sample.pid == self._pid]
        return min(1.0, sum(shares) / len(shares)) if shares else None
