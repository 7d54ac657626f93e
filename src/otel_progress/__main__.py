"""Entry point of ``python -m otel_progress``: the command ``otel-progress``."""

from __future__ import annotations

from otel_progress.cli import main

if __name__ == "__main__":
    main()
