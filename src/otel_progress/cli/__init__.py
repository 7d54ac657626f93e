"""The command ``otel-progress``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_progress.cli.app import cli

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command line of this process."""
    if sys.argv[1:2] == ["update"]:
        # Why: scripts call it often, and without the imports of the other commands it takes a
        # fraction of the time.
        from otel_progress.cli.direct_update import run_update

        code = run_update(sys.argv[2:], os.environ)
        if code is not None:
            sys.exit(code)
    from otel_progress.cli.app import main as run_app

    run_app()


def __getattr__(name: str) -> Any:
    if name != "cli":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from otel_progress.cli.app import cli

    return cli
