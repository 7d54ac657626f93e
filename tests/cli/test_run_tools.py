"""Real tools below ``otel-progress run``: progress from what they print."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from otel_progress.model import Status
from tests.support.command_line import TIMEOUT_S
from tests.support.command_runs import CommandRuns

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="commands run on POSIX systems"),
]


@pytest.fixture
def runs(tmp_path: Path) -> CommandRuns:
    """Runs with a journal of their own."""
    return CommandRuns(tmp_path)


def require_tool(name: str) -> None:
    """Skip the test if a tool is not installed."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


def test_git_clone_has_a_level_per_phase(runs: CommandRuns) -> None:
    require_tool("git")
    source = runs.folder / "source"
    source.mkdir()
    for number in range(30):
        (source / f"{number}.txt").write_text(f"{number}\n" * 50)
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "files"]):
        subprocess.run([*git, *command], cwd=source, timeout=TIMEOUT_S, check=True, capture_output=True)
    result = runs.run("--", "git", "clone", "--no-local", "--progress", str(source), "copy")
    levels = {level.info.name: level for level in runs.get().levels}
    assert result.returncode == 0, result.stderr
    assert b"Receiving objects" in result.stderr
    receiving = levels["Receiving objects"]
    assert (receiving.status, receiving.current, receiving.total) == (Status.COMPLETED, 32, 32)


def test_rsync_has_its_percentage(runs: CommandRuns) -> None:
    require_tool("rsync")
    source = runs.folder / "source"
    source.mkdir()
    for number in range(10):
        (source / str(number)).write_bytes(os.urandom(100_000))
    result = runs.run("--", "rsync", "-a", "--info=progress2", f"{source}/", "copy/")
    root = runs.get().root
    assert result.returncode == 0, result.stderr
    assert (root.status, root.current, root.total) == (Status.COMPLETED, 100, 100)
    assert "10 files" in (root.message or "")


def test_ffmpeg_has_its_seconds(runs: CommandRuns) -> None:
    require_tool("ffmpeg")
    source = ["-f", "lavfi", "-i", "testsrc=duration=2:size=64x48:rate=10"]
    create = ["ffmpeg", "-v", "error", "-nostdin", *source, "-y", "in.mkv"]
    subprocess.run(create, cwd=runs.folder, timeout=TIMEOUT_S, check=True)
    convert = ["ffmpeg", "-nostdin", "-i", "in.mkv", "-progress", "pipe:1", "-nostats", "-y", "out.mkv"]
    result = runs.run("--parse", "ffmpeg", "--", *convert)
    root = runs.get().root
    assert result.returncode == 0, result.stderr
    assert (root.status, root.current, root.total, root.info.unit) == (Status.COMPLETED, 2.0, 2.0, "s")
