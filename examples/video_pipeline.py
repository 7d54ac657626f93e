"""Process a small video in a pipeline of subprocesses that report nothing before they return.

The stages are an ``Enum`` of the percentages at which each starts. Drawing the frames is counted. Encoding, checking and
packing are subprocesses, so they are opaque steps. Their progress is estimated from the expected duration, or from the
durations of earlier runs. It is marked with ``~`` and does not reach its end before they do.

    python examples/video_pipeline.py [--runs 2] [--frames 60]
    otel-progress show video-2

In each run one frame is truncated: the encoder fails, the frame is drawn again, and the stage is entered again. The second
run has a history of checking and packing, and prints it. Encoding has an expected duration of ten milliseconds per frame,
which three consistent runs override.

Needs numpy: pip install numpy
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
"""Guessed seconds that encoding a frame takes."""


class Step(Enum):
    """The stages of the pipeline, and the percentage at which each starts."""

    DRAW = 0
    ENCODE = 10
    CHECK = 65
    PACK = 85


# --- the programs that do the work ------------------------------------------------------------------------------------

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
        b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
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
    pixels = b"".join(lines[start + 1 : start + 1 + 3 * width] for start in range(0, len(lines), 3 * width + 1))
    raw = png.with_suffix(".rgb").read_bytes()
    if hashlib.sha3_512(pixels * rounds).digest() != hashlib.sha3_512(raw * rounds).digest():
        raise ValueError(f"{png.name} is not the frame it was made from")
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
    """A subprocess ended with an error; the text is the last line it wrote."""


def run(program: str, *arguments: object) -> None:
    """Run a Python program as a subprocess. Raises StepError if it ends with an error."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepError(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")


def draw(path: Path, number: int) -> None:
    """Draw a frame: two waves that move across each other, as raw pixels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    first = np.sin((x + 3 * number) / 17) + np.cos((y - 2 * number) / 23)
    second = np.sin(np.hypot(x - WIDTH / 2, y - HEIGHT / 2) / 11 - number / 3)
    channels = (first * 63 + 127, second * 100 + 127, (first + second) * 40 + 127)
    path.write_bytes(np.stack(channels, axis=-1).astype(np.uint8).tobytes())


# --- the pipeline, with progress --------------------------------------------------------------------------------------


class StepRecord(NamedTuple):
    """Estimate of an opaque step at its start, its last ratio, its duration in seconds, and its last attempt."""

    expected: progress.Eta | None
    shown: float | None
    took: float
    attempt: int


class RatioRecorder:
    """Callback that stores the estimated ratios of running steps, by operation, step and attempt."""

    def __init__(self) -> None:
        self.ratios: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)

    def __call__(self, _: str, operation: progress.OperationSnapshot) -> None:
        """Store the ratios that a view would show now."""
        for level in operation.levels:
            seen = self.ratios[operation.operation_id, level.info.id, level.info.attempt]
            if level.estimated and level.ratio is not None and level.ratio not in seen:
                seen.append(level.ratio)


def opaque(
    op: progress.Level, step: Step, program: str, *arguments: object, expected: float | None = None
) -> StepRecord:
    """Run a program as an opaque stage of the pipeline; return its record. Raises StepError if the program fails."""
    with op.stage(step).opaque(expected) as stage:
        predicted = stage.eta
        run(program, *arguments)
        nearly = stage.snapshot()
    ended = stage.snapshot()
    return StepRecord(
        predicted, nearly.ratio if nearly.estimated else None, ended.duration_s or 0.0, ended.info.attempt
    )


def encode(op: progress.Level, folder: Path, frames: int) -> StepRecord:
    """Encode all frames, of which one is damaged: the stage fails, the frame is drawn again, and the stage is entered again."""
    expected = EXPECTED_S_PER_FRAME * frames
    damaged = folder / f"{frames // 2:04}.rgb"
    with damaged.open("r+b") as frame:  # as a full disk would leave it
        frame.truncate(1_000)
    with suppress(StepError):
        return opaque(op, Step.ENCODE, ENCODE, folder, WIDTH, HEIGHT, expected=expected)
    draw(damaged, frames // 2)
    return opaque(op, Step.ENCODE, ENCODE, folder, WIDTH, HEIGHT, expected=expected)


def process(op: progress.Level, folder: Path, frames: int) -> dict[Step, StepRecord]:
    """Make the video; return the records of its opaque steps."""
    with op.stage(Step.DRAW) as stage:
        stage.set_total(frames)
        for number in range(frames):
            draw(folder / f"{number:04}.rgb", number)
            stage.increment()
    records = {
        Step.ENCODE: encode(op, folder, frames),
        Step.CHECK: opaque(op, Step.CHECK, CHECK, folder, WIDTH),
        Step.PACK: opaque(op, Step.PACK, PACK, folder),
    }
    size = (folder / "video.tar.gz").stat().st_size
    op.update(message=f"{frames} frames, {size:,} bytes", bytes=size)
    return records


def line(step: Step, record: StepRecord, shown: Sequence[float]) -> str:
    """Return a line about an opaque step: its estimate at the start, its duration, and the ratios shown."""
    eta = record.expected
    if eta is None or eta.remaining_s is None:
        expected = "no estimate"
    elif eta.basis == "expected":
        expected = f"{eta.remaining_s:.2f} s expected"
    else:
        expected = f"{eta.remaining_s:.2f} s from {eta.runs} earlier run{'s' if eta.runs > 1 else ''}"
    if record.shown is not None and record.shown > max(shown, default=-1.0):
        shown = [*shown, record.shown]
    ratios = ", ".join(f"~{ratio:.0%}" for ratio in shown)
    attempt = f" at attempt {record.attempt}" if record.attempt > 1 else ""
    return f"  {step.name.lower():<6}  {expected}, took {record.took:.2f} s{attempt}{', shown as ' if ratios else ''}{ratios}"


def main() -> None:
    """Make the video several times and print the record of each step."""
    parser = argparse.ArgumentParser(description="A pipeline of subprocesses with estimated progress.")
    parser.add_argument("--runs", type=int, default=2, help="how often (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=60, help="frames of the video (default: %(default)s)")
    asked = parser.parse_args()
    if asked.runs < 1 or asked.frames < 1:
        parser.error("expected --runs and --frames of at least 1")
    try:
        make_all(asked.runs, asked.frames)
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None


def make_all(runs: int, frames: int) -> None:
    """Make the video ``runs`` times in sequence, and print the record of each step."""
    stages = progress.Stages.from_enum(Step)
    with progress.configure(service_name="video-example") as runtime:
        shown = RatioRecorder()
        progress.add_callback(shown, interval=0.05)
        for number in range(1, runs + 1):
            with (
                TemporaryDirectory() as folder,
                progress.operation(
                    "video", "Waves", id=f"video-{number}", stages=stages, eta_key=["frames"], frames=frames
                ) as op,
            ):
                records = process(op, Path(folder), frames)
            runtime.force_flush(60.0)  # the next run starts at once and uses the history of this one
            ended = op.snapshot()
            print(f"run {number}: {ended.status}, {ended.message}")
            for step, record in records.items():
                print(line(step, record, shown.ratios[op.operation_id, step.name, record.attempt]))


if __name__ == "__main__":
    main()
