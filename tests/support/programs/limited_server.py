"""A server with small limits.

``python limited_server.py`` serves a thousand operations and prints its port.
"""

from __future__ import annotations

import sys
import threading

import otel_progress as progress
from otel_progress.server.settings import ConnectionLimits, StreamLimits
from otel_progress.server.uvicorn_server import Server
from otel_progress.testing import recording

OPERATIONS = 200


def main() -> None:
    """Serve until stdin ends."""
    with recording() as recorder:
        operations = [
            progress.operation("load", id=f"load-{number}", total=10**9).__enter__()
            for number in range(OPERATIONS)
        ]
        server = Server(
            recorder.runtime._store.reader,
            port=0,
            streams=StreamLimits(clients=600, blocked_s=3.0, interval_s=0.2),
            connections=ConnectionLimits(max_connections=1_100, request_s=3.0, blocked_s=3.0),
        )
        server.start()
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        over = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        while not over.wait(0.2):
            for operation in operations:
                operation.increment(message="x" * 900)
        server.close()
        for operation in operations:
            operation.__exit__(None, None, None)


if __name__ == "__main__":
    main()
