"""Programs that tests run in separate processes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROGRAMS: Final = Path(__file__).parent
"""The folder of the programs."""
