"""A process that exports over OTLP as configured by the environment."""

from __future__ import annotations

import otel_progress as progress

if __name__ == "__main__":
    with (
        progress.configure(console=False, store="memory:", resources=False) as runtime,
        progress.get_tracer("my.library").operation("import", "Friday", id="friday", total=1) as op,
        op.level("file", "a") as file,
    ):
        file.item("a", outcome="failed", error=ValueError("unreadable"))
        op.increment()
    runtime.force_flush(60.0)
