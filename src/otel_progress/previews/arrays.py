"""numpy arrays as previews: checked and copied on the caller's thread in well under a millisecond, made a picture off it.

numpy is never imported from here before the caller has done so: whoever passes an array has it loaded.
"""

from __future__ import annotations

import sys
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any, Final

from otel_progress.errors import PreviewError

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_WHOLE: Final = 4 * 1024 * 1024
"""Bytes of an array that is copied whole on the caller's thread; of a larger one only every second, third … row."""


MAX_ROWS: Final = 6 * 1024 * 1024
"""Bytes of such a copy; of an array that is still too large only every second, third … column as well."""


MAX_THINNED: Final = 15 * 256 * 1024
"""Bytes of that one, which takes twice the time a byte."""


MAX_APART: Final = 300_000
"""Pixels of a copy of an array whose pixels do not lie beside each other, as in a view of every second one: each is copied alone."""


MAX_FRESH: Final = 1024 * 1024
"""Bytes of a copy for which no memory is at hand yet: the system takes longer to give memory than the copy takes."""


MAX_CALLED: Final = 64 * 1024 * 1024
"""Bytes of an array that is copied whole when a function returns it, off the caller's thread."""


_CHANNELS: Final = (1, 2, 3, 4)


def is_array(value: object) -> bool:
    """Tell whether a value is a numpy array."""
    kind = getattr(
        sys.modules.get("numpy"), "ndarray", None
    )  # absent while another thread is still importing it
    return kind is not None and isinstance(value, kind)


def is_array_possible() -> bool:
    """Tell whether anybody in this process has numpy."""
    return "numpy" in sys.modules


def memory() -> bytearray:
    """Return memory for one copy, all of it touched."""
    return bytearray(b"\1") * MAX_ROWS


def copy_array(array: Any, edge: int, *, into: bytearray | None = None, at_leisure: bool = False) -> Any:
    """Return a bounded copy that later changes of the array do not reach. Raises PreviewError when it is no picture.

    Shapes: (height, width), or (height, width, channels) with 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA) channels. A large one is
    thinned, to no less than ``edge`` pixels on its longer side where the bounds of memory allow. ``into`` is what :func:`memory`
    returned; off the caller's thread (``at_leisure``) none is needed.
    """
    np: Any = sys.modules["numpy"]
    _check(array)
    size = array.size * array.itemsize  # not nbytes: a broadcast view has few of its own
    whole, most, least = (
        (MAX_WHOLE, MAX_ROWS, MAX_THINNED)
        if into is not None
        else ((MAX_CALLED if at_leisure else MAX_FRESH),) * 3
    )
    # In the order of memory, whatever the order of the axes: a transposed array is copied as fast as the one it is a view of.
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    pixels, later = np.asarray(array).transpose(order), 1
    outer, inner = sorted((order.index(0), order.index(1)))
    rows = _lies_in_rows(pixels, inner)
    if size > whole or not (rows or at_leisure):
        step = max(1, max(array.shape[:2]) // edge)
        # Whole rows are copied several times as fast as single pixels of them: the columns are thinned later, where that is possible.
        if rows and size <= most * step:
            pixels, later = pixels[_every(step, outer)], step
        else:
            step = max(
                step,
                ceil(sqrt(size / least)),
                1 if rows else ceil(sqrt(array.shape[0] * array.shape[1] / MAX_APART)),
            )
            if (
                order[-1] == 2 and pixels.strides[2] == pixels.itemsize
            ):  # a pixel at a time instead of a number at a time
                pixels = pixels.view(np.dtype((np.void, pixels.itemsize * pixels.shape[2])))
            pixels = pixels[_every(step, outer, inner)]
    if into is None or pixels.size * pixels.itemsize > len(into):
        copy = np.array(pixels, order="C", copy=True, subok=False)
    else:
        copy = np.frombuffer(into, pixels.dtype, pixels.size).reshape(pixels.shape)
        np.copyto(copy, pixels)
    copy = copy if copy.dtype == array.dtype else copy.view(array.dtype)
    return copy[_every(later, inner)].transpose([order.index(axis) for axis in range(array.ndim)])


def _lies_in_rows(pixels: Any, inner: int) -> bool:
    """Tell whether what follows one axis of the picture, the other one (``inner``) and perhaps its channels, lies without gaps."""
    if pixels.strides[-1] != pixels.itemsize:
        return False
    return inner == pixels.ndim - 1 or bool(pixels.strides[-2] == pixels.itemsize * pixels.shape[-1])


def _every(step: int, *axes: int) -> tuple[slice, ...]:
    """Return an index that takes every so many along some axes."""
    return tuple(slice(None, None, step if axis in axes else 1) for axis in range(max(axes) + 1))


def _check(array: Any) -> None:
    shape = tuple(array.shape)
    if array.dtype.kind not in "biuf":
        msg = f"an array of {array.dtype} is no picture: expected uint8, bool, floats, or integers"
        raise PreviewError(msg)
    if array.ndim == 3 and shape[2] not in _CHANNELS and shape[0] in _CHANNELS:
        msg = f"an array of shape {shape} has its channels first: pass array.transpose(1, 2, 0)"
        raise PreviewError(msg)
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in _CHANNELS):
        msg = f"an array of shape {shape} is no picture: expected (height, width), or (height, width, channels) with 1 to 4 channels"
        raise PreviewError(msg)
    if 0 in shape:
        msg = f"an array of shape {shape} has no pixels"
        raise PreviewError(msg)


def to_image(array: Any) -> Image:
    """Return the picture of a copied array: uint8 as it is, floats within 0 to 1 as such, other numbers from their least to their most."""
    from PIL.Image import fromarray

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return fromarray(_bytes(array))


def _bytes(array: Any) -> Any:
    """Return the array as uint8; its last channel is alpha where there are 2 or 4, and scaled by nothing but 0 to 1 (or 0 to 255)."""
    np: Any = sys.modules["numpy"]

    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    has_alpha = array.ndim == 3 and array.shape[2] in (2, 4)
    colours = _spread(array[..., :-1] if has_alpha else array)
    if not has_alpha:
        return colours
    alpha = array[..., -1:].astype(np.float64)
    most = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    opaque = np.clip(np.nan_to_num(alpha / most), 0.0, 1.0)
    return np.concatenate([colours, (opaque * 255.0 + 0.5).astype(np.uint8)], axis=-1)


def _spread(array: Any) -> Any:
    """Return numbers as 0 to 255: NaN is black, an infinite one the least or the most of the finite ones."""
    np: Any = sys.modules["numpy"]

    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if array.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    span = high / 2 - low / 2  # the difference itself may be infinite
    if not span > 0.0:
        return np.zeros(values.shape, np.uint8)
    return ((values / 2 - low / 2) / span * 255.0 + 0.5).astype(np.uint8)
