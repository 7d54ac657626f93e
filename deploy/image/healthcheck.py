"""Health check of a container.

The exit code is 0 if the URL responds with 200 within 4 seconds. Otherwise it prints the reason and
exits with 1. It uses the standard library only, and no proxy, because the server is in the same
container.
"""

from __future__ import annotations

import sys
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 4.0


def main(url: str) -> int:
    """Send one request.

    ``URLError`` includes refused connections, time-outs and status codes from 400 on. A malformed
    response is an OSError or ValueError.
    """
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S) as answer:
            status = answer.status
    except (URLError, OSError, ValueError) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
