"""Assertions that ``_locked`` functions are called with the store's lock."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import otel_progress.live
from otel_progress.live.node import Node, Operation
from otel_progress.live.state import StoreState
from otel_progress.live.tree import Tree

SUFFIX = "_locked"


def assert_locks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Wrap every function of ``live`` that requires the lock.

    Return the list of calls without it.

    Such a call also raises an AssertionError, which the code under test may catch.

    Only stores that are created later are checked, so that tests can use a buffer or a cache alone.
    """
    locks: weakref.WeakKeyDictionary[object, Any] = weakref.WeakKeyDictionary()
    _register_parts(monkeypatch, locks)
    violations: list[str] = []
    modules = _import_modules()
    wrapped: dict[Callable[..., Any], Callable[..., Any]] = {}
    for module in modules:
        for class_ in vars(module).values():
            if inspect.isclass(class_) and class_.__module__ == module.__name__:
                for name, function in list(vars(class_).items()):
                    if name.endswith(SUFFIX) and inspect.isfunction(function):
                        wrapped[function] = _wrap(function, locks, violations)
                        monkeypatch.setattr(class_, name, wrapped[function])
    for module in modules:
        for name, function in list(vars(module).items()):
            if name.endswith(SUFFIX) and inspect.isfunction(function):
                wrapped.setdefault(function, _wrap(function, locks, violations))
                monkeypatch.setattr(module, name, wrapped[function])
    assert len(wrapped) > 50
    return violations


def _import_modules() -> list[ModuleType]:
    package = otel_progress.live
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [importlib.import_module(name) for name in names]


def _register_parts(monkeypatch: pytest.MonkeyPatch, locks: weakref.WeakKeyDictionary[object, Any]) -> None:
    """Record the lock of each part of a store, and of each operation in its tree."""
    clear, create_operation = StoreState._clear, Tree._create_operation

    def clear_and_register(state: StoreState, *arguments: Any) -> None:
        clear(state, *arguments)
        estimates = state.estimates
        parts = [state.tree, state.batches, state.events, state.logs, state.previews, estimates]
        for part in (state, *parts, estimates.trajectories, estimates._scheduler):
            locks[part] = state.lock

    def create_and_register(tree: Tree, *arguments: Any) -> Node:
        node = create_operation(tree, *arguments)
        locks[node.operation] = locks.get(tree)
        return node

    monkeypatch.setattr(StoreState, "_clear", clear_and_register)
    monkeypatch.setattr(Tree, "_create_operation", create_and_register)


def _wrap(
    function: Callable[..., Any], locks: weakref.WeakKeyDictionary[object, Any], violations: list[str]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def check_lock(subject: Any, *arguments: Any, **options: Any) -> Any:
        owner: Operation | Any = subject.operation if isinstance(subject, Node) else subject
        state = getattr(owner, "_state", None)
        lock = locks.get(owner) if state is None else state.lock
        if lock is not None and not lock._is_owned():
            violations.append(function.__qualname__)
            raise AssertionError(f"{function.__qualname__} was called without the lock")
        return function(subject, *arguments, **options)

    return check_lock


def find_unlocked_calls(path: Path) -> list[str]:
    """Return the calls of ``_locked`` functions without a lock."""
    return list(_find_in_node(ast.parse(path.read_text(encoding="utf-8")), path, is_locked=False))


def _find_in_node(node: ast.AST, path: Path, *, is_locked: bool) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        is_locked = node.name.endswith(SUFFIX)
    elif isinstance(node, ast.With):
        is_locked = is_locked or _holds_lock(node)
    elif isinstance(node, ast.Call) and not is_locked:
        name = ast.unparse(node.func)
        if name.endswith(SUFFIX):
            yield f"{path.name}:{node.lineno}: {name}"
    for child in ast.iter_child_nodes(node):
        yield from _find_in_node(child, path, is_locked=is_locked)


def find_unmarked_methods(path: Path) -> list[str]:
    """Return private methods without the suffix that are called only with a lock.

    Only files that have `_locked` functions are checked.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    if not any(function.name.endswith(SUFFIX) for function in functions):
        return []
    uses = list(_find_uses_of_self(tree, is_locked=False))
    with_lock = {name for name, is_locked in uses if is_locked}
    without_lock = {name for name, is_locked in uses if not is_locked}
    return [
        f"{path.name}:{function.lineno}: {function.name}"
        for function in functions
        if function.name in with_lock - without_lock
        and function.name.startswith("_")
        and not function.name.endswith(SUFFIX)
    ]


def _find_uses_of_self(node: ast.AST, *, is_locked: bool) -> Iterator[tuple[str, bool]]:
    """Yield used attributes of ``self``, and whether that is a call with a lock."""
    if isinstance(node, ast.FunctionDef):
        is_locked = node.name.endswith(SUFFIX)
    elif isinstance(node, ast.With):
        is_locked = is_locked or _holds_lock(node)
    called = node.func if isinstance(node, ast.Call) else None
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Attribute) and ast.unparse(child.value) == "self":
            yield child.attr, is_locked and child is called
        yield from _find_uses_of_self(child, is_locked=is_locked)


def _holds_lock(statement: ast.With) -> bool:
    return any(ast.unparse(item.context_expr).endswith("lock") for item in statement.items)
