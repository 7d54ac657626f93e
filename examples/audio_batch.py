"""Denoise 500 recordings in a thread pool, with a checkpoint every ten files.

Each file is an item of one operation: completed, or failed with its error, because some files are
damaged. At each checkpoint the operation updates its message (``100 of 500``) and the results are
written to a file. A later run resumes from this file and calls ``resume_from``. Files of an earlier
session are then excluded from the rate, and so from the estimate.

    python examples/audio_batch.py [--files 500] [--folder FOLDER]
    otel-progress show denoising --errors

With a folder, stop it with Ctrl-C and start it again. Without one, a temporary folder is used.

Requires numpy: pip install numpy
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import argparse
import json
import os
import wave
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import otel_progress as progress

try:
    import numpy as np
    import numpy.typing as npt
except ImportError as missing:
    raise SystemExit("This example filters with numpy: pip install numpy") from missing

RATE = 8_000
SAMPLES = RATE
QUIET = RATE // 8
"""Samples at the start of each recording that contain only noise."""
WINDOW, HOP = 256, 128
CHECKPOINT_EVERY = 10
DAMAGED_EVERY = 50
WORKERS = 4
STATE = "done.json"
Samples = npt.NDArray[np.float64]

# --- recordings


def record(folder: Path, number: int) -> Path:
    """Write a recording: noise, and a tone after an eighth of a second.

    Every fiftieth file is truncated.
    """
    random = np.random.default_rng(number)
    time = np.arange(SAMPLES) / RATE
    tone = 0.4 * np.sin(2 * np.pi * (200 + 3 * number) * time) * (np.arange(SAMPLES) >= QUIET)
    path = folder / f"recording-{number:03}.wav"
    write(path, tone + 0.05 * random.standard_normal(SAMPLES))
    if number % DAMAGED_EVERY == DAMAGED_EVERY - 1:
        os.truncate(path, 20 if number % (2 * DAMAGED_EVERY) == DAMAGED_EVERY - 1 else 3_000)
    return path


def write(path: Path, samples: Samples) -> None:
    """Write samples from -1 to 1 as 16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1.0, 1.0) * 32_767).astype("<i2").tobytes())


def read(path: Path) -> Samples:
    """Return the samples of a file, from -1 to 1.

    Raises EOFError or wave.Error for a truncated file.
    """
    with wave.open(str(path), "rb") as file:
        frames = file.readframes(file.getnframes())
        if len(frames) != 2 * file.getnframes():
            msg = f"{path.name} has {len(frames) // 2} of {file.getnframes()} samples"
            raise EOFError(msg)
    samples: Samples = np.frombuffer(frames, "<i2").astype(np.float64) / 32_767
    return samples


# --- filter


def filter_noise(samples: Samples) -> Samples:
    """Return the samples without noise, filtered by a spectral gate.

    Frequencies below three times the noise level of the quiet start are reduced by 20 dB. Hann
    windows overlap by half, so their sum is one.
    """
    window = np.hanning(WINDOW + 1)[:-1]
    padded = np.pad(samples, (HOP, WINDOW))
    starts = range(0, len(padded) - WINDOW + 1, HOP)
    spectra = np.fft.rfft(np.stack([padded[start : start + WINDOW] for start in starts]) * window)
    noise = np.abs(spectra[1 : QUIET // HOP - 1]).mean(axis=0)
    filtered = np.fft.irfft(np.where(np.abs(spectra) > 3.0 * noise, 1.0, 0.1) * spectra, WINDOW)
    out = np.zeros_like(padded)
    for start, part in zip(starts, filtered, strict=True):
        out[start : start + WINDOW] += part
    return out[HOP : HOP + len(samples)]


def measure_loudness(samples: Samples) -> float:
    """Return the loudness of samples in dB relative to full scale."""
    return float(10.0 * np.log10(np.mean(samples**2) + 1e-12))


def denoise(path: Path) -> float:
    """Write the denoised recording next to the original.

    Return the noise reduction of its quiet part in dB.
    """
    noisy = read(path)
    clean = filter_noise(noisy)
    write(path.with_suffix(".clean.wav"), clean)
    return measure_loudness(noisy[:QUIET]) - measure_loudness(clean[:QUIET])


# --- processing, with progress and checkpoints


class Checkpoint:
    """Outcomes of processed files by name, stored in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save(self) -> None:
        """Replace the file atomically."""
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self.done), encoding="utf-8")
        temporary.replace(self._path)

    def remove(self) -> None:
        """Delete the file, because no work is left."""
        self._path.unlink(missing_ok=True)


def denoise_files(paths: list[Path]) -> Generator[tuple[Path, Future[float]], None, None]:
    """Denoise files in a thread pool and yield each result when it is ready.

    If the caller stops, pending files are not started.
    """
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        running = {pool.submit(denoise, path): path for path in paths}
        try:
            for future in as_completed(running):
                yield running[future], future
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def process(op: progress.Level, paths: list[Path], checkpoint: Checkpoint) -> list[float]:
    """Denoise the remaining files as items of ``op``. Return the reductions in dB."""
    reductions = []
    if checkpoint.done:
        op.resume_from(len(checkpoint.done))
    remaining = [path for path in paths if path.name not in checkpoint.done]
    # closing() stops the pool at once after an interrupt, without the pending files.
    with closing(denoise_files(remaining)) as results:
        for path, future in results:
            try:
                reductions.append(future.result())
            except (EOFError, wave.Error) as error:
                op.item(path.name, outcome="failed", error=error)
                checkpoint.done[path.name] = "failed"
            else:
                op.item(path.name, reduction_db=round(reductions[-1], 1))
                checkpoint.done[path.name] = "denoised"
            if len(checkpoint.done) % CHECKPOINT_EVERY == 0:
                checkpoint.save()
                op.update(message=f"{len(checkpoint.done)} of {len(paths)}")
    return reductions


def denoise_all(folder: Path, files: int) -> None:
    """Create missing recordings, denoise them and print the result."""
    checkpoint = Checkpoint(folder / STATE)
    done_before = len(checkpoint.done)
    if done_before:
        print(f"resumes from {done_before} of {files}")
    names = [folder / f"recording-{number:03}.wav" for number in range(files)]
    paths = [path if path.exists() else record(folder, number) for number, path in enumerate(names)]
    with progress.operation(
        "denoising", f"{files} recordings", id="denoising", total=files, unit="file"
    ) as op:
        reductions = process(op, paths, checkpoint)
        checkpoint.remove()
    failed = sum(outcome == "failed" for outcome in checkpoint.done.values())
    reduction = f", noise reduced by {np.mean(reductions):.1f} dB" if reductions else ""
    total = f"{len(checkpoint.done)} of {files} files, {failed} failed"
    print(f"{total}, {len(reductions)} denoised in this session{reduction}")


def main() -> None:
    """Denoise the recordings. Ctrl-C interrupts a run that can be resumed."""
    parser = argparse.ArgumentParser(description="Denoise recordings with checkpoints.")
    parser.add_argument("--files", type=int, default=500, help="number of recordings (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="folder of recordings and checkpoint (default: a temporary folder)"
    )
    options = parser.parse_args()
    if options.files < 1:
        parser.error(f"Invalid --files {options.files}: expected at least 1.")
    hint = (
        ""
        if options.folder is None
        else f"; resume with: python examples/audio_batch.py --folder {options.folder}"
    )
    try:
        with progress.configure(service_name="audio-example"), ExitStack() as stack:
            folder = options.folder or Path(stack.enter_context(TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            denoise_all(folder, options.files)
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted{hint}") from None


if __name__ == "__main__":
    main()
