"""The command ``python -m grafana``: write the dashboards or compare them.

With ``--check``, it prints which files differ.
"""

from __future__ import annotations

import argparse
import sys

from grafana.writing import DASHBOARDS, differing, write


def main() -> int:
    """Write or compare. Return 1 if a file differs."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description="Generate the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing and fail if a file differs")
    if not parser.parse_args().check:
        write(DASHBOARDS)
        return 0
    names = differing(DASHBOARDS)
    for name in names:
        sys.stderr.write(f"{name} is out of date: run python -m grafana\n")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
