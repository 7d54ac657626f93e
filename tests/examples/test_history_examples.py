"""Examples with estimates from history: output, journal, previews and checkpoints."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest

from tests.support.example_runner import EXAMPLES, Runner, levels
from tests.support.servers import poll

pytestmark = pytest.mark.process

RUN = re.compile(
    r"run (?P<number>\d+): (?P<end>[\d.]+) s; "
    r"(?:no estimate at 25 %|estimate at 25 %: (?P<estimate>[\d.]+) s(?P<interval> \([\d.]+ to [\d.]+ s\))? "
    r"from (?P<runs>\d+) earlier runs?, error (?P<error>[\d.]+)%)"
    r"(?:; average rate: error (?P<average>[\d.]+)%)?"
)
STEP = re.compile(
    r"  (?P<name>\w+) +"
    r"(?:(?P<expected>[\d.]+) s (?P<basis>expected|estimated from \d+ earlier runs?)|no estimate), "
    r"took (?P<took>[\d.]+) s(?: at attempt (?P<attempt>\d+))?(?:, shown as (?P<shown>.+))?"
)


@pytest.fixture(autouse=True)
def _needs_numpy() -> None:
    pytest.importorskip("numpy", reason="numpy is not installed: these examples use it")


def test_render_with_history_estimates_better_than_average_rate(run: Runner, tmp_path: Path) -> None:
    """The spread of the durations is tolerated, because a busy machine varies."""
    pytest.importorskip("PIL", reason="Pillow is not installed: it renders the previews")
    picture = tmp_path / "picture.png"
    printed = run.example("render.py", "--runs", 6, "--size", 128, "--output", picture)

    *lines, summary = printed.splitlines()
    runs = [match for line in lines if (match := RUN.fullmatch(line))]
    assert len(runs) == len(lines) == 6
    with_history = [match for match in runs if int(match["runs"] or 0) >= 3]
    assert [match["number"] for match in with_history] == ["4", "5", "6"]
    assert all(match["interval"] for match in with_history)
    error, average = (median(float(match[name]) for match in with_history) for name in ("error", "average"))
    assert (
        summary == f"after 3 runs: median error at 25 %: estimate {error:.1f}%, average rate {average:.1f}%"
    )
    ends = [float(match["end"]) for match in runs[1:]]  # the first run also loads modules
    spread = 100.0 * (max(ends) - min(ends)) / median(ends)
    assert error < 15.0 + spread
    assert error < average + spread
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    document = run.document("show", "rendering-6")
    assert {path: level["status"] for path, level in levels(document).items()} == {
        f"stage:{name}": "completed" for name in ("queue", "preparation", "execution", "finalisation")
    }
    execution = levels(document)["stage:execution"]
    assert execution["current"] == execution["total"] == 6 + 12 + 24 + 48 + 96
    shown = run("-m", "otel_progress", "show", "rendering-6", "--previews")
    assert re.search(r"mandelbrot stage:execution  128x96 image/png", shown.stdout), (
        shown.stdout + shown.stderr
    )


@pytest.mark.slow
def test_video_pipeline_estimates_opaque_steps_from_history(run: Runner) -> None:
    """In each run the failed stage is started again."""
    printed = run.example("video_pipeline.py", "--runs", 2, "--frames", 24).splitlines()

    assert [line.partition(":")[2].partition(",")[0] for line in printed[::4]] == [" completed", " completed"]
    steps = [match for line in printed if (match := STEP.fullmatch(line))]
    assert [step["name"] for step in steps] == ["encode", "check", "pack"] * 2
    assert [step["basis"] for step in steps] == [
        "expected",
        None,
        None,
        "expected",
        *["estimated from 1 earlier run"] * 2,
    ]
    assert [step["attempt"] for step in steps] == ["2", None, None] * 2
    for before, after in zip(steps[1:3], steps[4:6], strict=True):
        # The history has the duration of the stage, which is almost the duration of the program.
        assert float(after["expected"]) == pytest.approx(float(before["took"]), rel=0.25, abs=0.1)
    ratios = [
        [int(ratio.strip("~%")) for ratio in (step["shown"] or "").split(", ") if ratio] for step in steps
    ]
    assert [bool(shown) for shown in ratios] == [True, False, False, True, True, True]
    assert all(shown == sorted(shown) and max(shown, default=0) <= 99 for shown in ratios)
    document = run.document("show", "video-2")
    assert list(levels(document)) == ["stage:DRAW", "stage:ENCODE", "stage:CHECK", "stage:PACK"]
    assert {level["status"] for level in levels(document).values()} == {"completed"}
    assert (document["status"], document["ratio"], document["estimated"]) == ("completed", 1.0, False)
    assert document["metadata"]["bytes"] > 100_000


WORKERS = 4
"""Threads of the example."""


def count_done(checkpoint: Path) -> int:
    """Return the number of files in a checkpoint."""
    return len(json.loads(checkpoint.read_text(encoding="utf-8")))


def release(pipes: list[Path]) -> None:
    """Unblock the readers of pipes."""
    for path in pipes:
        with suppress(OSError):  # without a reader
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT as a terminal does")
def test_audio_batch_resumes_from_checkpoint_after_interrupt(run: Runner, tmp_path: Path) -> None:
    """Damaged files fail with their errors, the others have less noise."""
    folder = tmp_path / "audio"
    folder.mkdir()
    checkpoint = folder / "done.json"
    blocked = [folder / f"recording-{number:03}.wav" for number in range(100, 100 + WORKERS)]
    for path in blocked:  # a pipe without a writer blocks a worker
        os.mkfifo(path)
    with run.start(EXAMPLES / "audio_batch.py", "--folder", folder) as process:
        try:
            poll(
                lambda: process.poll() is not None or (checkpoint.exists() and count_done(checkpoint) == 100),
                what="the tenth checkpoint",
            )
            process.send_signal(signal.SIGINT)
            poll(lambda: release(blocked) or process.poll() is not None, what="end")
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    for path in blocked:
        path.unlink()
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1].startswith("interrupted; resume with: ")
    (stopped,) = run.document("history")["operations"]
    assert (stopped["status"], stopped["message"], count_done(checkpoint)) == (
        "cancelled",
        "KeyboardInterrupt",
        100,
    )

    first, last = run.example("audio_batch.py", "--folder", folder).splitlines()
    assert first == "resumes from 100 of 500"
    reduced = re.fullmatch(
        r"500 of 500 files, 10 failed, (\d+) denoised in this session, noise reduced by ([\d.]+) dB", last
    )
    assert reduced is not None, last
    assert int(reduced[1]) == 500 - 100 - 8
    assert float(reduced[2]) > 10.0
    document = json.loads(run("-m", "otel_progress", "export", "denoising").stdout)
    assert (document["status"], document["current"], document["failed"], document["message"]) == (
        "completed",
        500,
        8,
        "500 of 500",
    )
    failed = {
        event["name"]: event["error"]["message"]
        for event in document["events"]
        if event["outcome"] == "failed"
    }
    assert failed["recording-499.wav"] == "recording-499.wav has 1478 of 8000 samples"
    assert len(list(folder.glob("*.clean.wav"))) >= 490
    assert not checkpoint.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT as a terminal does")
@pytest.mark.parametrize("name", ["render.py", pytest.param("video_pipeline.py", marks=pytest.mark.slow)])
def test_example_interrupted_is_cancelled_without_traceback(run: Runner, name: str) -> None:
    large = ("--size", 3_000) if name == "render.py" else ("--frames", 1_500)

    def is_running() -> bool:
        done = run("-m", "otel_progress", "ls", "--json")
        return done.returncode == 0 and any(
            operation["ratio"] for operation in json.loads(done.stdout)["operations"]
        )

    # A file that is being opened at the signal is not closed, which is not an error of the example.
    with run.start("-W", "ignore::ResourceWarning", EXAMPLES / name, *large) as process:
        try:
            poll(lambda: process.poll() is not None or is_running(), what="the work")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors.splitlines()[-1]) == (1, "interrupted")
    assert "Traceback" not in errors
    (stopped,) = run.document("history")["operations"]
    assert stopped["status"] == "cancelled"


def test_render_with_invalid_output_is_rejected(run: Runner, tmp_path: Path) -> None:
    for output in (tmp_path / "nowhere" / "picture.png", tmp_path):
        done = run(EXAMPLES / "render.py", "--output", output)
        assert done.returncode == 2
        assert "expected a file in an existing folder" in done.stderr


@pytest.mark.parametrize("name", ["render.py", "video_pipeline.py", "audio_batch.py"])
def test_example_without_numpy_names_installation(run: Runner, name: str) -> None:
    run_example = f"runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    program = f"import runpy, sys; sys.modules['numpy'] = None; {run_example}"
    done = run("-c", program)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"This example \w+ with numpy: pip install numpy\n", done.stderr)
