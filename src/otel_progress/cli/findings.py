"""Findings of the checks of ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "note", "problem"]
"""Result of a check. A note needs no change. A problem makes ``doctor`` fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. The text of a problem includes its fix."""

    check: str
    state: State
    text: str
