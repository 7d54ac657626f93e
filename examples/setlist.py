"""Render a setlist in subprocesses, with errors and retries.

The levels are songs, actions and blocks. The helpers ``song``, ``action`` and ``block`` are thin
wrappers of the public API. Functions deep in the call stack use ``current_level()``. A failed
action is started again with the same ID: the level is the same, with the next attempt.

    python examples/setlist.py [--fast]

Each block is a subprocess that writes or reads WAV files in a temporary folder. Two songs fail. The
first one has a truncated stem, and a retry succeeds. The other one has a wrong sample rate, and all
retries fail.
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import otel_progress as progress

OPERATION_ID = "friday-42"
ATTEMPTS = 3
RATE = 8_000

# --- songs


@dataclass(frozen=True)
class Song:
    """Song with the pitches of its stems in hertz, and its simulated errors."""

    id: str
    name: str
    stems: tuple[int, ...]
    truncated_once: bool = False
    wrong_rate: bool = False
    already_rendered: bool = False


SETLIST = (
    Song("1", "Harbour Lights", (110, 220)),
    Song("2", "Night Drive", (98, 196, 294), truncated_once=True),
    Song("3", "Static", (131, 262), wrong_rate=True),
    Song("4", "Encore", (165,), already_rendered=True),
)


class BlockError(Exception):
    """Failure of a subprocess, with the last line of its stderr."""


# --- helpers


def song(parent: progress.Level, item: Song) -> progress.Level:
    """Return the level of a song, which counts actions."""
    return parent.level("song", item.id, item.name, total=3, unit="action", stems=len(item.stems))


def action(id: str, *, blocks: int) -> progress.Level:
    """Return the level of an action of the current song."""
    return progress.level("action", id, total=blocks, unit="block")


def block(id: str) -> progress.Level:
    """Return the level of a subprocess of the current action."""
    return progress.level("block", id, unit="second")


def retry(work: Callable[[int], None]) -> None:
    """Call ``work(attempt)`` until it succeeds, at most three times.

    Raises the exception of the last attempt.
    """
    for attempt in range(1, ATTEMPTS):
        with suppress(BlockError):
            return work(attempt)
    return work(ATTEMPTS)


# --- subprocesses and their progress


def track_line(line: str) -> None:
    """Update the current level from a line of a subprocess, such as ``seconds 2/5``."""
    word, _, figures = line.strip().partition(" ")
    if word == "seconds":
        done, _, total = figures.partition("/")
        progress.current_level().update(current=int(done), total=int(total), message=line.strip())


def run(program: str, *arguments: object) -> None:
    """Run a Python program as a subprocess and track its output.

    Raises BlockError if the program fails.
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            track_line(line)
        errors = process.stderr.read().strip() if process.stderr else ""
    if process.returncode:
        raise BlockError(errors.rpartition("\n")[2] or f"exit code {process.returncode}")


SYNTHESISE = """
import array, math, sys, wave
path, pitch, rate, seconds, keep = sys.argv[1], *map(int, sys.argv[2:])
with wave.open(path, "wb") as out:
    out.setparams((1, 2, rate, 0, "NONE", ""))
    for second in range(seconds):
        samples = (int(9000 * math.sin(6.2832 * pitch * n / rate)) for n in range(rate))
        out.writeframes(array.array("h", samples).tobytes())
        print(f"seconds {second + 1}/{seconds}", flush=True)
if keep:
    open(path, "r+b").truncate(keep)
"""
CHECK = """
import sys, wave
path, rate = sys.argv[1], int(sys.argv[2])
with wave.open(path) as stem:
    frames = stem.readframes(stem.getnframes())
    if stem.getframerate() != rate:
        raise ValueError(f"{stem.getframerate()} Hz, not {rate} Hz")
    if len(frames) != 2 * stem.getnframes():
        raise EOFError(f"{len(frames)} of {2 * stem.getnframes()} bytes")
    seconds = len(frames) // (2 * rate)
    print(f"seconds {seconds}/{seconds}", flush=True)
"""
MIX = """
import array, sys, wave
target, *stems = sys.argv[1:]
mixed = None
for number, path in enumerate(stems, 1):
    with wave.open(path) as stem:
        params, samples = stem.getparams(), array.array("h", stem.readframes(stem.getnframes()))
    mixed = samples if mixed is None else array.array("h", map(lambda a, b: (a + b) // 2, mixed, samples))
    print(f"seconds {number}/{len(stems)}", flush=True)
with wave.open(target, "wb") as out:
    out.setparams(params)
    out.writeframes(mixed.tobytes())
"""

# --- rendering


def render(item: Song, folder: Path, seconds: int) -> None:
    """Run the actions of a song: synthesise and check its stems, mix, deliver."""
    stems = {pitch: folder / f"{item.id}-{pitch}.wav" for pitch in item.stems}

    def make_stems(attempt: int) -> None:
        with action("stems", blocks=2 * len(stems)):
            for pitch, path in stems.items():
                with block(f"synthesise-{pitch}"):
                    keep = 4_000 if item.truncated_once and attempt == 1 and pitch == item.stems[-1] else 0
                    run(SYNTHESISE, path, pitch, RATE // 2 if item.wrong_rate else RATE, seconds, keep)
            for pitch, path in stems.items():
                with block(f"check-{pitch}"):
                    run(CHECK, path, RATE)

    retry(make_stems)
    with action("mix", blocks=1), block("mix"):
        run(MIX, folder / f"{item.id}.wav", *stems.values())
    with action("deliver", blocks=1):
        size = (folder / f"{item.id}.wav").stat().st_size
        progress.current_level().item(f"{item.id}.wav", bytes=size)


def process(setlist: tuple[Song, ...], folder: Path, seconds: int) -> None:
    """Render every song. A failed song does not stop the others."""
    with progress.operation(
        "setlist_processing", "Friday setlist", id=OPERATION_ID, total=len(setlist), unit="song"
    ) as op:
        for item in setlist:
            op.update(message=item.name)
            level = song(op, item)
            with suppress(BlockError), level:
                if item.already_rendered:
                    level.skip("rendered before")
                else:
                    render(item, folder, seconds)


def format_summary(operation: progress.OperationSnapshot) -> list[str]:
    """Return the overall result, and the status and attempts of each song."""
    overall = operation.get_overall_progress()
    lines = [
        f"{operation.name}: {operation.status}, {overall.percentage:.0f} %, "
        f"{overall.completed} of {overall.total} songs rendered, {overall.failed} failed"
    ]
    for item in SETLIST:
        level = operation.get_level(f"song:{item.id}")
        stems = operation.get_level(f"song:{item.id}/action:stems")
        if level is None:
            continue
        attempts = (
            f", stems at attempt {stems.info.attempt}" if stems is not None and stems.info.attempt > 1 else ""
        )
        reason = f": {level.error.message}" if level.error is not None else ""
        lines.append(f"  {item.name}: {level.status}{attempts}{reason}")
    return lines


def main() -> None:
    """Render the setlist and print the summary."""
    parser = argparse.ArgumentParser(description="Render a setlist with progress.")
    parser.add_argument("--fast", action="store_true", help="one second of sound instead of a hundred")
    seconds = 1 if parser.parse_args().fast else 100
    progress.configure(service_name="setlist-example")
    with TemporaryDirectory() as folder:
        process(SETLIST, Path(folder), seconds)
    operation = progress.get_operation(OPERATION_ID)
    if operation is not None:
        print("\n".join(format_summary(operation)))


if __name__ == "__main__":
    main()
