"""Description of the machine for the results, without its name."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version


def today() -> str:
    """Return the date of the run in UTC."""
    return datetime.now(timezone.utc).date().isoformat()


def shape() -> str:
    """Return cores, interpreter and system."""
    implementation, release = platform.python_implementation(), ".".join(platform.python_version_tuple()[:2])
    return f"{os.cpu_count()} cores, {implementation} {release}, {platform.system()}"


def libraries() -> str:
    """Return the versions of the compared libraries."""
    return ", ".join(
        f"{name} {version(name)}" for name in ("opentelemetry-sdk", "tqdm", "rich", "prometheus-client")
    )
