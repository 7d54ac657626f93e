"""Render a picture several times, and estimate the remaining time of each run from the earlier ones.

The picture is a part of the Mandelbrot set, refined in five passes: first every sixteenth row, in the last pass every row.
A row through the set takes many times as long as a row outside of it. A row of the last pass has sixteen times as many
points as a row of the first. So the average time per row is a bad predictor until the end. The rendering has four stages
(queue, preparation, execution, finalisation), and it stores previews of the picture.

    python examples/render.py [--runs 6] [--size 960] [--output mandelbrot.png]
    otel-progress show rendering-6 --previews

The program records the predicted end at a quarter of each run. The first run has only its own rate. After three runs the
prediction has an interval as well. Runs of the same size share their history, also across days, through the journal.

Needs numpy, and Pillow for the previews: pip install numpy 'otel-progress[previews]'
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
"""The part of the plane: in the valley of seahorses, with more of the set towards its lower edge."""
ITERATIONS = 300
PASSES = (16, 8, 4, 2, 1)
STAGES = {"queue": 0.02, "preparation": 0.08, "execution": 0.80, "finalisation": 0.10}
"""Guessed shares. They are wrong for most sizes, and the estimate corrects them."""
QUARTER = 0.25
RECORD_EVERY_S = 0.02
ENOUGH_RUNS = 3

# --- the picture -----------------------------------------------------------------------------------------------------


def plane(size: int) -> npt.NDArray[np.complex128]:
    """Return the points of the plane for a picture ``size`` wide and three quarters of that high."""
    across = np.linspace(-WIDTH / 2, WIDTH / 2, size)
    down = np.linspace(WIDTH * 3 / 8, -WIDTH * 3 / 8, size * 3 // 4)
    return CENTRE + across[np.newaxis, :] + 1j * down[:, np.newaxis]


def escape(points: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    """Return how soon each point of a row escapes, continuously (n + 1 - log2 log2 |z|); infinity for those that never do."""
    found = np.full(points.shape, np.inf)
    here, z, c = np.arange(points.size), np.zeros_like(points), points
    for n in range(ITERATIONS):
        z = z * z + c
        size = z.real**2 + z.imag**2
        out = size > 256.0
        if out.any():
            found[here[out]] = n + 1 - np.log2(0.5 * np.log2(size[out]))
            inside = ~out
            here, z, c = here[inside], z[inside], c[inside]
            if not here.size:
                break
    return found


def palette(points: npt.NDArray[np.complex128]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Return steps of escape, and a colour for each, so that every colour takes the same part of the picture (from a coarse one)."""
    coarse = np.concatenate([escape(row) for row in points[::16, ::16]])
    seen = np.sort(coarse[np.isfinite(coarse)])
    steps = seen[np.linspace(0, seen.size - 1, 256).astype(int)] if seen.size else np.arange(256.0)
    stops = np.array(
        [(7, 10, 48), (32, 107, 203), (237, 255, 255), (255, 170, 0), (110, 20, 20), (7, 10, 48)], float
    )
    at = np.linspace(0, len(stops) - 1, 257)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    colours = np.stack(channels, axis=1).astype(np.uint8)
    colours[256] = 0
    return steps, colours


def rows(height: int) -> Iterator[tuple[int, int]]:
    """Yield (row, step) for all passes; what an earlier pass has drawn is drawn again, finer."""
    for step in PASSES:
        for row in range(0, height, step):
            yield row, step


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return the picture as a PNG, rows filtered by Sub (ISO/IEC 15948, 9.2)."""
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


# --- the work, with progress ------------------------------------------------------------------------------------------


class Forecast(NamedTuple):
    """Prediction made ``at`` seconds after the start. Times are seconds since the start."""

    at: float
    eta: progress.Eta | None
    by_average: float | None


class Watch:
    """Records the predictions of a run, to compare them with its real end."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._predictions: list[Forecast] = []
        self.end = 0.0

    def record(self, op: progress.Level) -> None:
        """Record the current prediction, at most every 20 ms."""
        at = time.monotonic() - self._started_at
        if not self._predictions or at - self._predictions[-1].at >= RECORD_EVERY_S:
            ratio = op.snapshot().ratio
            self._predictions.append(Forecast(at, op.eta, at / ratio if ratio else None))

    def stop(self) -> None:
        """Record the end."""
        self.end = time.monotonic() - self._started_at

    @property
    def at_quarter(self) -> Forecast:
        """The prediction at a quarter of the duration."""
        return [*(one for one in self._predictions if one.at <= QUARTER * self.end), self._predictions[0]][-1]

    def relative_error(self, end: float) -> float:
        """Return the error of a predicted end, as a fraction of the duration."""
        return abs(end - self.end) / self.end


def render(op: progress.Level, queue: progress.Level, size: int, output: Path, watch: Watch) -> None:
    """Render the picture as the operation ``op``, which waits in its ``queue``; called in the thread that renders."""
    with op:
        queue.complete()
        with op.stage("preparation"):
            points = plane(size)
            steps, colours = palette(points)
        picture = np.zeros((*points.shape, 3), np.uint8)
        with op.stage("execution") as stage:
            todo = list(rows(len(points)))
            stage.set_total(len(todo))
            for row, step in todo:
                op.check_cancelled()
                found = escape(points[row, ::step])
                shades = np.where(np.isfinite(found), np.minimum(np.searchsorted(steps, found), 255), 256)
                picture[row : row + step] = np.repeat(colours[shades], step, axis=0)[: points.shape[1]]
                stage.increment()
                stage.preview(picture, "mandelbrot")
                watch.record(op)
        with op.stage("finalisation"):
            content = png(picture)
            output.write_bytes(content)
            op.update(message=f"{points.shape[1]}x{points.shape[0]} pixels, {len(content):,} bytes")
    watch.stop()


def submit(
    runtime: progress.Runtime, pool: ThreadPoolExecutor, number: int, size: int, output: Path
) -> Watch:
    """Queue a rendering for the thread that renders, and wait for it. Runs of the same ``size`` are alike."""
    op = progress.operation(
        "rendering",
        f"Mandelbrot {size}",
        id=f"rendering-{number}",
        stages=STAGES,
        eta_key=["size"],
        size=size,
    )
    watch = Watch()
    op.start()
    queue = op.stage("queue").start()
    runtime.force_flush(60.0)  # on a busy machine a small picture may be half done before the first estimate
    rendering = pool.submit(render, op, queue, size, output, watch)
    try:
        rendering.result()
    except KeyboardInterrupt:  # raised in this thread, which would otherwise wait for the other one
        progress.request_cancel(op.operation_id, "interrupted")
        wait([rendering])
        raise
    return watch


class Result(NamedTuple):
    """Errors of two predictions at a quarter of a run, as fractions of its duration; None without a prediction."""

    runs: int
    by_eta: float | None
    by_average: float | None


def print_result(number: int, watch: Watch) -> Result:
    """Print the prediction at a quarter of a run and its real end; return the errors."""
    at, eta, by_average = watch.at_quarter
    line, error = f"run {number}: ended after {watch.end:.2f} s; at 25 % no end was predicted", None
    if eta is not None and eta.remaining_s is not None:
        error = watch.relative_error(at + eta.remaining_s)
        interval = (
            ""
            if eta.low_s is None or eta.high_s is None
            else f" ({at + eta.low_s:.2f} to {at + eta.high_s:.2f} s)"
        )
        line = (
            f"run {number}: ended after {watch.end:.2f} s; at 25 % {at + eta.remaining_s:.2f} s{interval} was predicted "
            f"from {eta.runs} earlier run{'s' if eta.runs > 1 else ''}, {error:.1%} off"
        )
    average = None if by_average is None else watch.relative_error(by_average)
    print(line if average is None else f"{line}; by the average rate {average:.1%}")
    return Result(0 if eta is None else eta.runs, error, average)


def main() -> None:
    """Render the picture several times and print how good the estimates were."""
    parser = argparse.ArgumentParser(
        description="Render a picture several times, with estimates from history and previews."
    )
    parser.add_argument("--runs", type=int, default=6, help="how often (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=960, help="width in pixels, at least 64 (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="where to keep the picture (default: nowhere)")
    asked = parser.parse_args()
    if asked.runs < 1 or asked.size < 64:
        parser.error("expected --runs of at least 1 and --size of at least 64")
    if asked.output is not None and (asked.output.is_dir() or not asked.output.parent.is_dir()):
        parser.error("expected --output to name a file in a folder that is there")
    try:
        results = render_all(asked.runs, asked.size, asked.output)
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
    learned = [one for one in results if one.runs >= ENOUGH_RUNS]
    by_eta = [one.by_eta for one in learned if one.by_eta is not None]
    by_average = [one.by_average for one in learned if one.by_average is not None]
    if by_eta and by_average:
        print(
            f"after {ENOUGH_RUNS} runs: at 25 % the estimate is {median(by_eta):.1%} of the duration off, "
            f"the average rate {median(by_average):.1%}"
        )


def render_all(runs: int, size: int, output: Path | None) -> list[Result]:
    """Render the picture ``runs`` times in sequence; return the errors of the predictions."""
    results = []
    with (
        TemporaryDirectory() as folder,
        progress.configure(service_name="render-example") as runtime,
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        for number in range(1, runs + 1):
            results.append(
                print_result(
                    number, submit(runtime, pool, number, size, output or Path(folder, "picture.png"))
                )
            )
            runtime.force_flush(60.0)  # the next run starts at once and uses the history of this one
    return results


if __name__ == "__main__":
    main()
