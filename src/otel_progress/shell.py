"""Detection of the interactive shell IPython, without an import of it."""

from __future__ import annotations

import sys
from typing import Any


def find_shell() -> Any:
    """Return the active shell of IPython, None outside of IPython."""
    try:
        module = sys.modules.get("IPython")
        return None if module is None else module.get_ipython()
    except Exception:  # a module that is being imported, or another one with this name
        return None


def find_notebook_shell() -> Any:
    """Return the shell of a Jupyter kernel, None outside of one.

    It can display HTML in the output of a cell, and update it later.
    """
    shell = find_shell()
    return shell if getattr(shell, "kernel", None) is not None else None
