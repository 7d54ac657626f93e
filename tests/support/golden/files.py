"""Golden files: committed outputs that a test compares with current ones.

Update all of them with ``pytest tests/golden --update-golden`` and read the diff before you commit
it.
"""

from __future__ import annotations

import difflib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

DATA: Final = Path(__file__).parents[2] / "golden" / "data"
"""The folder of the golden files."""
MAX_DIFF_LINES: Final = 200
"""Maximum number of shown lines of a diff."""


class Golden:
    """Compares texts with golden files. With ``update`` it rewrites the files instead."""

    def __init__(self, *, update: bool = False) -> None:
        self.update = update

    def text(self, name: str, actual: str) -> None:
        """Fail with a unified diff unless the file ``name`` holds exactly ``actual``."""
        path = DATA / name
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(actual.encode())
            return
        if not path.exists():
            pytest.fail(f"Missing golden file {name}: run pytest tests/golden --update-golden")
        expected = path.read_bytes().decode()
        if actual != expected:
            before, after = _lines(expected), _lines(actual)
            diff = list(difflib.unified_diff(before, after, f"{name} (golden)", f"{name} (now)", lineterm=""))
            shown = diff[:MAX_DIFF_LINES] + [f"… {len(diff) - MAX_DIFF_LINES} more lines"] * (
                len(diff) > MAX_DIFF_LINES
            )
            pytest.fail(
                f"{name} differs. Update with: pytest tests/golden --update-golden\n" + "\n".join(shown),
                pytrace=False,
            )

    def json(self, name: str, actual: object) -> None:
        """Compare a JSON value, indented by two spaces. The order of the keys matters."""
        self.text(name, json.dumps(actual, indent=2, ensure_ascii=False) + "\n")

    def needs(self, *packages: str) -> None:
        """Skip the test if other versions of relevant packages are installed."""
        path = DATA / "versions.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        now = installed(*packages)
        if self.update:
            self.text("versions.json", json.dumps({**known, **now}, indent=2, sort_keys=True) + "\n")
        elif any(known.get(package) != number for package, number in now.items()):
            pytest.skip(f"the golden file is of other versions of {', '.join(packages)}")

    def lines(self, name: str, actual: list[str]) -> None:
        """Compare a list of lines."""
        self.text(name, "".join(f"{line}\n" for line in actual))


def _lines(text: str) -> list[str]:
    """Return the lines of a text, with invisible characters escaped."""
    return [line.replace("\r", "\\r").replace("\x1b", "\\x1b") for line in text.split("\n")]


def installed(*packages: str) -> dict[str, str]:
    """Return the major and minor version of packages."""
    return {package: ".".join(version(package).split(".")[:2]) for package in packages}
