"""Rules of the test suite: location of helpers, allowed imports and markers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).resolve().parents[1]
SUPPORT: Final = "tests.support"
BUILT_IN: Final = {"parametrize", "skip", "skipif", "usefixtures", "xfail", "filterwarnings"}
FILES: Final = sorted(TESTS.rglob("*.py"))
MODULES: Final = {path.stem for path in FILES if not path.is_relative_to(TESTS / "support")} - {"__init__"}
"""Names of test modules. A test could import them from its own folder."""


def name_of(path: Path) -> str:
    """Return the path of a test file within the folder of the tests."""
    return path.relative_to(TESTS).as_posix()


@lru_cache(maxsize=1)
def read_files() -> dict[str, tuple[list[str], set[str]]]:
    """Return forbidden imports and markers of each file by its path within the tests."""
    # Why not the trees: their objects would slow down every later garbage collection.
    found = {}
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name_of(path)] = forbidden(tree), markers(tree)
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full names that a file imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden(tree: ast.Module) -> list[str]:
    """Return the imports of test modules other than ``tests.support``."""
    found = []
    for name in imported(tree):
        first, _, rest = name.partition(".")
        of_tests = first in ("", "tests") and not f"{name}.".startswith(f"{SUPPORT}.")
        if of_tests or first in MODULES or "conftest" in rest.split("."):
            found.append(name)
    return found


def markers(tree: ast.Module) -> set[str]:
    """Return the names used as ``pytest.mark.NAME``."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "mark"
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "pytest"
    }


def test_files_of_tests_import_no_other_test() -> None:
    """Tests, fixtures and helpers import only ``tests.support`` from the tests."""
    found = {name: names for name, (names, _) in read_files().items() if names}
    assert found == {}
    assert len(read_files()) > 200


@pytest.mark.parametrize(
    "source",
    [
        "from tests.server.test_middleware import scope",
        "from tests import conftest",
        "from tests.server import test_middleware",
        "import tests.conftest",
        "from test_middleware import scope",
        "import test_middleware",
        "from . import helper",
        "from .helper import name",
        "def function():\n    from tests.supportive import name",
    ],
)
def test_forbidden_with_import_of_a_test_finds_it(source: str) -> None:
    """Each way to import another test is found."""
    assert len(forbidden(ast.parse(source))) == 1


def test_files_outside_support_have_no_helpers() -> None:
    """Outside of ``tests/support`` are only tests, fixtures and one ``__init__.py``."""
    others = {
        name_of(path)
        for path in FILES
        if not path.is_relative_to(TESTS / "support")
        and not path.name.startswith("test_")
        and path.name != "conftest.py"
    }
    assert others == {"__init__.py"}
    assert not [
        name_of(path)
        for path in (TESTS / "support").rglob("*.py")
        if path.name.startswith(("test_", "conftest"))
    ]


def test_markers_in_use_are_registered(pytestconfig: pytest.Config) -> None:
    """All markers of pyproject.toml except ``slow`` are used."""
    registered = {line.partition(":")[0].partition("(")[0] for line in pytestconfig.getini("markers")}
    used = set().union(*(names for _, names in read_files().values()))
    assert used - BUILT_IN <= registered
    assert {"process", "browser", "server", "stack", "docs"} <= used
    assert markers(ast.parse("@pytest.mark.surprise\ndef test(): ...")) == {"surprise"}
