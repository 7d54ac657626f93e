"""Without PIL nothing here can run: the tests then say so in one line."""

from __future__ import annotations

import pytest

pytest.importorskip("PIL", reason="pillow is not installed: it makes the previews")
