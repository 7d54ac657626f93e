"""Writer of the dashboard files with the same bytes on every machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import history, itself, operation, overview
from grafana.board import SCHEMA
from grafana.names import HISTORY, ITSELF, OPERATION, OVERVIEW, Place

DASHBOARDS: Final = Path(__file__).parent / "dashboards"
"""Folder of the committed files."""
_MAKERS: Final[Mapping[Place, Callable[[], dashboard.Dashboard]]] = {
    OVERVIEW: overview.build,
    OPERATION: operation.build,
    HISTORY: history.build,
    ITSELF: itself.build,
}


def files() -> dict[str, bytes]:
    """Return the content of each file by its name."""
    return {place.file: _bytes(make()) for place, make in _MAKERS.items()}


def write(folder: Path) -> None:
    """Write all files into ``folder``, which is created if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (folder / name).write_bytes(content)


def differing(folder: Path) -> list[str]:
    """Return the names of files that are missing, differ, or are obsolete."""
    wanted = files()
    there = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def _bytes(board: dashboard.Dashboard) -> bytes:
    plain: dict[str, Any] = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    plain["schemaVersion"] = SCHEMA
    return (json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")
