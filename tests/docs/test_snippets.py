"""What the documents show is what happens: every block of code is run, and what it should print is compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import Program, excused, programs
from tests.servers import free_port

RUNNER = Path(__file__).with_name("run_program.py")
PROGRAMS = list(programs())
PORT = "9464"
"""The port the documents use; another process may have it, so a free one is put in its place."""

FORK_IS_MEANT = "ignore:This process:DeprecationWarning"
"""Python 3.12 and newer warn of every fork of a process with threads; the guide shows one on purpose."""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without settings, with a state directory of its own, and with the command ``otel-progress`` on the PATH."""
    beside = tmp_path / "bin"
    beside.mkdir()
    command = beside / "otel-progress"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m otel_progress "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    found = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    path = f"{beside}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
    return found | {"PATH": path, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="the shell blocks are for bash")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_blocks_run_and_print_what_is_shown(program: Program, environ: dict[str, str], tmp_path: Path) -> None:
    """The blocks of a program run in order without an error, and print what the text after them shows."""
    if shutil.which("curl") is None and any("curl " in block.text for block in program.blocks):
        pytest.skip("there is no curl")
    name, port = str(program.document), str(free_port())
    given = [
        {"language": block.language, "text": block.text.replace(PORT, port), "line": block.line, "name": name}
        for block in program.blocks
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", FORK_IS_MEANT, str(RUNNER)],
        input=json.dumps(given),
        capture_output=True,
        encoding="utf-8",
        env=environ,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for block, printed in zip(program.blocks, json.loads(done.stdout), strict=True):
        if block.prints is not None:
            pattern = ".*?".join(map(re.escape, block.prints.rstrip().split("…")))
            assert re.fullmatch(pattern, printed.rstrip(), re.DOTALL), f"{program.name}, line {block.line} prints:\n{printed}"


def test_there_is_something_to_run() -> None:
    """The blocks are really found: the README and the guide have code that is run."""
    assert {program.document.name for program in PROGRAMS} >= {"README.md", "guide.md"}


def test_every_exception_is_explained() -> None:
    """A block that is not run says why, in a sentence."""
    unexplained = [place for place, block in excused() if len((block.reason or "").split()) < 3]
    assert unexplained == []
