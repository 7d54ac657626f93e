"""Health check of a container: exits with 0 when the URL given answers with 200 within 4 seconds, else says why and exits with 1.

Only the standard library, and no proxy: what is asked is in the same container.
"""

from __future__ import annotations

import sys
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 4.0


def main(url: str) -> int:
    """Ask once. ``URLError`` covers refusals, time-outs and answers of 400 and more; a broken answer is an OSError or ValueError."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S) as answer:
            status = answer.status
    except (URLError, OSError, ValueError) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
