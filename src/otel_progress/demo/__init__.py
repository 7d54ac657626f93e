"""``otel-progress demo``: a survey of Python files that uses all features.

``job`` is the instrumented work and the example to read. The other modules do not use progress:
``sources`` finds the files, ``measure`` examines a file, ``code_map`` draws the files, ``report``
adds up and prints the results.
"""

from __future__ import annotations

from otel_progress.demo.job import run

__all__ = ["run"]
