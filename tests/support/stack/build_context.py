"""The Docker build context and the instructions of the Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.support.stack.files import DEPLOY, PROJECT


@dataclass(frozen=True)
class Instruction:
    """One instruction of the Dockerfile with its arguments."""

    stage: str
    name: str
    arguments: str


def instructions() -> Iterator[Instruction]:
    """Yield the instructions in order."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    stage = ""
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            stage = arguments.rpartition(" AS ")[2]
        yield Instruction(stage, name, re.sub(r"\s+", " ", arguments).strip())


def sent(path: str) -> bool:
    """Return whether a file is in the context.

    The last pattern that matches it or a parent folder decides.
    """
    allowed = True
    for pattern in (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        excludes = not pattern.startswith("!")
        if _matches(path, pattern.lstrip("!")):
            allowed = not excludes
    return allowed


def _matches(path: str, pattern: str) -> bool:
    parts = PurePosixPath(path).parts
    expression = _expression(pattern)
    return any(expression.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1))


def _expression(pattern: str) -> re.Pattern[str]:
    """Return a pattern of .dockerignore as a regular expression.

    ``**/`` is any number of folders, ``*`` contains no slash.
    """
    made = (
        re.escape(pattern)
        .replace(r"\*\*/", "(?:.*/)?")
        .replace(r"\*", "[^/]*")
        .replace(r"\[", "[")
        .replace(r"\]", "]")
    )
    return re.compile(made)


def copied(source: str) -> Iterator[Path]:
    """Yield the files that a COPY of a path of the context copies into the image."""
    found = PROJECT / source
    for path in [found] if found.is_file() else sorted(found.rglob("*")):
        if path.is_file() and sent(path.relative_to(PROJECT).as_posix()):
            yield path
