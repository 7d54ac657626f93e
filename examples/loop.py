"""A loop with progress: hash the files of a folder with ``track``.

python examples/loop.py [FOLDER]
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import otel_progress as progress


def main(folder: Path) -> None:
    """Hash every Python file below ``folder``."""
    progress.configure(service_name="loop-example")
    paths = sorted(folder.rglob("*.py"))
    digest = hashlib.sha256()
    for path in progress.track(paths, "checksum", unit="file"):
        digest.update(path.read_bytes())
    print(f"{len(paths)} files, sha256 {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
