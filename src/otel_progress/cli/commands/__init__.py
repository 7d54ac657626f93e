"""The commands of ``otel-progress``, one module per command."""
