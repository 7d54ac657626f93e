"""A worker that stalls at 30 of 100 until it reads a line.

Then it continues slowly until stdin ends.
"""

from __future__ import annotations

import sys
import threading
from urllib.parse import urlsplit

import otel_progress as progress


def main(id: str, store: str) -> None:
    """Run an operation ``id`` with the journal ``store``.

    The first line of stdout is the metrics port.
    """
    runtime = progress.configure(
        service_name="stalling", store=store, prometheus_port=0, stall_after=1, console=False, resources=False
    )
    sys.stdout.write(f"{urlsplit(runtime.metrics_url or '').port}\n")
    sys.stdout.flush()
    with progress.operation("backup", id=id, total=100) as operation:
        operation.increment(30)
        sys.stdin.readline()
        over = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        while not over.wait(0.2):
            operation.increment(0.001)


if __name__ == "__main__":
    main(*sys.argv[1:])
