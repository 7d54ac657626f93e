"""Code blocks of the documents: every block is run, and its output is compared."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, Program, blocks, excused, programs
from tests.support.programs import PROGRAMS
from tests.support.servers import free_port, require

pytestmark = pytest.mark.docs

RUNNER = PROGRAMS / "run_document.py"
PROGRAMS = list(programs())
SLOW = {
    "celery.md",
    "fastapi.md",
    "gunicorn.md",
    "rq.md",
    "several-machines.md",
    "signals.md",
    "training.md",
    "tuning.md",
}
"""Documents whose programs start services. The same services are tested without documents, too."""
WARNING_LIBRARIES = {"training.md"}
"""Documents whose libraries warn, which is not an error there."""
PORTS = ("9464", "7764", "8000", "6379", "4318")
"""Ports in the documents. They are replaced by free ports, because another process may use them."""

SLEEP_FACTOR = 4
"""Factor for `sleep` in shell blocks, because a program starts slowly on a loaded machine."""

FORK_IS_MEANT = "ignore:This process:DeprecationWarning"
"""Python 3.12 and newer warn about every fork of a process with threads. A guide forks on purpose.
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without settings, with a state directory and ``otel-progress``."""
    beside = tmp_path / "bin"
    beside.mkdir()
    command = beside / "otel-progress"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m otel_progress "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    found = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    path = f"{beside}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
    here = {"PATH": path, "XDG_STATE_HOME": str(tmp_path / "state"), "no_proxy": "*"}
    return found | here | {"PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="the shell blocks are for bash")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, marks=pytest.mark.slow if program.document.name in SLOW else ())
        for program in PROGRAMS
    ],
    ids=lambda program: program.name,
)
def test_program_blocks_run_and_print_expected_output(
    program: Program, environ: dict[str, str], tmp_path: Path
) -> None:
    """Blocks run in order without an error and print the text block after them."""
    if any("curl " in block.text for block in program.blocks):
        require("curl")
    if any("redis-server " in block.text for block in program.blocks):
        require("redis-server")
    _compile(program)
    if any(importlib.util.find_spec(module) is None for module in program.needs):
        return  # Without the library, compiling is all that can be checked.
    name, free = str(program.document), {port: str(free_port()) for port in PORTS}
    given = [
        {
            "language": block.language,
            "text": _with_longer_sleeps(_with_ports(block.text, free)),
            "line": block.line,
            "name": name,
            "file": block.file,
        }
        for block in program.blocks
    ]
    is_strict = program.document.name not in WARNING_LIBRARIES
    options = ["-W", "error", "-W", FORK_IS_MEANT] if is_strict else []
    command = [sys.executable, *options, str(RUNNER)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        command, **pipes, encoding="utf-8", env=environ, cwd=tmp_path, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(json.dumps(given), timeout=120)
        finally:  # Why: programs that shell blocks started in the background end here.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    for block, printed in zip(program.blocks, json.loads(output), strict=True):
        if block.prints is not None:
            pattern = ".*?".join(map(re.escape, _with_ports(block.prints, free).rstrip().split("…")))
            assert re.fullmatch(pattern, printed.rstrip(), re.DOTALL), (
                f"{program.name}, line {block.line} prints:\n{printed}"
            )


def _compile(program: Program) -> None:
    for block in program.blocks:
        if block.language == "python":
            compile("\n" * (block.line - 1) + block.text, str(program.document), "exec")


def _with_ports(text: str, free: dict[str, str]) -> str:
    # Why one substitution: a free port may contain the digits of another.
    return re.sub("|".join(free), lambda found: free[found[0]], text)


def _with_longer_sleeps(text: str) -> str:
    return re.sub(
        r"^sleep (\d+)$", lambda found: f"sleep {SLEEP_FACTOR * int(found[1])}", text, flags=re.MULTILINE
    )


@pytest.mark.parametrize("language", ["js", "jsx"])
def test_javascript_blocks_parse_as_modules(language: str, tmp_path: Path) -> None:
    """JavaScript parses as a module. Of JSX blocks, only the imports are checked."""
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.language != language:
                continue
            imports = "\n".join(line for line in block.text.splitlines() if line.startswith("import "))
            source = tmp_path / f"line_{block.line}.mjs"
            source.write_text(block.text if language == "js" else imports, encoding="utf-8")
            done = subprocess.run(
                [require("node"), "--check", str(source)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{document.name}, line {block.line}: {done.stderr}"


def test_programs_of_main_documents_are_found() -> None:
    """The README, the tutorial and the how-to guides have code that is run."""
    assert {program.document.name for program in PROGRAMS} >= {"README.md", "tutorial.md", "loops.md"}


def test_blocks_that_are_not_run_have_a_reason() -> None:
    """The reason is a sentence."""
    unexplained = [place for place, block in excused() if len((block.reason or "").split()) < 3]
    assert unexplained == []
