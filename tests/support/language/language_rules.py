"""Checker of the writing rules in CONTRIBUTING.md. It needs only the standard library.

    python tests/support/language/language_rules.py [PATH ...]    list every finding

A finding is printed as ``file:line: what -> replacement``. Without a path, all files are checked.
The phrases are in ``banned_phrases.csv``: one regular expression and one replacement per line.
Code in backticks, quotations in double quotes, SQL and the list of phrases are exempt.
"""

# ruff: noqa: T201

from __future__ import annotations

import ast
import csv
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
PHRASES_FILE: Final = HERE / "banned_phrases.csv"

BANNED_FUNCTION_NAMES: Final = frozenset(
    ["take", "look", "keep", "show", "tell", "of", "place", "made", "found", "one"]
)
MAX_FIRST_LINE_LENGTH: Final = 80
MAX_PROSE_COLUMNS: Final = 100

ENFORCED: Final = frozenset({"phrase", "function name", "first line"})
"""Kinds of findings that fail the test. The others are advice."""

_CHECKED_FOLDERS: Final = (
    "src",
    "tests",
    "benchmarks",
    "examples",
    "grafana",
    "scripts",
    "deploy",
    "docs",
    ".ci",
    ".github",
)
_EXEMPT_NAMES: Final = frozenset({"language_rules.py", "test_language.py", PHRASES_FILE.name, "LICENSE"})
_EXEMPT_FOLDERS: Final = frozenset({"__pycache__", "node_modules", "golden", "traces", "images"})
_PLAIN_TEXT_SUFFIXES: Final = frozenset({".sh", ".yml", ".yaml", ".toml", ".cfg", ".css", ".txt"})
_SCRIPT_SUFFIXES: Final = frozenset({".js", ".ts", ".mjs", ".jsx"})

_SQL: Final = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA|WITH|BEGIN|COMMIT|ROLLBACK|REPLACE)\b"
)
_SQL_FENCE: Final = re.compile(r"^ *```sql\n.*?^ *```", re.DOTALL | re.MULTILINE)
_CODE: Final = re.compile(r"``[^`]+``|`[^`\n]+`")
_QUOTATION: Final = re.compile(r'(?<!\w)"[^"\n]{1,200}"|“[^”]{1,200}”')
_ODD_OPENING: Final = re.compile(r"(?:What|Whose|Who|How|Where|Whether)\b")
_CODE_IN_SCRIPT: Final = re.compile(
    r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`", re.DOTALL
)
_LABEL_ATTRIBUTES: Final = frozenset({"title", "alt", "placeholder", "aria-label", "content", "value"})


class Finding(NamedTuple):
    """A place that breaks a rule."""

    path: Path
    line: int
    kind: str
    text: str
    replacement: str

    def __str__(self) -> str:
        shown = self.path.relative_to(Path.cwd()) if self.path.is_relative_to(Path.cwd()) else self.path
        note = "" if self.kind in ENFORCED else " (advice)"
        return f"{shown}:{self.line}: {self.kind}: {self.text} -> {self.replacement}{note}"


class Prose(NamedTuple):
    """A piece of text for people, with the line on which it starts."""

    line: int
    text: str


def read_phrases(path: Path = PHRASES_FILE) -> list[tuple[re.Pattern[str], str]]:
    """Read the banned phrases with their replacements.

    A space in a pattern also matches a line break.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (re.compile(row["pattern"].replace(" ", r"\s+"), re.IGNORECASE), row["replacement"]) for row in rows
    ]


_PHRASES: Final = read_phrases()


def find_phrases(path: Path, prose: Prose, *, quotations_exempt: bool = True) -> Iterator[Finding]:
    """Yield the banned phrases of a text. Phrases may span a line break."""
    text = _CODE.sub(_blank, prose.text)
    if quotations_exempt:
        text = _QUOTATION.sub(_blank, text)
    joined = re.sub(r"\n[ \t#*/]*", lambda gap: "\n" + " " * (len(gap[0]) - 1), text)
    for pattern, replacement in _PHRASES:
        for match in pattern.finditer(joined):
            line = prose.line + joined.count("\n", 0, match.start())
            yield Finding(path, line, "phrase", " ".join(match[0].split()), replacement)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "·", match[0])


# --- Python ---------------------------------------------------------------------------------------


def check_python(path: Path, source: str) -> Iterator[Finding]:
    """Yield the findings of a Python file: docstrings, comments, messages and names.

    Messages in tests are not checked.
    """
    nodes = list(ast.walk(ast.parse(source)))
    is_test = "tests" in path.parts and "src" not in path.parts
    docstrings = set()
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not isinstance(node, ast.Module):
                yield from _check_name(path, node)
            if node.body and _is_text(node.body[0]):
                docstrings.add(id(node.body[0].value))
                yield from check_docstring(path, node.body[0].value)
    for comment in _comments(source):
        yield from find_phrases(path, comment)
    for node in nodes:
        if isinstance(node, ast.Expr) and _is_text(node) and id(node.value) not in docstrings:
            docstrings.add(id(node.value))  # the explanation below a constant or a field
            yield from find_phrases(path, Prose(node.lineno, str(node.value.value)))
    if not is_test:
        for node in nodes:
            is_message = (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            )
            if is_message and not _SQL.match(node.value):
                yield from find_phrases(path, Prose(node.lineno, node.value), quotations_exempt=False)
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > MAX_PROSE_COLUMNS and line.lstrip().startswith("#"):
            yield Finding(path, number, "columns", f"{len(line)} columns", f"at most {MAX_PROSE_COLUMNS}")


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


_LIBRARY_HOOK: Final = re.compile(r"on_\w+_begin")
"""Names of methods that scikit-learn, Keras and transformers call."""


def _check_name(path: Path, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    bare = node.name.strip("_")
    if _LIBRARY_HOOK.fullmatch(bare):
        return
    if bare in BANNED_FUNCTION_NAMES and not isinstance(node, ast.ClassDef):
        yield Finding(path, node.lineno, "function name", node.name, "verb + object")
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", bare).replace("_", " ")
    for found in find_phrases(path, Prose(node.lineno, words)):
        yield found._replace(text=f"{found.text} (in the name {node.name})")


def check_docstring(path: Path, node: ast.Constant) -> Iterator[Finding]:
    """Yield the findings of a docstring."""
    text = str(node.value)
    yield from find_phrases(path, Prose(node.lineno, text))
    first, *_ = text.strip().splitlines() or [""]
    if len(first) > MAX_FIRST_LINE_LENGTH:
        yield Finding(
            path, node.lineno, "first line", f"{len(first)} characters", f"at most {MAX_FIRST_LINE_LENGTH}"
        )
    if opening := _ODD_OPENING.match(first):
        yield Finding(path, node.lineno, "opening", opening[0], "a noun phrase or an imperative")
    for offset, line in enumerate(text.splitlines()):
        if ";" in _CODE.sub("", line):
            yield Finding(path, node.lineno + offset, "semicolon", ";", "two sentences")
        if len(line) > MAX_PROSE_COLUMNS:
            found = f"{len(line)} columns"
            yield Finding(path, node.lineno + offset, "columns", found, f"at most {MAX_PROSE_COLUMNS}")


def _comments(source: str) -> Iterator[Prose]:
    """Yield the comments. Comments on consecutive lines are one text."""
    if "#" not in source:
        return
    line, last, words = 0, 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if words and token.start[0] == last + 1:
            words += "\n" + token.string
        else:
            if words:
                yield Prose(line, words)
            line, words = token.start[0], token.string
        last = token.start[0]
    if words:
        yield Prose(line, words)


# --- other files ----------------------------------------------------------------------------------


def check_markdown(path: Path, source: str) -> Iterator[Finding]:
    """Yield the findings of a document."""
    yield from find_phrases(path, Prose(1, _SQL_FENCE.sub(_blank, source)))
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        is_free = fenced or line.startswith("|") or re.fullmatch(r"\s*[-*]?\s*\S+", line)
        if len(line) > MAX_PROSE_COLUMNS and not is_free:
            yield Finding(path, number, "columns", f"{len(line)} columns", f"at most {MAX_PROSE_COLUMNS}")


def check_script(path: Path, source: str) -> Iterator[Finding]:
    """Yield the findings of comments and texts in JavaScript or TypeScript."""
    for match in _CODE_IN_SCRIPT.finditer(source):
        is_comment = match[0].startswith("/")
        text = match[0] if is_comment else match[0][1:-1]
        yield from find_phrases(
            path, Prose(source.count("\n", 0, match.start()) + 1, text), quotations_exempt=is_comment
        )


class _PageText(HTMLParser):
    """Collects the text, the comments and the labels of an HTML page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Prose] = []

    def handle_data(self, data: str) -> None:
        self.found.append(Prose(self.getpos()[0], data))

    def handle_comment(self, data: str) -> None:
        self.found.append(Prose(self.getpos()[0], data))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self.found += [
            Prose(self.getpos()[0], value or "") for name, value in attrs if name in _LABEL_ATTRIBUTES
        ]


def check_page(path: Path, source: str) -> Iterator[Finding]:
    """Yield the findings of an HTML or SVG file."""
    parser = _PageText()
    parser.feed(source)
    for prose in parser.found:
        yield from find_phrases(path, prose, quotations_exempt=False)


def check_plain_text(path: Path, source: str) -> Iterator[Finding]:
    """Yield the findings of a file that is read as a whole, such as YAML, CSS and shell scripts."""
    yield from find_phrases(path, Prose(1, source), quotations_exempt=False)
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > MAX_PROSE_COLUMNS and line.lstrip().startswith("#"):
            yield Finding(path, number, "columns", f"{len(line)} columns", f"at most {MAX_PROSE_COLUMNS}")


# --- files ----------------------------------------------------------------------------------------


def check_file(path: Path) -> list[Finding]:
    """Return the findings of a file in the order of its lines. Unknown file types have none."""
    if path.name in _EXEMPT_NAMES:
        return []
    check = {".py": check_python, ".md": check_markdown, ".html": check_page, ".svg": check_page}.get(
        path.suffix
    )
    if path.suffix in _SCRIPT_SUFFIXES:
        check = check_script
    elif path.suffix in _PLAIN_TEXT_SUFFIXES or path.name in (
        "Dockerfile",
        ".importlinter",
        ".editorconfig",
        ".dockerignore",
    ):
        check = check_plain_text
    elif not path.suffix:
        with path.open("rb") as file:
            shebang = file.readline(80)
        check = (
            check_python if b"python" in shebang else check_plain_text if shebang.startswith(b"#!") else check
        )
    if check is None:
        return []
    return sorted(check(path, path.read_text(encoding="utf-8")), key=lambda found: found.line)


def expand_paths(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files below some paths."""
    for path in paths:
        if path.is_file():
            yield path
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(set(folders) - _EXEMPT_FOLDERS)
            yield from (Path(folder) / name for name in sorted(names))


def project_files(project: Path) -> Iterator[Path]:
    """Yield the files that the rules apply to."""
    yield from expand_paths(project / folder for folder in _CHECKED_FOLDERS)
    yield from sorted(path for path in project.iterdir() if path.is_file())


def main(arguments: list[str]) -> int:
    """Print the findings of the given paths; exit code 1 if any of them is enforced."""
    project = HERE.parents[2]
    missing = [argument for argument in arguments if not Path(argument).exists()]
    if missing or any(argument.startswith("-") for argument in arguments):
        print(
            f"Invalid path {(missing or arguments)[0]}: expected files or folders.\n\n{__doc__}",
            file=sys.stderr,
        )
        return 2
    files = expand_paths(map(Path.resolve, map(Path, arguments))) if arguments else project_files(project)
    findings = [found for path in files for found in check_file(path)]
    for found in findings:
        print(found)
    enforced = sum(found.kind in ENFORCED for found in findings)
    print(f"{enforced} enforced, {len(findings) - enforced} advice")
    return int(enforced > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
