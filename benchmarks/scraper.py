"""A scraping process: ``python -m benchmarks.scraper URL SECONDS``.

It writes a line when it is ready, and a line with seconds and bytes per scrape.
"""

from __future__ import annotations

import sys
import time
from urllib.request import urlopen


def main(url: str, pause: float) -> None:
    """Scrape until killed, with a pause in seconds before each scrape."""
    _say("ready")
    while True:
        time.sleep(pause)
        started = time.perf_counter()
        with urlopen(url) as answer:
            size = len(answer.read())
        _say(f"{time.perf_counter() - started} {size}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
