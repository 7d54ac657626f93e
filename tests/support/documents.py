"""Documents of the project: fenced blocks as programs, and links.

A Python block with ``import otel_progress`` starts a program. The Python and shell blocks after it
continue the program, up to the next such block. A text block directly after a block is its expected
output, with ``…`` for text that varies.

A comment directly before a block changes how it is run:

- ``<!-- not run: REASON -->``: the block is not run.
- ``<!-- file: NAME -->``: the block is written to the file NAME of the working folder, for the
  blocks that follow. A Python file that imports otel_progress starts a program too, unless only
  files precede it in the current one.
- ``<!-- needs: MODULE, MODULE -->``: the program runs only where these modules are installed.
  Elsewhere it is only compiled.
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
    r"^(?P<comments>(?:<!-- (?:not run|file|needs): [^\n]+? -->\n)*)(?P<indent> *)```(?P<language>\w*)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_COMMENT: Final = re.compile(r"<!-- (not run|file|needs): (.+?) -->")
_STARTS: Final = re.compile(r"^(?:import otel_progress|from otel_progress)\b", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, with its line and the comments before it."""

    language: str
    text: str
    line: int
    reason: str | None
    prints: str | None
    file: str | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """Blocks of one document that are run in order, in one process."""

    document: Path
    blocks: list[Block] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Document and line of the first block."""
        return f"{self.document.relative_to(PROJECT).as_posix()}:{self.blocks[0].line}"

    @property
    def needs(self) -> set[str]:
        """Modules that must be installed to run the program."""
        return {module for block in self.blocks for module in block.needs}


def blocks(document: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a document.

    A text block belongs to the block before it.
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
        comments = dict(_COMMENT.findall(match["comments"]))
        yield Block(
            match["language"],
            match["text"],
            line,
            comments.get("not run"),
            after["text"] if answered and after else None,
            comments.get("file"),
            tuple(name.strip() for name in comments.get("needs", "").split(",") if name.strip()),
        )


def programs() -> Iterator[Program]:
    """Yield the programs of all documents."""
    for document in DOCUMENTS:
        program: Program | None = None
        for block in blocks(document):
            if block.reason or (block.language not in ("python", "sh") and block.file is None):
                continue
            if program is None or (
                _starts_program(block) and not (block.file and all(each.file for each in program.blocks))
            ):
                if program is not None:
                    yield program
                program = Program(document)
            program.blocks.append(block)
        if program is not None:
            yield program


def _starts_program(block: Block) -> bool:
    if block.language != "python":
        return False
    return bool(
        re.search(r"^import otel_progress\b", block.text, re.MULTILINE)
        or (block.file and _STARTS.search(block.text))
    )


def excused() -> Iterator[tuple[str, Block]]:
    """Yield (place, block) of each block that is not run."""
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.reason:
                yield f"{document.relative_to(PROJECT).as_posix()}:{block.line}", block


def links(document: Path) -> Iterator[str]:
    """Yield the local targets of a document's links and pictures, outside of code."""
    text = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", document.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, formed as GitHub forms them."""
    text = _BLOCK.sub("", document.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found
