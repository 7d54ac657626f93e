"""Fenced blocks of the documents as programs, and their links.

A Python block that imports otel_progress starts a program. The Python and shell blocks after it
continue the program, up to the next such block. A text block right after one of them is its
expected output, with ``…`` for varying parts. ``<!-- not run: REASON -->`` before a block excludes
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = sorted(
    [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *(PROJECT / "docs").rglob("*.md")]
)
_BLOCK: Final = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_BEGINS: Final = re.compile(r"^import otel_progress\b", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: language, text, line, reason to skip it, expected output."""

    language: str
    text: str
    line: int
    reason: str | None
    prints: str | None


@dataclass(frozen=True)
class Program:
    """Blocks of one document that run one after the other in one process."""

    document: Path
    blocks: list[Block] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Location of the first block."""
        return f"{self.document.relative_to(PROJECT).as_posix()}:{self.blocks[0].line}"


def blocks(document: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a document.

    A text block is part of the one it follows.
    """
    text = document.read_text(encoding="utf-8")
    matches = list(_BLOCK.finditer(text))
    for number, match in enumerate(matches):
        after = matches[number + 1] if number + 1 < len(matches) else None
        answered = (
            after is not None
            and after["language"] == "text"
            and not text[match.end() : after.start()].strip()
        )
        line = text.count("\n", 0, match.start("text")) + 1
        yield Block(
            match["language"],
            match["text"],
            line,
            match["reason"],
            after["text"] if answered and after else None,
        )


def programs() -> Iterator[Program]:
    """Yield all programs of the documents."""
    for document in DOCUMENTS:
        program: Program | None = None
        for block in blocks(document):
            if block.language not in ("python", "sh") or block.reason:
                continue
            if program is None or (block.language == "python" and _BEGINS.search(block.text)):
                if program is not None:
                    yield program
                program = Program(document)
            program.blocks.append(block)
        if program is not None:
            yield program


def excused() -> Iterator[tuple[str, Block]]:
    """Yield (location, block) of everything that could run but does not."""
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.reason:
                yield f"{document.relative_to(PROJECT).as_posix()}:{block.line}", block


def links(document: Path) -> Iterator[str]:
    """Yield the targets of local links and pictures of a document, outside of code."""
    text = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", document.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, in GitHub's format."""
    text = _BLOCK.sub("", document.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found
