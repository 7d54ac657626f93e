"""The command ``python -m benchmarks [NAME ...]``.

It runs benchmarks at the root of the repository, each in its own process, and prints tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.catalogue import BENCHMARKS, find
from benchmarks.report import document, with_summary
from benchmarks.rounds import Effort
from benchmarks.setting import clear_environment
from benchmarks.table import Row, text

PAGE: Final = Path("docs/benchmarks.md")
README: Final = Path("README.md")
EFFORTS: Final = {
    "full": Effort(),
    "quick": Effort(share=0.2, rounds=5),
    "tiny": Effort(share=0.001, rounds=1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks and print tables. The exit code is 1 if a target was missed."""
    options = _options(arguments)
    clear_environment()
    if options.here:
        for row in find(options.names[0]).run(EFFORTS[options.effort]):
            _say(json.dumps(asdict(row)))
        return 0
    names = options.names or [benchmark.name for benchmark in BENCHMARKS]
    results: dict[str, list[Row]] = {}
    for name in names:
        results[name] = _in_a_process(name, options.effort)
        if not options.write:
            _say(f"{find(name).title} ({name})\n{text(results[name])}\n")
    if options.write:
        page = document(results)
        PAGE.write_text(page, encoding="utf-8")
        README.write_text(with_summary(README.read_text(encoding="utf-8"), page), encoding="utf-8")
    return int(any(row.met == "NO" for rows in results.values() for row in rows))


def _say(lines: str) -> None:
    sys.stdout.write(lines + "\n")
    sys.stdout.flush()


def _in_a_process(name: str, effort: str) -> list[Row]:
    """Run one benchmark in its own process. Its warnings go to the terminal."""
    command = [sys.executable, "-m", "benchmarks", "--here", "--effort", effort, name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Row(**json.loads(line)) for line in output.splitlines()]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all when none is given: {', '.join(known)}"
    )
    parser.add_argument(
        "--effort", choices=EFFORTS, default="full", help="full takes minutes, tiny seconds and says nothing"
    )
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks.md and the summary in README.md; runs all"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.write and options.names:
        parser.error("--write runs all benchmarks; leave out the names")
    for name in options.names:
        if name not in known:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
