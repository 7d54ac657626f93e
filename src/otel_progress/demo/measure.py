"""Measures of a Python source file: size, functions, complexity, documentation."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
import warnings
from dataclasses import dataclass, field
from typing import Final, TypeAlias

ERRORS: Final = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, tokenize.TokenError)
"""Exceptions of :func:`measure_source` for files that do not compile. Causes include null bytes,
unknown encodings and deep nesting.
"""


MIN_COPY_LINES: Final = 8
"""Shortest function that can be a copy. Shorter functions are often equal by chance."""


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
    """Function or method.

    ``complexity`` is McCabe's (1976): 1 plus the number of decisions.
    ``shape`` is a digest of the syntax tree without positions, None for short functions. It is
    equal for copies that differ only in comments, layout and quotes.
    """

    name: str
    line: int
    lines: int
    complexity: int
    shape: bytes | None


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures of one file.

    ``size`` is in bytes. ``imports`` are the top-level names of absolute imports. ``documentable``
    counts the module, unless it is empty, and its public classes, functions and methods.
    ``documented`` counts those with a docstring.
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
    """Return the measures of the source ``data``.

    Executes nothing. ``name`` is the file name in errors. Raises one of :data:`ERRORS`.
    """
    with warnings.catch_warnings():
        # Why: warnings about surveyed files, such as invalid escapes, do not concern this program.
        warnings.simplefilter("ignore")
        tree = ast.parse(data, name)
        tally = _tally_module(tree)
        # Only the compiler finds some errors: 'return' outside a function, late 'from __future__'.
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
    """Count the definitions and imports of a module."""
    # Why no recursion: sources can nest deeper than the stack of the interpreter.
    tally = _Tally()
    _count_docstring(module, tally, public=bool(module.body))
    pending: list[tuple[ast.AST, str, bool]] = [(child, "", True) for child in module.body]
    while pending:
        node, prefix, public = pending.pop()
        if isinstance(node, ast.expr):
            continue
        if isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
            public = public and not node.name.startswith("_")
            _count_docstring(node, tally, public=public)
            if isinstance(node, ast.ClassDef):
                tally.classes += 1
            else:
                tally.functions.append(_measure_function(node, f"{prefix}{node.name}"))
                public = False
            prefix = f"{prefix}{node.name}."
        elif isinstance(node, ast.Import):
            tally.imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            tally.imports.add(node.module.partition(".")[0])
        pending.extend((child, prefix, public) for child in ast.iter_child_nodes(node))
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
    """Count the decisions of a function, without the functions inside it."""
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
    """Return the number of lines, of code lines and of comment lines.

    Docstrings are code lines.
    """
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
