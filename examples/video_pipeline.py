"""Create a video in a pipeline of subprocesses that report no progress.

The stages are an ``Enum`` with the percentage at which each stage starts. The stage that draws the
frames counts them. Encoding, checking and packing are subprocesses, so their stages are opaque: the
progress is estimated from the expected duration or from earlier runs. It is shown with ``~`` and
reaches 100 % only at the end.

    python examples/video_pipeline.py [--runs 2] [--frames 60]
    otel-progress show video-2

In each run one frame is truncated. The encoder fails, the frame is drawn again, and the stage is
started again. The second run estimates checking and packing from the first run. Encoding has an
expected duration of ten milliseconds per frame, which is used until there are three earlier runs.

Requires numpy: pip install numpy
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import otel_progress as progress

try:
    import numpy as np
except ImportError as missing:
    raise SystemExit("This example draws with numpy: pip install numpy") from missing

WIDTH, HEIGHT = 320, 180
EXPECTED_S_PER_FRAME = 0.01
"""Expected duration of encoding a frame, a rough guess."""


class Step(Enum):
    """Stages of the pipeline with the percentage at which each starts."""

    DRAW = 0
    ENCODE = 10
    CHECK = 65
    PACK = 85


# --- programs

ENCODE = """
import struct, sys, zlib
from pathlib import Path

folder, width, height = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

for raw in sorted(folder.glob("*.rgb")):
    pixels = raw.read_bytes()
    if len(pixels) != 3 * width * height:
        raise ValueError(f"{raw.name} has {len(pixels)} of {3 * width * height} bytes")
    lines = b"".join(b"\\0" + pixels[start : start + 3 * width] for start in range(0, len(pixels), 3 * width))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    raw.with_suffix(".png").write_bytes(
        b"\\x89PNG\\r\\n\\x1a\\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )
"""
CHECK = """
import hashlib, sys, zlib
from pathlib import Path

folder, width, rounds = Path(sys.argv[1]), int(sys.argv[2]), 4
for png in sorted(folder.glob("*.png")):
    content = png.read_bytes()
    data = content.index(b"IDAT")
    lines = zlib.decompress(content[data + 4 : data + 4 + int.from_bytes(content[data - 4 : data], "big")])
    starts = range(1, len(lines), 3 * width + 1)
    pixels = b"".join(lines[start : start + 3 * width] for start in starts)
    raw = png.with_suffix(".rgb").read_bytes()
    if hashlib.sha3_512(pixels * rounds).digest() != hashlib.sha3_512(raw * rounds).digest():
        raise ValueError(f"{png.name} differs from its frame")
"""
PACK = """
import sys, tarfile
from pathlib import Path

folder = Path(sys.argv[1])
with tarfile.open(folder / "video.tar.gz", "w:gz", compresslevel=6) as archive:
    for frame in sorted([*folder.glob("*.rgb"), *folder.glob("*.png")]):
        archive.add(frame, frame.name)
"""


class StepError(Exception):
    """Failure of a subprocess, with the last line of its stderr."""


def run(program: str, *arguments: object) -> None:
    """Run a Python program as a subprocess without progress.

    Raises StepError if the program fails.
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepError(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")


def draw(path: Path, number: int) -> None:
    """Draw a frame of two moving waves as raw pixels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    first = np.sin((x + 3 * number) / 17) + np.cos((y - 2 * number) / 23)
    second = np.sin(np.hypot(x - WIDTH / 2, y - HEIGHT / 2) / 11 - number / 3)
    channels = (first * 63 + 127, second * 100 + 127, (first + second) * 40 + 127)
    path.write_bytes(np.stack(channels, axis=-1).astype(np.uint8).tobytes())


# --- pipeline, with progress


class StepResult(NamedTuple):
    """Result of an opaque step: first estimate, last ratio, duration and attempt."""

    expected: progress.Eta | None
    last_ratio: float | None
    duration_s: float
    attempt: int


class RatioRecorder:
    """Callback that records the estimated ratios by operation, step and attempt."""

    def __init__(self) -> None:
        self.ratios: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)

    def __call__(self, _: str, operation: progress.OperationSnapshot) -> None:
        """Record the ratios that a display would show now."""
        for level in operation.levels:
            recorded = self.ratios[operation.operation_id, level.info.id, level.info.attempt]
            if level.estimated and level.ratio is not None and level.ratio not in recorded:
                recorded.append(level.ratio)


def run_opaque(
    op: progress.Level, step: Step, program: str, *arguments: object, expected: float | None = None
) -> StepResult:
    """Run a program as an opaque stage and return its result.

    Raises StepError if the program fails.
    """
    with op.stage(step).opaque(expected) as stage:
        estimate = stage.eta
        run(program, *arguments)
        last = stage.snapshot()
    finished = stage.snapshot()
    last_ratio = last.ratio if last.estimated else None
    return StepResult(estimate, last_ratio, finished.duration_s or 0.0, finished.info.attempt)


def encode(op: progress.Level, folder: Path, frames: int) -> StepResult:
    """Encode all frames. One is damaged, so the stage fails and is started again."""
    expected = EXPECTED_S_PER_FRAME * frames
    damaged = folder / f"{frames // 2:04}.rgb"
    with damaged.open("r+b") as frame:  # as after a full disk
        frame.truncate(1_000)
    with suppress(StepError):
        return run_opaque(op, Step.ENCODE, ENCODE, folder, WIDTH, HEIGHT, expected=expected)
    draw(damaged, frames // 2)
    return run_opaque(op, Step.ENCODE, ENCODE, folder, WIDTH, HEIGHT, expected=expected)


def process(op: progress.Level, folder: Path, frames: int) -> dict[Step, StepResult]:
    """Create the video and return the results of its opaque steps."""
    with op.stage(Step.DRAW) as stage:
        stage.set_total(frames)
        for number in range(frames):
            draw(folder / f"{number:04}.rgb", number)
            stage.increment()
    results = {
        Step.ENCODE: encode(op, folder, frames),
        Step.CHECK: run_opaque(op, Step.CHECK, CHECK, folder, WIDTH),
        Step.PACK: run_opaque(op, Step.PACK, PACK, folder),
    }
    size = (folder / "video.tar.gz").stat().st_size
    op.update(message=f"{frames} frames, {size:,} bytes", bytes=size)
    return results


def format_result(step: Step, result: StepResult, ratios: Sequence[float]) -> str:
    """Return a line with the estimate, the duration and the ratios of an opaque step."""
    eta = result.expected
    if eta is None or eta.remaining_s is None:
        expected = "no estimate"
    elif eta.basis == "expected":
        expected = f"{eta.remaining_s:.2f} s expected"
    else:
        expected = (
            f"{eta.remaining_s:.2f} s estimated from {eta.runs} earlier run{'s' if eta.runs > 1 else ''}"
        )
    if result.last_ratio is not None and result.last_ratio > max(ratios, default=-1.0):
        ratios = [*ratios, result.last_ratio]
    shown = ", shown as " + ", ".join(f"~{ratio:.0%}" for ratio in ratios) if ratios else ""
    attempt = f" at attempt {result.attempt}" if result.attempt > 1 else ""
    return f"  {step.name.lower():<6}  {expected}, took {result.duration_s:.2f} s{attempt}{shown}"


def main() -> None:
    """Create the video several times and print the result of each step."""
    parser = argparse.ArgumentParser(description="A pipeline of subprocesses with estimated progress.")
    parser.add_argument("--runs", type=int, default=2, help="number of runs (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=60, help="number of frames (default: %(default)s)")
    options = parser.parse_args()
    if options.runs < 1 or options.frames < 1:
        values = f"--runs {options.runs} or --frames {options.frames}"
        parser.error(f"Invalid {values}: expected at least 1 of both.")
    try:
        create_videos(options.runs, options.frames)
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None


def create_videos(runs: int, frames: int) -> None:
    """Create the video in consecutive runs and print the result of each step."""
    stages = progress.Stages.from_enum(Step)
    with progress.configure(service_name="video-example") as runtime:
        recorder = RatioRecorder()
        progress.add_callback(recorder, interval=0.05)
        for number in range(1, runs + 1):
            with (
                TemporaryDirectory() as folder,
                progress.operation(
                    "video", "Waves", id=f"video-{number}", stages=stages, eta_key=["frames"], frames=frames
                ) as op,
            ):
                results = process(op, Path(folder), frames)
            runtime.force_flush(60.0)  # the next run uses the history of this one
            finished = op.snapshot()
            print(f"run {number}: {finished.status}, {finished.message}")
            for step, result in results.items():
                ratios = recorder.ratios[op.operation_id, step.name, result.attempt]
                print(format_result(step, result, ratios))


if __name__ == "__main__":
    main()
