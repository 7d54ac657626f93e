"""``otel-progress demo``: real work on real files, seen through everything this package does.

``sources`` finds the files, ``measure`` examines one, ``survey`` adds them up, ``code_map`` draws them, ``report`` shows the result:
none of them knows about progress. ``job`` is the instrumented work, and the place to look for how it is done.
"""

from __future__ import annotations

from otel_progress.demo.job import run

__all__ = ["run"]
