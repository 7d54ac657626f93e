"""Integrations with other libraries, whose code does not import otel-progress.

Each module integrates one library, which it imports. No other package imports these modules, so
``import otel_progress`` imports no other library. They use the public API.
"""
