"""Run the blocks of one program: JSON on stdin, their outputs as JSON on stdout.

Shell blocks run in parallel to the program, like in a second terminal, after all earlier data was
flushed.
"""

from __future__ import annotations

import io
import json
import linecache
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    """Run all blocks; stop at the first that fails."""
    given = json.load(sys.stdin)
    module = ModuleType("__main__")
    sys.modules["__main__"] = module  # decorators and pickles look names up there
    printed = [run(module, block) for block in given]
    sys.stdout.write(json.dumps(printed))


def run(module: ModuleType, block: dict[str, Any]) -> str:
    """Write the block to its file, or run it; return what it printed."""
    if block["file"]:
        Path(block["file"]).write_text(block["text"], encoding="utf-8")
        return ""
    return python(module, block) if block["language"] == "python" else shell(block)


def python(module: ModuleType, block: dict[str, Any]) -> str:
    """Run Python code and return its output.

    Tracebacks show the lines of the document.
    """
    source = "\n" * (block["line"] - 1) + block["text"]
    linecache.cache[block["name"]] = (len(source), None, source.splitlines(True), block["name"])
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(source, block["name"], "exec"), module.__dict__)
    return out.getvalue()


def shell(block: dict[str, Any]) -> str:
    """Run shell commands and return their output.

    A command that fails ends the program with an error.
    """
    from otel_progress.config import current_runtime

    runtime = current_runtime()
    if runtime is not None:
        runtime.force_flush()
    try:
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", block["text"]],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        printed = b"\n".join(text for text in (error.stdout, error.stderr) if isinstance(text, bytes))
        msg = f"{block['name']}:{block['line']} takes more than 60 s:\n{printed.decode(errors='replace')}"
        raise SystemExit(msg) from None
    if done.returncode:
        msg = f"{block['name']}:{block['line']} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        raise SystemExit(msg)
    return done.stdout


if __name__ == "__main__":
    main()
