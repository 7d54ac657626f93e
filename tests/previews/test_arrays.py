"""Copies of arrays: bounded, and independent of the memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

import numpy as np

from otel_progress.previews.arrays import MAX_SCATTERED_PIXELS, allocate_buffer, copy_array, to_image

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


# --- masked arrays -------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["uint8", "float64", "bool", "int16"])
@pytest.mark.parametrize("shape", [(300, 200), (1024, 1024, 3), (40, 5000, 4), (2100, 700, 1), (1, 3000)])
def test_copy_of_masked_array_keeps_the_mask(view: str, kind: str, shape: tuple[int, ...]) -> None:
    """The mask has the same rows and columns as the values."""
    numbers = np.arange(np.prod(shape)).reshape(shape)
    values, mask = VIEWS[view]((numbers % 251).astype(kind)), VIEWS[view](numbers % 7 == 0)
    copy = copy_array(np.ma.MaskedArray(values, mask=mask), 512, into=allocate_buffer())
    step = next(
        step
        for step in range(1, 99)
        if values[::step, ::step].shape == copy.shape
        and np.array_equal(copy.data, values[::step, ::step])
        and np.array_equal(copy.mask, mask[::step, ::step])
    )
    assert step >= 1
    assert not np.shares_memory(copy.data, values)
    assert not np.shares_memory(copy.mask, mask)


@pytest.mark.parametrize("kind", ["uint8", "float64", "int32"])
def test_masked_pixels_are_transparent_and_do_not_affect_the_scale(kind: str) -> None:
    values = np.array([[10, 20], [30, 99]], kind)
    masked = np.ma.MaskedArray(values, mask=[[False, False], [False, True]])
    image = np.asarray(to_image(copy_array(masked, 512)))
    expected = values if kind == "uint8" else np.array([[0, 128], [255, 0]])
    assert image[..., 1].tolist() == [[255, 255], [255, 0]]
    assert image[..., 0][:1].tolist() == expected[:1].tolist()
    assert image[1, 0, 0] == expected[1, 0]


def test_masked_not_a_number_is_transparent() -> None:
    image = np.asarray(to_image(copy_array(np.ma.masked_invalid([[0.0, np.nan], [0.5, 1.0]]), 512)))
    assert image.tolist() == [[[0, 255], [0, 0]], [[128, 255], [255, 255]]]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_masked_colours_become_an_image_with_alpha(channels: int) -> None:
    """A pixel with any masked channel is transparent."""
    values = np.full((2, 2, channels), 200, np.uint8)
    mask = np.zeros(values.shape, bool)
    mask[0, 1, 0] = True
    image = np.asarray(to_image(copy_array(np.ma.MaskedArray(values, mask=mask), 512)))
    assert image.shape == (2, 2, 2 if channels <= 2 else 4)
    assert image[0, 1].tolist() == [0] * image.shape[2]
    assert image[0, 0, 0] == 200


def test_fully_masked_array_is_transparent() -> None:
    image = np.asarray(to_image(copy_array(np.ma.masked_all((2, 3)), 512)))
    assert not image.any()


def test_masked_array_without_masked_pixels_has_no_alpha() -> None:
    assert to_image(copy_array(np.ma.MaskedArray([[1, 2], [3, 4]]), 512)).mode == "L"
