"""A worker that processes keyed items until it has all of them, or is killed.

``python keyed_worker.py STORE LOG ITEMS [unending]`` appends one line per processed item to LOG. It
prints "ready" when the operation has started. With ``unending``, it waits before the last item
until it is killed.
"""

from __future__ import annotations

import os
import sys
import time

import otel_progress as progress

PAUSE_S = 0.001
"""Time per item, so that a session has some ticks."""


def work(store: str, log: str, items: int, *, is_unending: bool = False) -> None:
    """Process the items that no earlier session completed."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with (
        progress.configure(store=store, console=False, resources=False),
        progress.operation("job", id="nightly", total=1, resume=True) as op,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for item in op.track(range(items), key=str, unit="item"):
            time.sleep(PAUSE_S)
            while is_unending and item == items - 1:
                time.sleep(1.0)
            os.write(output, f"{item}\n".encode())


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]), is_unending=sys.argv[4:] == ["unending"])
