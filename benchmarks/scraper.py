"""A Prometheus server's part, played in a process of its own: ``python -m benchmarks.scraper URL SECONDS`` asks again and again."""

from __future__ import annotations

import sys
import time
from urllib.request import urlopen


def main(url: str, pause: float) -> None:
    """Scrape until killed; the first time after one pause."""
    while True:
        time.sleep(pause)
        with urlopen(url) as answer:
            answer.read()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
