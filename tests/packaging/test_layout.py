"""Import rules that import-linter cannot express.

import-linter treats ``opentelemetry`` as one package, but the API and the SDK differ. A contract of
layers also permits a cycle between a package and its own modules.
"""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "otel_progress"
SDK = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")
MAY_IMPORT_THE_SDK = (
    "integrations",
    "otlp",
    "processor",
    "receivers.protobuf",
    "runtime.providers",
    "sampling",
    "server",
    "testing",
)
UNSTABLE = ("opentelemetry._logs", "opentelemetry.sdk._logs")
SHIM = "otlp/sdk_compat.py"


def modules() -> list[str]:
    """Return all source files of the package, relative to it."""
    return sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def dotted(module: str) -> str:
    """Return the import name of a source file without the name of the package."""
    return module.removesuffix(".py").replace("/", ".")


def imports(node: ast.AST) -> Iterator[str]:
    """Yield all imports, also inside functions, but not those for type checking only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for otherwise in child.orelse:
                yield from imports(otherwise)
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child)


def imported(module: str) -> set[str]:
    """Return the run-time imports of a source file."""
    return set(imports(ast.parse((SOURCE / module).read_bytes())))


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Return whether a module is one of some packages or below one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("module", [m for m in modules() if not is_within(dotted(m), MAY_IMPORT_THE_SDK)])
def test_modules_except_adapters_do_not_import_the_sdk(module: str) -> None:
    """Instrumentation, live state, journal and readers need the API only."""
    assert [name for name in imported(module) if is_within(name, SDK)] == []


@pytest.mark.parametrize("module", [m for m in modules() if m != SHIM])
def test_unstable_logs_api_is_imported_by_one_file(module: str) -> None:
    """The underscore modules of the logs API still change."""
    assert [name for name in imported(module) if is_within(name, UNSTABLE)] == []


def test_allowed_files_import_the_sdk_and_logs_api() -> None:
    """The allowed files use their permission, so the tests above can fail."""
    assert any(is_within(name, SDK) for name in imported("processor.py"))
    assert any(is_within(name, UNSTABLE) for name in imported(SHIM))


def find_imported_modules(path: Path, known: set[str]) -> set[str]:
    """Return the modules of the package that a file imports, also for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            children = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [child if child in known else node.module for child in children]
        found |= {name for name in names if name in known}
    return found


def test_modules_with_all_their_imports_have_no_cycle() -> None:
    """Imports in functions, for types, and of a package's own modules are included."""
    paths = {
        dotted(f"otel_progress/{module}").removesuffix(".__init__"): SOURCE / module for module in modules()
    }
    known = set(paths)
    graph = {name: find_imported_modules(path, known) - {name} for name, path in paths.items()}
    assert sum(map(len, graph.values())) > 1_000
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_packages_with_modules_have_layers() -> None:
    """import-linter checks the imports within each package."""
    packages = {
        ".".join(("otel_progress", *path.parent.relative_to(SOURCE).parts))
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"
    }
    rules = configparser.ConfigParser()
    rules.read(SOURCE.parents[1] / ".importlinter", encoding="utf-8")
    layered = {rules[name]["containers"].strip() for name in rules.sections() if "containers" in rules[name]}
    assert packages - layered == set()
