"""Mean and peak of an operation's resource usage, without storing the samples."""

from __future__ import annotations

from otel_progress.records import ResourceSample, ResourceUse


class UsageAccumulator:
    """Adds up the resource samples of one operation. Samples without GPU figures do not change the GPU mean."""

    __slots__ = ("_cpu", "_gpu", "_gpu_memory", "_memory", "_samples")

    def __init__(self) -> None:
        self._samples = 0
        self._cpu = _Mean()
        self._memory = _Mean()
        self._gpu = _Mean()
        self._gpu_memory: int | None = None

    def add(self, sample: ResourceSample) -> ResourceUse:
        """Add a sample and return the usage with it."""
        self._samples += 1
        self._cpu.add(sample.cpu_ratio)
        self._memory.add(sample.memory_bytes)
        if sample.gpu_ratio is not None:
            self._gpu.add(sample.gpu_ratio)
        if sample.gpu_memory_bytes is not None:
            self._gpu_memory = max(self._gpu_memory or 0, sample.gpu_memory_bytes)
        has_gpu = self._gpu.count > 0
        return ResourceUse(
            last=sample,
            samples=self._samples,
            cpu_mean=self._cpu.value,
            cpu_peak=self._cpu.peak,
            memory_mean=self._memory.value,
            memory_peak=int(self._memory.peak),
            gpu_mean=self._gpu.value if has_gpu else None,
            gpu_peak=self._gpu.peak if has_gpu else None,
            gpu_memory_peak=self._gpu_memory,
        )


class _Mean:
    """Mean and peak of values that are at least 0."""

    __slots__ = ("_sum", "count", "peak")

    def __init__(self) -> None:
        self.count = 0
        self.peak: float = 0
        self._sum: float = 0

    def add(self, value: float) -> None:
        self.count += 1
        self._sum += value
        self.peak = max(self.peak, value)

    @property
    def value(self) -> float:
        return self._sum / self.count
