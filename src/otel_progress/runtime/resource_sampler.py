"""What this process uses, looked at once a second while an operation is active: processor and memory by psutil, GPUs by NVML.

Runs on the ticker's thread. What cannot be asked any more is counted as trouble once and not asked again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from otel_progress.diagnostics import report_internal_error
from otel_progress.fork import defer_fork
from otel_progress.records import ResourceSample

SAMPLE_INTERVAL_S: Final = 1.0
"""Time between two samples, in seconds."""


_FIRST_S: Final = 0.05
"""Shortest time over which a share of the processor means something: what the first sample waits for."""


_GAP_S: Final = 10.0
"""Time after which a look before is too old to tell the use of the processor from."""


def available() -> bool:
    """True when psutil is installed."""
    return find_spec("psutil") is not None


class _Base(NamedTuple):
    """A look: when, and the processor time used until then, both in seconds."""

    clock: float
    busy: float


class ResourceSampler:
    """Makes samples of this process. ``clock`` is monotonic, ``now`` wall time; ``take`` gets each sample."""

    def __init__(
        self, clock: Callable[[], float], now: Callable[[], float], take: Callable[[ResourceSample], None]
    ) -> None:
        self._clock = clock
        self._now = now
        self._take = take
        self.restart()

    def restart(self) -> None:
        """Begin anew, on whatever process this is: what a forked child does."""
        self.working = True
        self._process: Any = None
        self._gpus: Gpus | None = None
        self._base: _Base | None = None
        self._due = float("-inf")

    def sample_if_due(self, active: Callable[[], object]) -> None:
        """Take a sample when it is time, and something is ``active()``. Cheap otherwise: it is called at every tick."""
        if not self.working or self._clock() < self._due:
            return
        if not active():
            self._base = (
                None  # a share of the processor over a time without work would say nothing of the next
            )
            return
        try:
            self._sample()
        except Exception as error:
            self.working = False
            report_internal_error(
                "resources", "what this process uses cannot be asked; it is not tried again", error=error
            )

    def close(self) -> None:
        """Let go of NVIDIA's library."""
        self.working = False
        if self._gpus is not None:
            self._gpus.close()

    def _sample(self) -> None:
        if self._process is None:
            with defer_fork():
                import psutil

                self._process = psutil.Process()
                self._gpus = Gpus.find()
        with self._process.oneshot():
            times, memory = self._process.cpu_times(), self._process.memory_info().rss
        here = _Base(self._clock(), times.user + times.system)
        base, self._base = self._base, here
        if base is None or here.clock - base.clock > _GAP_S:
            self._due = here.clock + _FIRST_S
            return
        elapsed = here.clock - base.clock
        if elapsed <= 0.0:
            return
        self._due = here.clock + SAMPLE_INTERVAL_S
        ratio, gpu_memory = (None, None) if self._gpus is None else self._gpus.read()
        self._take(
            ResourceSample(
                self._now(), here.clock, max(0.0, here.busy - base.busy) / elapsed, memory, ratio, gpu_memory
            )
        )


class Gpus:
    """The NVIDIA devices of this machine, as far as this process uses them.

    A device counts when NVML lists this process on it: then the share is the process' own where the driver tells it, else the whole
    device's. Where NVML lists no process that exists here although the device is busy (it does in containers, whose process ids are
    others), the whole device counts. A device that only others use does not.
    """

    def __init__(self, nvml: Any, devices: list[Any]) -> None:
        import psutil

        self._nvml = nvml
        self._devices = devices
        self._exists = psutil.pid_exists
        self._seen_us = [0] * len(devices)
        self._pid = os.getpid()

    @classmethod
    def find(cls) -> Gpus | None:
        """Return the devices; None without NVIDIA's library, its driver, or a device."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # one of the packages of this name says that it is to be replaced by another
                import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
            pynvml.nvmlInit()
            devices = [
                pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
            ]
        except Exception:  # not installed, or nothing there: what a machine without such a device looks like
            return None
        return cls(pynvml, devices) if devices else None

    def read(self) -> tuple[float | None, int | None]:
        """Return the mean share (0 to 1) of the devices in use and the memory in bytes; None where unknown or none is in use."""
        if not self._devices:
            return None, None
        try:
            looks = [look for look in map(self._device, range(len(self._devices))) if look is not None]
        except Exception as error:
            self.close()
            report_internal_error(
                "gpu", "what is used of a GPU cannot be asked; it is not tried again", error=error
            )
            return None, None
        if not looks:
            return None, None
        return sum(share for share, _ in looks) / len(looks), sum(memory for _, memory in looks)

    def close(self) -> None:
        """Ask no more."""
        if self._devices:
            self._devices = []
            with suppress(Exception):
                self._nvml.nvmlShutdown()

    def _device(self, index: int) -> tuple[float, int] | None:
        """Return the share and the memory of a device that this process uses; None when it does not."""
        nvml, device = self._nvml, self._devices[index]
        listed = [*nvml.nvmlDeviceGetComputeRunningProcesses(device)]
        with suppress(nvml.NVMLError):  # not supported by every device
            listed += nvml.nvmlDeviceGetGraphicsRunningProcesses(device)
        whole = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100.0
        mine = [one.usedGpuMemory or 0 for one in listed if one.pid == self._pid]
        if mine:
            own = self._own_share(index)
            return whole if own is None else own, max(mine)
        if whole == 0.0 or any(self._exists(one.pid) for one in listed):
            return None
        return whole, int(nvml.nvmlDeviceGetMemoryInfo(device).used)

    def _own_share(self, index: int) -> float | None:
        """Return this process' share since the last look, None when the driver does not tell."""
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._devices[index], self._seen_us[index])
        except self._nvml.NVMLError:  # not supported by this device, or nothing new
            return None
        self._seen_us[index] = max((one.timeStamp for one in samples), default=self._seen_us[index])
        shares = [one.smUtil / 100.0 for one in samples if one.pid == self._pid]
        return min(1.0, sum(shares) / len(shares)) if shares else None
