"""Copies of arrays: bounded, and independent of the memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

import numpy as np

from otel_progress.previews.arrays import MAX_SCATTERED_PIXELS, allocate_buffer, copy_array

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
def test_copy_in_any_memory_order_has_evenly_spaced_pixels(
    view: str, kind: str, shape: tuple[int, ...]
) -> None:
    """A copy has every n-th row and column, and enough of them for a preview."""
    array = VIEWS[view]((np.arange(np.prod(shape)) * 2_654_435_761 % 251).reshape(shape).astype(kind))
    copy = copy_array(array, 512, into=allocate_buffer())
    longer = shape.index(max(shape))
    step = -(-shape[longer] // copy.shape[longer])
    assert copy.dtype == array.dtype
    assert np.array_equal(copy, array[::step, ::step])
    assert not np.shares_memory(copy, array)
    assert max(copy.shape[:2]) >= min(256, max(shape[:2]))


def test_copy_of_scattered_pixels_is_bounded() -> None:
    """Of an array with gaps between its pixels, fewer pixels are copied."""
    array = np.zeros((2048, 2048, 3), np.uint8)[::2, ::2]
    copy = copy_array(array, 512, into=allocate_buffer())
    assert copy.shape == (512, 512, 3)
    assert copy.shape[0] * copy.shape[1] <= MAX_SCATTERED_PIXELS
