"""What is copied of an array on the caller's thread: whatever its order in memory, the same picture, bounded, and nobody else's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

import numpy as np

from otel_progress.previews.arrays import MAX_APART, copy_array, memory

VIEWS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda a: a,
    "by columns": np.asfortranarray,
    "upside down": lambda a: a[::-1],
    "mirrored": lambda a: a[:, ::-1],
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "channels first": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1),
    "of wide rows": lambda a: np.pad(a, [(0, 0), (0, 7), *[(0, 0)] * (a.ndim - 2)])[:, :-7],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["uint8", "float64", "bool"])
@pytest.mark.parametrize("shape", [(300, 200), (1024, 1024), (1024, 1024, 3), (40, 5000, 4), (2100, 700, 1)])
def test_the_order_in_memory_changes_nothing(view: str, kind: str, shape: tuple[int, ...]) -> None:
    """A copy has every so many rows and columns of the array, in its own memory, with enough of them for a preview."""
    array = VIEWS[view]((np.arange(np.prod(shape)) * 2_654_435_761 % 251).reshape(shape).astype(kind))
    copy = copy_array(array, 512, into=memory())
    longer = shape.index(max(shape))
    step = -(-shape[longer] // copy.shape[longer])
    assert copy.dtype == array.dtype
    assert np.array_equal(copy, array[::step, ::step])
    assert not np.shares_memory(copy, array)
    assert max(copy.shape[:2]) >= min(256, max(shape[:2]))


def test_scattered_pixels_are_bounded_in_number() -> None:
    """Where pixels do not lie beside each other each is copied alone, so that there are fewer of them."""
    array = np.zeros((2048, 2048, 3), np.uint8)[::2, ::2]
    copy = copy_array(array, 512, into=memory())
    assert copy.shape == (512, 512, 3)
    assert copy.shape[0] * copy.shape[1] <= MAX_APART
