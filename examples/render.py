"""Render an image several times and estimate the end from the earlier runs.

The image is a part of the Mandelbrot set in five passes: first every sixteenth row, at the end
every row. Rows differ widely in duration, so an estimate from the average rate is wrong until the
end. The operation has four stages (queue, preparation, execution, finalisation) and previews of the
image.

    python examples/render.py [--runs 6] [--size 960] [--output mandelbrot.png]
    otel-progress show rendering-6 --previews

The program compares the estimate at a quarter of each run with the actual end. The first run can
use only its own rate. From three earlier runs on, an estimate has an interval. Runs of the same
size share their history through the journal, also on later days.

Requires numpy, and Pillow for the previews: pip install numpy 'otel-progress[previews]'
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import argparse
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import otel_progress as progress

try:
    import numpy as np
    import numpy.typing as npt
except ImportError as missing:
    raise SystemExit("This example computes with numpy: pip install numpy") from missing

CENTRE, WIDTH = -0.7436 + 0.1318j, 0.012
"""Part of the plane: the seahorse valley, with more of the set at its lower edge."""
ITERATIONS = 300
PASSES = (16, 8, 4, 2, 1)
STAGES = {"queue": 0.02, "preparation": 0.08, "execution": 0.80, "finalisation": 0.10}
"""Guessed weights. They are wrong for most sizes, which the estimate corrects."""
QUARTER = 0.25
RECORD_INTERVAL_S = 0.02
MIN_RUNS = 3
"""Earlier runs from which an estimate has an interval."""

# --- image


def create_plane(size: int) -> npt.NDArray[np.complex128]:
    """Return the points of an image that is ``size`` wide and 3/4 of that high."""
    across = np.linspace(-WIDTH / 2, WIDTH / 2, size)
    down = np.linspace(WIDTH * 3 / 8, -WIDTH * 3 / 8, size * 3 // 4)
    return CENTRE + across[np.newaxis, :] + 1j * down[:, np.newaxis]


def compute_escape(points: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    """Return the continuous escape time of each point (n + 1 - log2 log2 |z|).

    It is infinity for points of the set.
    """
    times = np.full(points.shape, np.inf)
    indices, z, c = np.arange(points.size), np.zeros_like(points), points
    for n in range(ITERATIONS):
        z = z * z + c
        size = z.real**2 + z.imag**2
        escaped = size > 256.0
        if escaped.any():
            times[indices[escaped]] = n + 1 - np.log2(0.5 * np.log2(size[escaped]))
            inside = ~escaped
            indices, z, c = indices[inside], z[inside], c[inside]
            if not indices.size:
                break
    return times


def create_palette(
    points: npt.NDArray[np.complex128],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Return steps of the escape time and their colours, from a coarse image.

    Each colour covers an equal part of the image.
    """
    coarse = np.concatenate([compute_escape(row) for row in points[::16, ::16]])
    finite = np.sort(coarse[np.isfinite(coarse)])
    steps = finite[np.linspace(0, finite.size - 1, 256).astype(int)] if finite.size else np.arange(256.0)
    stops = np.array(
        [(7, 10, 48), (32, 107, 203), (237, 255, 255), (255, 170, 0), (110, 20, 20), (7, 10, 48)], float
    )
    at = np.linspace(0, len(stops) - 1, 257)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    colours = np.stack(channels, axis=1).astype(np.uint8)
    colours[256] = 0
    return steps, colours


def iterate_rows(height: int) -> Iterator[tuple[int, int]]:
    """Yield (row, step) for all passes. Later passes draw the rows again, finer."""
    for step in PASSES:
        for row in range(0, height, step):
            yield row, step


def encode_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return the image as a PNG with the row filter Sub (ISO/IEC 15948, 9.2)."""
    height, width, _ = picture.shape
    left = np.concatenate([np.zeros((height, 1, 3), np.uint8), picture[:, :-1]], axis=1)
    lines = np.concatenate([np.ones((height, 1), np.uint8), (picture - left).reshape(height, -1)], axis=1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


# --- rendering, with progress


class Forecast(NamedTuple):
    """Estimates ``at`` a number of seconds after the start.

    ``by_average`` is the end estimated from the average rate, in seconds since the start.
    """

    at: float
    eta: progress.Eta | None
    by_average: float | None


class EstimateRecorder:
    """Records the estimates of a run, to compare them with the actual end."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._forecasts: list[Forecast] = []
        self.end = 0.0

    def record(self, op: progress.Level) -> None:
        """Record the current estimate, unless the last one is too recent."""
        at = time.monotonic() - self._started_at
        if not self._forecasts or at - self._forecasts[-1].at >= RECORD_INTERVAL_S:
            ratio = op.snapshot().ratio
            self._forecasts.append(Forecast(at, op.eta, at / ratio if ratio else None))

    def stop(self) -> None:
        """Record the end."""
        self.end = time.monotonic() - self._started_at

    @property
    def at_quarter(self) -> Forecast:
        """Estimates at a quarter of the duration."""
        early = [forecast for forecast in self._forecasts if forecast.at <= QUARTER * self.end]
        return early[-1] if early else self._forecasts[0]

    def relative_error(self, end: float) -> float:
        """Return the error of an estimated end relative to the duration."""
        return abs(end - self.end) / self.end


def render(
    op: progress.Level, queue: progress.Level, size: int, output: Path, recorder: EstimateRecorder
) -> None:
    """Render the image as the operation ``op`` in the rendering thread.

    The operation has waited in the stage ``queue``.
    """
    with op:
        queue.complete()
        with op.stage("preparation"):
            points = create_plane(size)
            steps, colours = create_palette(points)
        picture = np.zeros((*points.shape, 3), np.uint8)
        with op.stage("execution") as stage:
            rows = list(iterate_rows(len(points)))
            stage.set_total(len(rows))
            for row, step in rows:
                op.check_cancelled()
                times = compute_escape(points[row, ::step])
                shades = np.where(np.isfinite(times), np.minimum(np.searchsorted(steps, times), 255), 256)
                picture[row : row + step] = np.repeat(colours[shades], step, axis=0)[: points.shape[1]]
                stage.increment()
                stage.preview(picture, "mandelbrot")
                recorder.record(op)
        with op.stage("finalisation"):
            content = encode_png(picture)
            output.write_bytes(content)
            op.update(message=f"{points.shape[1]}x{points.shape[0]} pixels, {len(content):,} bytes")
    recorder.stop()


def submit(
    runtime: progress.Runtime, pool: ThreadPoolExecutor, number: int, size: int, output: Path
) -> EstimateRecorder:
    """Queue a rendering in the thread of the pool and wait for it.

    Runs of the same ``size`` share their history.
    """
    op = progress.operation(
        "rendering",
        f"Mandelbrot {size}",
        id=f"rendering-{number}",
        stages=STAGES,
        eta_key=["size"],
        size=size,
    )
    recorder = EstimateRecorder()
    op.start()
    queue = op.stage("queue").start()
    # Without the flush, a small image could be half done before its first estimate.
    runtime.force_flush(60.0)
    rendering = pool.submit(render, op, queue, size, output, recorder)
    try:
        rendering.result()
    except KeyboardInterrupt:
        # The interrupt is raised in this thread, so the rendering thread is asked to stop.
        progress.request_cancel(op.operation_id, "interrupted")
        wait([rendering])
        raise
    return recorder


class Result(NamedTuple):
    """Relative errors of two estimates at a quarter of a run, None if unknown."""

    runs: int
    by_eta: float | None
    by_average: float | None


def print_result(number: int, recorder: EstimateRecorder) -> Result:
    """Print the estimates at a quarter of a run and its end. Return their errors."""
    at, eta, by_average = recorder.at_quarter
    line, error = f"run {number}: {recorder.end:.2f} s; no estimate at 25 %", None
    if eta is not None and eta.remaining_s is not None:
        error = recorder.relative_error(at + eta.remaining_s)
        interval = (
            ""
            if eta.low_s is None or eta.high_s is None
            else f" ({at + eta.low_s:.2f} to {at + eta.high_s:.2f} s)"
        )
        line = (
            f"run {number}: {recorder.end:.2f} s; estimate at 25 %: {at + eta.remaining_s:.2f} s{interval} "
            f"from {eta.runs} earlier run{'s' if eta.runs > 1 else ''}, error {error:.1%}"
        )
    average = None if by_average is None else recorder.relative_error(by_average)
    print(line if average is None else f"{line}; average rate: error {average:.1%}")
    return Result(0 if eta is None else eta.runs, error, average)


def main() -> None:
    """Render the image several times and print the errors of the estimates."""
    parser = argparse.ArgumentParser(
        description="Render an image several times, with estimates from history and previews."
    )
    parser.add_argument("--runs", type=int, default=6, help="number of runs (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=960, help="width in pixels, at least 64 (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="file for the image (default: not stored)")
    options = parser.parse_args()
    if options.runs < 1 or options.size < 64:
        values = f"--runs {options.runs} or --size {options.size}"
        parser.error(f"Invalid {values}: expected --runs of at least 1 and --size of at least 64.")
    if options.output is not None and (options.output.is_dir() or not options.output.parent.is_dir()):
        parser.error(f"Invalid --output {options.output}: expected a file in an existing folder.")
    try:
        results = render_all(options.runs, options.size, options.output)
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
    with_history = [result for result in results if result.runs >= MIN_RUNS]
    by_eta = [result.by_eta for result in with_history if result.by_eta is not None]
    by_average = [result.by_average for result in with_history if result.by_average is not None]
    if by_eta and by_average:
        print(
            f"after {MIN_RUNS} runs: median error at 25 %: estimate {median(by_eta):.1%}, "
            f"average rate {median(by_average):.1%}"
        )


def render_all(runs: int, size: int, output: Path | None) -> list[Result]:
    """Render the image in consecutive runs. Return the errors of the estimates."""
    results = []
    with (
        TemporaryDirectory() as folder,
        progress.configure(service_name="render-example") as runtime,
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        for number in range(1, runs + 1):
            recorder = submit(runtime, pool, number, size, output or Path(folder, "picture.png"))
            results.append(print_result(number, recorder))
            runtime.force_flush(60.0)  # the next run uses the history of this one
    return results


if __name__ == "__main__":
    main()
