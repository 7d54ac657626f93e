"""Examines one Python source: what it holds, how branched it is, and whether it compiles. Nothing of it is executed."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
import warnings
from dataclasses import dataclass, field
from typing import Final, TypeAlias

ERRORS: Final = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, tokenize.TokenError)
"""What a source that is not a Python program makes :func:`measure` raise: also null bytes, unknown encodings, endless nesting."""


MIN_COPY_LINES: Final = 8
"""Functions of fewer lines are too alike by nature to be called copies."""


_Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


_BRANCHES: Final = frozenset(
    {
        ast.If,
        ast.IfExp,
        ast.For,
        ast.AsyncFor,
        ast.While,
        ast.ExceptHandler,
        ast.comprehension,
        ast.match_case,
        ast.Assert,
    }
)


_WITHOUT_LINE: Final = frozenset({tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER})


_LAYOUT: Final = _WITHOUT_LINE | {tokenize.NL, tokenize.NEWLINE}


@dataclass(frozen=True, slots=True)
class Function:
    """One function or method. ``complexity`` is McCabe's (1976): one, and one more for each decision.

    ``shape`` is a digest of its syntax tree without positions (None for short ones): equal for copies that differ only in
    comments, layout and quotes.
    """

    name: str
    line: int
    lines: int
    complexity: int
    shape: bytes | None


@dataclass(frozen=True, slots=True)
class Measures:
    """What one file comes to.

    ``size`` is in bytes; ``imports`` are the top-level names of absolute imports; ``documentable`` counts the module, if it has
    anything in it, and its public classes, functions and methods, ``documented`` those of them that have a docstring.
    """

    size: int
    sha256: str
    lines: int
    code_lines: int
    comment_lines: int
    classes: int
    functions: tuple[Function, ...]
    imports: frozenset[str]
    documentable: int
    documented: int


@dataclass(slots=True)
class _Tally:
    classes: int = 0
    functions: list[Function] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    documentable: int = 0
    documented: int = 0


def measure_source(data: bytes, name: str) -> Measures:
    """Return the measures of the source ``data``; ``name`` stands in error texts. Raises one of :data:`ERRORS`."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # an invalid escape in a file under examination is not the examiner's warning
        tree = ast.parse(data, name)
        tally = _tally_module(tree)
        # Some mistakes only the compiler sees: 'return' outside a function, a late 'from __future__'.
        compile(tree, name, "exec", dont_inherit=True)
    lines, code, comments = _count_lines(data)
    digest = hashlib.sha256(data).hexdigest()
    return Measures(
        len(data),
        digest,
        lines,
        code,
        comments,
        tally.classes,
        tuple(tally.functions),
        frozenset(tally.imports),
        tally.documentable,
        tally.documented,
    )


def _tally_module(module: ast.Module) -> _Tally:
    """Go through every statement once, with what stands before its name and whether users of the module see it.

    A list of what is still to do instead of recursion: sources nest deeper than the interpreter's stack.
    """
    tally = _Tally()
    _count_docstring(module, tally, public=bool(module.body))
    pending: list[tuple[ast.AST, str, bool]] = [(child, "", True) for child in module.body]
    while pending:
        node, before, public = pending.pop()
        if isinstance(node, ast.expr):
            continue
        if isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
            public = public and not node.name.startswith("_")
            _count_docstring(node, tally, public=public)
            if isinstance(node, ast.ClassDef):
                tally.classes += 1
            else:
                tally.functions.append(_measure_function(node, f"{before}{node.name}"))
                public = False
            before = f"{before}{node.name}."
        elif isinstance(node, ast.Import):
            tally.imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            tally.imports.add(node.module.partition(".")[0])
        pending.extend((child, before, public) for child in ast.iter_child_nodes(node))
    return tally


def _count_docstring(node: ast.Module | ast.ClassDef | _Function, tally: _Tally, *, public: bool) -> None:
    if public:
        tally.documentable += 1
        tally.documented += ast.get_docstring(node, clean=False) is not None


def _measure_function(node: _Function, name: str) -> Function:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    shape = None
    if lines >= MIN_COPY_LINES:
        shape = hashlib.blake2b(ast.dump(node).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return Function(name, node.lineno, lines, 1 + _count_decisions(node), shape)


def _count_decisions(function: _Function) -> int:
    """Count what decides in a function, leaving out functions inside it, which count for themselves."""
    decisions = 0
    pending: list[ast.AST] = list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        kind = type(node)
        if kind in _FUNCTIONS:
            continue
        if kind in _BRANCHES:
            decisions += 1
        if isinstance(node, ast.BoolOp):
            decisions += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            decisions += len(node.ifs)
        pending.extend(ast.iter_child_nodes(node))
    return decisions


def _count_lines(data: bytes) -> tuple[int, int, int]:
    """Return how many lines there are, how many have code (docstrings too), and how many only a comment."""
    code: set[int] = set()
    comments: set[int] = set()
    last = 0
    for kind, _, (start, _), (end, _), _ in tokenize.tokenize(io.BytesIO(data).readline):
        if kind == tokenize.COMMENT:
            comments.add(start)
        elif kind not in _LAYOUT:
            code.update(range(start, end + 1))
        if kind not in _WITHOUT_LINE:
            last = end
    return last, len(code), len(comments - code)
