"""The import rules that import-linter cannot express: it takes ``opentelemetry`` for one package, but API and SDK differ."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "otel_progress"
SDK = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")
MAY_IMPORT_THE_SDK = (
    "integrations",
    "otlp",
    "processor",
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
    """Return the name under which a source file is imported, without the package's own."""
    return module.removesuffix(".py").replace("/", ".")


def imports(node: ast.AST) -> Iterator[str]:
    """Yield what is imported anywhere below, also inside functions, but not for type checking only."""
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
    """Return what one source file imports at run time."""
    return set(imports(ast.parse((SOURCE / module).read_bytes())))


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Tell whether a module is one of some packages or below one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("module", [m for m in modules() if not is_within(dotted(m), MAY_IMPORT_THE_SDK)])
def test_only_adapters_import_the_sdk(module: str) -> None:
    """What instruments, counts, keeps and reads needs opentelemetry-api only, not even inside a function the SDK."""
    assert [name for name in imported(module) if is_within(name, SDK)] == []


@pytest.mark.parametrize("module", [m for m in modules() if m != SHIM])
def test_the_unstable_logs_api_stays_in_its_shim(module: str) -> None:
    """The underscore modules of the logs API still move: one file knows them."""
    assert [name for name in imported(module) if is_within(name, UNSTABLE)] == []


def test_the_rules_see_what_they_look_for() -> None:
    """The files that are allowed to import those really do, so the rules above can fail."""
    assert any(is_within(name, SDK) for name in imported("processor.py"))
    assert any(is_within(name, UNSTABLE) for name in imported(SHIM))
