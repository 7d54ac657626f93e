"""numpy arrays as previews.

An array is checked and copied on the caller's thread in well under a millisecond. It becomes an
image on another thread. This module never imports numpy itself, because a caller with an array has
loaded it.
"""

from __future__ import annotations

import sys
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any, Final

from otel_progress.errors import PreviewError

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_WHOLE_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of an array that is copied whole on the caller's thread. Others lose rows."""


MAX_ROW_BYTES: Final = 6 * 1024 * 1024
"""Maximum size of a copy of whole rows. Larger arrays lose columns as well."""


MAX_THINNED_BYTES: Final = 15 * 256 * 1024
"""Maximum size of a copy without some rows and columns, which takes twice the time per byte."""


MAX_SCATTERED_PIXELS: Final = 300_000
"""Maximum number of pixels of a copy from an array with gaps. Each pixel is copied alone."""


MAX_UNBUFFERED_BYTES: Final = 1024 * 1024
"""Maximum size of a copy without a buffer. Allocating memory takes longer than the copy."""


MAX_RETURNED_BYTES: Final = 64 * 1024 * 1024
"""Maximum size of an array that is copied whole off the caller's thread."""


_CHANNELS: Final = (1, 2, 3, 4)


def is_array(value: object) -> bool:
    """Return whether a value is a numpy array."""
    # The attribute is absent while another thread imports numpy.
    array_type = getattr(sys.modules.get("numpy"), "ndarray", None)
    return array_type is not None and isinstance(value, array_type)


def is_numpy_loaded() -> bool:
    """Return whether this process has imported numpy."""
    return "numpy" in sys.modules


def allocate_buffer() -> bytearray:
    """Return a buffer for one copy. Its pages are touched, so that they are allocated."""
    return bytearray(b"\1") * MAX_ROW_BYTES


def copy_array(array: Any, edge: int, *, into: bytearray | None = None, at_leisure: bool = False) -> Any:
    """Return a bounded copy that later changes of the array do not affect.

    The shape is (height, width), or (height, width, channels) with 1 (grey), 2 (grey and alpha), 3
    (RGB) or 4 (RGBA) channels. A large array is thinned. Its longer side keeps at least ``edge``
    pixels if the memory limits allow it. ``into`` is a buffer from :func:`allocate_buffer`. Off
    the caller's thread (``at_leisure``) it is not needed. A masked array keeps its mask. Raises
    PreviewError if the array cannot be an image.
    """
    np: Any = sys.modules["numpy"]
    _check_array(array)
    size = array.size * array.itemsize  # not nbytes, which is small for a broadcast view
    if into is not None:
        whole, by_rows, thinned = MAX_WHOLE_BYTES, MAX_ROW_BYTES, MAX_THINNED_BYTES
    else:
        whole = by_rows = thinned = MAX_RETURNED_BYTES if at_leisure else MAX_UNBUFFERED_BYTES
    mask = _get_mask(array)
    if mask is not None:
        size += array.size
    # Why in memory order: a transposed array is copied as fast as the array that it is a view of.
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    pixels, step, later_step = np.asarray(array).transpose(order), 1, 1
    outer, inner = sorted((order.index(0), order.index(1)))
    rows = _has_contiguous_rows(pixels, inner)
    if size > whole or not (rows or at_leisure):
        step = max(1, max(array.shape[:2]) // edge)
        # Why whole rows first: copying them is several times as fast as copying pixels. The
        # columns are thinned after the copy, if the size allows it.
        if rows and size <= by_rows * step:
            pixels, later_step = pixels[_build_step_index(step, outer)], step
        else:
            scattered = 1 if rows else ceil(sqrt(array.shape[0] * array.shape[1] / MAX_SCATTERED_PIXELS))
            step = max(step, ceil(sqrt(size / thinned)), scattered)
            # A pixel is copied as one item instead of one item per channel.
            if order[-1] == 2 and pixels.strides[2] == pixels.itemsize:
                pixels = pixels.view(np.dtype((np.void, pixels.itemsize * pixels.shape[2])))
            pixels = pixels[_build_step_index(step, outer, inner)]
    copy = _copy_pixels(np, pixels, into)
    copy = copy if copy.dtype == array.dtype else copy.view(array.dtype)
    thin = copy[_build_step_index(later_step, inner)]
    thin = thin.transpose([order.index(axis) for axis in range(array.ndim)])
    if mask is None:
        return thin
    return np.ma.MaskedArray(thin, mask=_copy_mask(np, mask, step), copy=False)


def _copy_mask(np: Any, mask: Any, step: int) -> Any:
    """Return a copy of every ``step``-th row and column of a mask."""
    rows = mask[::step]
    if rows.size <= MAX_WHOLE_BYTES and mask.strides[-1] == 1:
        # Why whole rows: copying them is several times as fast as copying pixels.
        return np.array(rows, order="C", copy=True)[:, ::step]
    return np.array(rows[:, ::step], order="C", copy=True)


def _get_mask(array: Any) -> Any:
    """Return the mask of a masked array.

    None for other arrays, and if no pixel is masked.
    """
    np: Any = sys.modules["numpy"]

    # Why sys.modules: a program without masked arrays may not have imported the module.
    masked_array = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked_array is None or not isinstance(array, masked_array) or array.mask is np.ma.nomask:
        return None
    return array.mask


def _copy_pixels(np: Any, pixels: Any, into: bytearray | None) -> Any:
    """Return a copy in C order, in the buffer ``into`` if it fits."""
    if into is None or pixels.size * pixels.itemsize > len(into):
        return np.array(pixels, order="C", copy=True, subok=False)
    copy = np.frombuffer(into, pixels.dtype, pixels.size).reshape(pixels.shape)
    np.copyto(copy, pixels)
    return copy


def _has_contiguous_rows(pixels: Any, inner: int) -> bool:
    """Return whether the rows along the axis ``inner`` have no gaps."""
    if pixels.strides[-1] != pixels.itemsize:
        return False
    return inner == pixels.ndim - 1 or bool(pixels.strides[-2] == pixels.itemsize * pixels.shape[-1])


def _build_step_index(step: int, *axes: int) -> tuple[slice, ...]:
    """Return an index that selects every ``step``-th element along some axes."""
    return tuple(slice(None, None, step if axis in axes else 1) for axis in range(max(axes) + 1))


def _check_array(array: Any) -> None:
    shape = tuple(array.shape)
    if array.dtype.kind not in "biuf":
        msg = f"invalid array of {array.dtype}: expected uint8, bool, floats or integers"
        raise PreviewError(msg)
    if array.ndim == 3 and shape[2] not in _CHANNELS and shape[0] in _CHANNELS:
        msg = f"invalid array shape {shape}: expected the channels last. Pass array.transpose(1, 2, 0)"
        raise PreviewError(msg)
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in _CHANNELS):
        msg = (
            f"invalid array shape {shape}: expected (height, width), "
            "or (height, width, channels) with 1 to 4 channels"
        )
        raise PreviewError(msg)
    if 0 in shape:
        msg = f"invalid array shape {shape}: expected at least one pixel"
        raise PreviewError(msg)


def to_image(array: Any) -> Image:
    """Return the image of a copied array.

    uint8 values are used as they are. Floats within 0 to 1 are scaled from there. Other numbers are
    scaled from their minimum to their maximum. Masked pixels are transparent, and their values do
    not affect the scale.
    """
    from PIL.Image import fromarray

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    mask = _get_mask(array)
    if mask is None:
        return fromarray(_to_uint8(array))
    return fromarray(_mask_pixels(array, mask))


def _mask_pixels(array: Any, mask: Any) -> Any:
    """Return a masked array as uint8 with an alpha channel.

    Alpha is 0 for masked pixels.
    """
    np: Any = sys.modules["numpy"]

    values = np.array(array.data)
    has_alpha = values.ndim == 3 and values.shape[2] in (2, 4)
    colours, hidden = (values[..., :-1], mask[..., :-1]) if has_alpha else (values, mask)
    visible = colours[~hidden]
    colours[hidden] = visible[0] if visible.size else 0  # within the range of the visible values
    pixels = _to_uint8(values)
    if mask.ndim == 3:
        mask = mask.any(axis=2)
    if not has_alpha:
        pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        pixels = np.concatenate([pixels, opaque], axis=-1)
    else:
        pixels = pixels.copy()
    pixels[mask] = 0
    return pixels


def _to_uint8(array: Any) -> Any:
    """Return the array as uint8. With 2 or 4 channels, the last one is alpha.

    Alpha is scaled from 0 to 1, or to the maximum of an integer type.
    """
    np: Any = sys.modules["numpy"]

    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    has_alpha = array.ndim == 3 and array.shape[2] in (2, 4)
    colours = _scale_to_uint8(array[..., :-1] if has_alpha else array)
    if not has_alpha:
        return colours
    alpha = array[..., -1:].astype(np.float64)
    maximum = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    opaque = np.clip(np.nan_to_num(alpha / maximum), 0.0, 1.0)
    return np.concatenate([colours, (opaque * 255.0 + 0.5).astype(np.uint8)], axis=-1)


def _scale_to_uint8(array: Any) -> Any:
    """Return numbers scaled to 0 to 255. NaN is black, and infinity is clipped."""
    np: Any = sys.modules["numpy"]

    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if array.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    span = high / 2 - low / 2  # the difference itself can be infinite
    if not span > 0.0:
        return np.zeros(values.shape, np.uint8)
    return ((values / 2 - low / 2) / span * 255.0 + 0.5).astype(np.uint8)
