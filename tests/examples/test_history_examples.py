"""The examples that foretell their end: what they print of it, and what the journal, the previews and the checkpoints hold."""

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
    r"run (?P<number>\d+): ended after (?P<end>[\d.]+) s; at 25 % "
    r"(?:no end was predicted|(?P<told>[\d.]+) s(?P<interval> \([\d.]+ to [\d.]+ s\))? was predicted "
    r"from (?P<runs>\d+) earlier runs?, (?P<off>[\d.]+)% off)"
    r"(?:; by the average rate (?P<average>[\d.]+)%)?"
)
STEP = re.compile(
    r"  (?P<name>\w+) +(?:(?P<expected>[\d.]+) s (?P<how>expected|from \d+ earlier runs?)|no estimate), "
    r"took (?P<took>[\d.]+) s(?: at attempt (?P<attempt>\d+))?(?:, shown as (?P<shown>.+))?"
)


@pytest.fixture(autouse=True)
def _needs_numpy() -> None:
    pytest.importorskip("numpy", reason="numpy is not installed: these examples compute with it")


def test_render_learns_when_it_ends(run: Runner, tmp_path: Path) -> None:
    """With three runs behind it the end is foretold with an interval, and far better than by the average pace.

    How good it can be is a matter of how alike the runs were, and on a busy machine they are not: their spread is allowed for. The
    stages of each run are all done, every row of every pass was counted, and the picture was seen before its end.
    """
    pytest.importorskip("PIL", reason="Pillow is not installed: it makes the previews")
    picture = tmp_path / "picture.png"
    printed = run.example("render.py", "--runs", 6, "--size", 128, "--output", picture)

    *lines, summary = printed.splitlines()
    runs = [match for line in lines if (match := RUN.fullmatch(line))]
    assert len(runs) == len(lines) == 6
    learned = [one for one in runs if int(one["runs"] or 0) >= 3]
    assert [one["number"] for one in learned] == ["4", "5", "6"]
    assert all(one["interval"] for one in learned)
    off, average = (median(float(one[name]) for one in learned) for name in ("off", "average"))
    assert (
        summary
        == f"after 3 runs: at 25 % the estimate is {off:.1f}% of the duration off, the average rate {average:.1f}%"
    )
    ends = [float(one["end"]) for one in runs[1:]]  # the first one also loads what the others find loaded
    spread = 100.0 * (max(ends) - min(ends)) / median(ends)
    assert off < 15.0 + spread
    assert off < average + spread
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    found = run.document("show", "rendering-6")
    assert {path: level["status"] for path, level in levels(found).items()} == {
        f"stage:{name}": "completed" for name in ("queue", "preparation", "execution", "finalisation")
    }
    execution = levels(found)["stage:execution"]
    assert execution["current"] == execution["total"] == 6 + 12 + 24 + 48 + 96
    shown = run("-m", "otel_progress", "show", "rendering-6", "--previews")
    assert re.search(r"mandelbrot stage:execution  128x96 image/png", shown.stdout), (
        shown.stdout + shown.stderr
    )


def test_video_pipeline_estimates_what_cannot_report(run: Runner) -> None:
    """The first run knows only what it was told; the second has learned how long checking and packing take.

    In each a frame is mended: the stage that failed is entered once more, and the operation ends with all of its stages done.
    """
    printed = run.example("video_pipeline.py", "--runs", 2, "--frames", 24).splitlines()

    assert [line.partition(":")[2].partition(",")[0] for line in printed[::4]] == [" completed", " completed"]
    steps = [match for line in printed if (match := STEP.fullmatch(line))]
    assert [one["name"] for one in steps] == ["encode", "check", "pack"] * 2
    assert [one["how"] for one in steps] == ["expected", None, None, "expected", *["from 1 earlier run"] * 2]
    assert [one["attempt"] for one in steps] == ["2", None, None] * 2
    for before, after in zip(steps[1:3], steps[4:6], strict=True):
        # What was learned is how long the stage took, of which the program is nearly all.
        assert float(after["expected"]) == pytest.approx(float(before["took"]), rel=0.25, abs=0.1)
    ratios = [[int(one.strip("~%")) for one in (step["shown"] or "").split(", ") if one] for step in steps]
    assert [bool(shown) for shown in ratios] == [True, False, False, True, True, True]
    assert all(shown == sorted(shown) and max(shown, default=0) <= 99 for shown in ratios)
    found = run.document("show", "video-2")
    assert list(levels(found)) == ["stage:DRAW", "stage:ENCODE", "stage:CHECK", "stage:PACK"]
    assert {level["status"] for level in levels(found).values()} == {"completed"}
    assert (found["status"], found["ratio"], found["estimated"]) == ("completed", 1.0, False)
    assert found["metadata"]["bytes"] > 100_000


WORKERS = 4
"""Threads of the example, as it has them."""


def done_in(checkpoint: Path) -> int:
    """Return how many files a checkpoint has."""
    return len(json.loads(checkpoint.read_text(encoding="utf-8")))


def release(pipes: list[Path]) -> None:
    """Let those who read from pipes come to their end."""
    for path in pipes:
        with suppress(OSError):  # nobody reads from this one
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT as a terminal does")
def test_audio_batch_of_five_hundred_goes_on_where_it_was_stopped(run: Runner, tmp_path: Path) -> None:
    """Ctrl-C ends it as cancelled; the next run begins at the last checkpoint and does the rest of all five hundred.

    Damaged files fail with their errors, and the others come out with less noise.
    """
    folder = tmp_path / "audio"
    folder.mkdir()
    checkpoint = folder / "done.json"
    blocked = [folder / f"recording-{number:03}.wav" for number in range(100, 100 + WORKERS)]
    for path in blocked:  # a pipe that nobody writes to: each worker stands still at one
        os.mkfifo(path)
    with run.start(EXAMPLES / "audio_batch.py", "--folder", folder) as process:
        try:
            poll(
                lambda: process.poll() is not None or (checkpoint.exists() and done_in(checkpoint) == 100),
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
    assert (stopped["status"], stopped["message"], done_in(checkpoint)) == (
        "cancelled",
        "KeyboardInterrupt",
        100,
    )

    first, last = run.example("audio_batch.py", "--folder", folder).splitlines()
    assert first == "resumes from 100 of 500"
    lowered = re.fullmatch(
        r"500 of 500 files, 10 failed, (\d+) denoised in this session, noise lower by ([\d.]+) dB", last
    )
    assert lowered is not None, last
    assert int(lowered[1]) == 500 - 100 - 8
    assert float(lowered[2]) > 10.0
    found = json.loads(run("-m", "otel_progress", "export", "denoising").stdout)
    assert (found["status"], found["current"], found["failed"], found["message"]) == (
        "completed",
        500,
        8,
        "500 of 500",
    )
    failed = {
        event["name"]: event["error"]["message"] for event in found["events"] if event["outcome"] == "failed"
    }
    assert failed["recording-499.wav"] == "recording-499.wav has 1478 of 8000 samples"
    assert len(list(folder.glob("*.clean.wav"))) >= 490
    assert not checkpoint.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT as a terminal does")
@pytest.mark.parametrize("name", ["render.py", "video_pipeline.py"])
def test_ctrl_c_ends_the_run_that_is_under_way(run: Runner, name: str) -> None:
    """It stops at once and counts as cancelled, also when another thread does the work; no traceback is shown."""
    large = ("--size", 3_000) if name == "render.py" else ("--frames", 1_500)

    def is_running() -> bool:
        done = run("-m", "otel_progress", "ls", "--json")
        return done.returncode == 0 and any(one["ratio"] for one in json.loads(done.stdout)["operations"])

    # Where the signal comes while a file is being opened nobody closes it, which is no fault of the example.
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


def test_render_refuses_a_place_it_could_not_write_to(run: Runner, tmp_path: Path) -> None:
    """A picture that could not be kept is told before it is rendered."""
    for place in (tmp_path / "nowhere" / "picture.png", tmp_path):
        done = run(EXAMPLES / "render.py", "--output", place)
        assert done.returncode == 2
        assert "expected --output to name a file in a folder that is there" in done.stderr


@pytest.mark.parametrize("name", ["render.py", "video_pipeline.py", "audio_batch.py"])
def test_without_numpy_they_say_what_to_install(run: Runner, name: str) -> None:
    """One line on stderr and exit code 1 instead of a traceback."""
    program = f"import runpy, sys; sys.modules['numpy'] = None; runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    done = run("-c", program)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"This example \w+ with numpy: pip install numpy\n", done.stderr)
