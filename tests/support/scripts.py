"""Scripts of the project as modules, although their names have no ``.py``."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType

from tests.support.documents import PROJECT


def script(name: str) -> ModuleType:
    """Return a script of ``scripts/`` as a module, without running its main function."""
    loader = SourceFileLoader(f"scripts_{name}", str(PROJECT / "scripts" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
