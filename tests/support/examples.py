"""Number of Hypothesis examples for tests with a number of their own."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

_DEFAULT: Final = 100
"""Examples of a test with the complete profile."""


def scale_examples(count: int) -> int:
    """Return ``count``, or its share in a profile with fewer examples."""
    return max(5, count * settings().max_examples // _DEFAULT)
