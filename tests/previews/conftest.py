"""Skips all tests of previews without PIL, with one reason."""

from __future__ import annotations

import pytest

pytest.importorskip("PIL", reason="pillow is not installed: it makes the previews")
