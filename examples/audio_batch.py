"""Denoise five hundred recordings in a thread pool, with a checkpoint every ten files, so that a run can be resumed.

Each file is an item of one operation: denoised, or failed with its error, because some files are damaged. At every
checkpoint the operation shows a message (``100 of 500``), and the finished files are written to a checkpoint file. A run
that finds this file resumes there and reports it with ``resume_from``. The rate, and with it the remaining time, is that
of the current session only.

    python examples/audio_batch.py [--files 500] [--folder FOLDER]
    otel-progress show denoising --errors

With a folder, stop it with Ctrl-C and start it again. Without one it works in a temporary folder.

Needs numpy: pip install numpy
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

# --- the recordings ---------------------------------------------------------------------------------------------------


def record(folder: Path, number: int) -> Path:
    """Write a recording: a tone after an eighth of a second of noise; every fiftieth file is truncated."""
    random = np.random.default_rng(number)
    time = np.arange(SAMPLES) / RATE
    tone = 0.4 * np.sin(2 * np.pi * (200 + 3 * number) * time) * (np.arange(SAMPLES) >= QUIET)
    path = folder / f"recording-{number:03}.wav"
    write(path, tone + 0.05 * random.standard_normal(SAMPLES))
    if number % DAMAGED_EVERY == DAMAGED_EVERY - 1:
        os.truncate(path, 20 if number % (2 * DAMAGED_EVERY) == DAMAGED_EVERY - 1 else 3_000)
    return path


def write(path: Path, samples: Samples) -> None:
    """Write samples from -1 to 1 as 16 bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1.0, 1.0) * 32_767).astype("<i2").tobytes())


def read(path: Path) -> Samples:
    """Return the samples of a file, from -1 to 1. Raises EOFError or wave.Error if it is truncated."""
    with wave.open(str(path), "rb") as file:
        frames = file.readframes(file.getnframes())
        if len(frames) != 2 * file.getnframes():
            msg = f"{path.name} has {len(frames) // 2} of {file.getnframes()} samples"
            raise EOFError(msg)
    samples: Samples = np.frombuffer(frames, "<i2").astype(np.float64) / 32_767
    return samples


# --- the filter -------------------------------------------------------------------------------------------------------


def gated(samples: Samples) -> Samples:
    """Remove everything that is not louder than the noise: a spectral gate.

    The spectrum of each window is kept where it is three times as strong as at the quiet start, and damped by 20 dB
    elsewhere. Hann windows that overlap by half add up to one.
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


def loudness(samples: Samples) -> float:
    """Return the level of samples in dB below full scale."""
    return float(10.0 * np.log10(np.mean(samples**2) + 1e-12))


def denoise(path: Path) -> float:
    """Write the denoised recording next to the noisy one; return the reduction of the noise in dB."""
    noisy = read(path)
    clean = gated(noisy)
    write(path.with_suffix(".clean.wav"), clean)
    return loudness(noisy[:QUIET]) - loudness(clean[:QUIET])


# --- the work, with progress and checkpoints --------------------------------------------------------------------------


class Checkpoint:
    """Finished files by name and outcome, in a file that is replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save(self) -> None:
        """Write the checkpoint."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self.done), encoding="utf-8")
        fresh.replace(self._path)

    def remove(self) -> None:
        """Delete the checkpoint: nothing is left to resume."""
        self._path.unlink(missing_ok=True)


def results(paths: list[Path]) -> Generator[tuple[Path, Future[float]], None, None]:
    """Denoise files in a thread pool and yield each result. If the caller stops, pending files are cancelled."""
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        running = {pool.submit(denoise, path): path for path in paths}
        try:
            for future in as_completed(running):
                yield running[future], future
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def process(op: progress.Level, paths: list[Path], checkpoint: Checkpoint) -> list[float]:
    """Denoise the remaining files as items of ``op``; return the reduction of the noise in dB for each success."""
    lowered = []
    if checkpoint.done:
        op.resume_from(len(checkpoint.done))
    todo = [path for path in paths if path.name not in checkpoint.done]
    with closing(results(todo)) as ended:  # otherwise an interrupted run would first finish the others
        for path, future in ended:
            try:
                lowered.append(future.result())
            except (EOFError, wave.Error) as error:
                op.item(path.name, outcome="failed", error=error)
                checkpoint.done[path.name] = "failed"
            else:
                op.item(path.name, lowered_db=round(lowered[-1], 1))
                checkpoint.done[path.name] = "denoised"
            if len(checkpoint.done) % CHECKPOINT_EVERY == 0:
                checkpoint.save()
                op.update(message=f"{len(checkpoint.done)} of {len(paths)}")
    return lowered


def denoise_all(folder: Path, files: int) -> None:
    """Write missing recordings, denoise them, and print a summary."""
    checkpoint = Checkpoint(folder / STATE)
    before = len(checkpoint.done)
    if before:
        print(f"resumes from {before} of {files}")
    names = [folder / f"recording-{number:03}.wav" for number in range(files)]
    paths = [path if path.exists() else record(folder, number) for number, path in enumerate(names)]
    with progress.operation(
        "denoising", f"{files} recordings", id="denoising", total=files, unit="file"
    ) as op:
        lowered = process(op, paths, checkpoint)
        checkpoint.remove()
    failed = sum(outcome == "failed" for outcome in checkpoint.done.values())
    quieter = f", noise lower by {np.mean(lowered):.1f} dB" if lowered else ""
    print(
        f"{len(checkpoint.done)} of {files} files, {failed} failed, {len(lowered)} denoised in this session{quieter}"
    )


def main() -> None:
    """Denoise the recordings. Ctrl-C stops the run, which can be resumed."""
    parser = argparse.ArgumentParser(description="Denoise recordings with checkpoints.")
    parser.add_argument("--files", type=int, default=500, help="how many recordings (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="where to keep recordings and checkpoints (default: a temporary folder)"
    )
    asked = parser.parse_args()
    if asked.files < 1:
        parser.error("expected --files of at least 1")
    again = (
        ""
        if asked.folder is None
        else f"; resume with: python examples/audio_batch.py --folder {asked.folder}"
    )
    try:
        with progress.configure(service_name="audio-example"), ExitStack() as stack:
            folder = asked.folder or Path(stack.enter_context(TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            denoise_all(folder, asked.files)
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted{again}") from None


if __name__ == "__main__":
    main()
