"""The port of a server of the Prometheus family, which is started with port 0."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.support.servers import answers

ANY: Final = "--web.listen-address=127.0.0.1:0"
"""The option with which the system chooses the port."""
_TOLD: Final = re.compile(r'msg="Listening on" address=127\.0\.0\.1:([0-9]+)')


def find_port(log: Path) -> int | None:
    """Return the port from a server's log, or None before it is logged."""
    found = _TOLD.search(log.read_text(encoding="utf-8", errors="replace"))
    return int(found[1]) if found else None


def is_ready(log: Path) -> bool:
    """Return whether the server of this log listens and is ready."""
    port = find_port(log)
    return port is not None and answers(f"http://127.0.0.1:{port}/-/ready")


def address(log: Path) -> str:
    """Return the URL of a server that is ready."""
    return f"http://127.0.0.1:{find_port(log)}"
