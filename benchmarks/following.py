"""A hundred stream clients.

    python -m benchmarks.following PORT SECONDS NAMED ALL

``NAMED`` clients follow ten operations each, ``ALL`` clients follow everything, with server-sent
events over plain sockets. The message of every snapshot has its time: ``at=`` and nanoseconds of
the monotonic clock, which all processes of a machine share. The command writes one line of JSON. It
has the latencies of the snapshots per kind of client in milliseconds, sorted and thinned out, and
their number.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Final

FOLLOWED: Final = 10
OPERATIONS: Final = 1_000
_MADE: Final = re.compile(rb'"message":"at=(\d+)"')
_KEPT: Final = 2_000


async def follow(port: int, query: str, until: float, warm: float, latencies: list[float]) -> None:
    """Follow a stream and note the age of each snapshot on arrival."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(f"GET /api/v1/stream{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    rest = b""
    while (left := until - time.monotonic()) > 0:
        try:
            data = await asyncio.wait_for(reader.read(2**18), left)
        except asyncio.TimeoutError:
            break
        now = time.monotonic_ns()
        text = rest + data
        end = text.rfind(b"\n\n") + 1
        if now / 1e9 > warm:
            latencies += [(now - int(made)) / 1e6 for made in _MADE.findall(text, 0, end)]
        rest = text[end:]
    writer.close()


async def main(port: int, seconds: float, named: int, everything: int) -> None:
    """Run all clients for some seconds. The first seconds do not count."""
    started = time.monotonic()
    warm, until = started + min(2.0, seconds / 3), started + seconds
    by_name: list[float] = []
    of_all: list[float] = []
    queries = [
        "?"
        + "&".join(f"operation=load-{(client * FOLLOWED + place) % OPERATIONS}" for place in range(FOLLOWED))
        for client in range(named)
    ]
    clients = [follow(port, query, until, warm, by_name) for query in queries]
    clients += [follow(port, "", until, warm, of_all) for _ in range(everything)]
    await asyncio.gather(*clients)
    cpu = time.process_time() / (time.monotonic() - started)
    print(  # noqa: T201
        json.dumps(
            {
                "named": _thinned(by_name),
                "all": _thinned(of_all),
                "counts": [len(by_name), len(of_all)],
                "cpu": cpu,
            }
        )
    )


def _thinned(latencies: list[float]) -> list[float]:
    latencies.sort()
    step = max(1, len(latencies) // _KEPT)
    return latencies[::step] + latencies[-1:]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *(float(sys.argv[2]),), *map(int, sys.argv[3:5])))
