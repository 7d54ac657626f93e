"""The command ``otel-progress``."""

from otel_progress.cli.app import cli, main

__all__ = ["cli", "main"]
