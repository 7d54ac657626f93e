"""A Prometheus server's part, played in a process of its own: ``python -m benchmarks.scraper URL SECONDS`` asks again and again.

Writes a line when it is ready, and one of seconds and bytes for each scrape.
"""

from __future__ import annotations

import sys
import time
from urllib.request import urlopen


def main(url: str, pause: float) -> None:
    """Scrape until killed, each time after a pause in seconds."""
    _say("ready")
    while True:
        time.sleep(pause)
        began = time.perf_counter()
        with urlopen(url) as answer:
            size = len(answer.read())
        _say(f"{time.perf_counter() - began} {size}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
