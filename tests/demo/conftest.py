"""Fixtures of survey tests: a journal and a folder of Python files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new journal, with no settings or proxies in the environment."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "*")
    return f"sqlite:///{tmp_path / 'progress.db'}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folder with two packages and one file that does not compile."""
    root = tmp_path / "tree"
    for name, content in {
        "top.py": "import os\n",
        "one/__init__.py": "",
        "one/good.py": "def f():\n    return 1\n",
        "one/deep/bad.py": "def f(:\n",
        "two/only.py": "x = 1\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (root / "two" / "link.py").symlink_to(root / "top.py")
    return root
