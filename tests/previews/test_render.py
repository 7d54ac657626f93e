"""Rendering of every kind of preview."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import otel_progress as progress
from otel_progress.testing import Recorder, recording
from tests.support.previews import (
    PATIENCE_S,
    content_of,
    encoded,
    image_of,
    json_of,
    outcomes,
    settle,
    shown,
    store_one,
    stored,
)

np = pytest.importorskip("numpy", reason="numpy is not installed: it makes the arrays")

RED = (255, 0, 0)


def test_large_image_is_scaled_to_the_edge(recorder: Recorder) -> None:
    """A PIL image keeps its aspect ratio and is stored as PNG."""
    preview = store_one(recorder, Image.new("RGB", (2000, 1000), RED), name="latent")
    image = image_of(recorder, preview)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (512, 256))
    assert image.getpixel((100, 100)) == RED
    assert (preview.name, preview.media_type, preview.number, preview.path) == ("latent", "image/png", 1, "")


def test_small_image_keeps_its_size(recorder: Recorder) -> None:
    """An image smaller than the edge is not enlarged."""
    assert shown(recorder, Image.new("L", (30, 20), 7)).size == (30, 20)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"],
)
@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_image_of_any_mode_is_encoded_in_any_format(mode: str, format: str) -> None:
    """The setting selects the format."""
    with recording(preview_format=format) as recorder:
        preview = store_one(recorder, Image.new(mode, (9, 5)))
        assert image_of(recorder, preview).format == format.upper()
        assert preview.media_type == f"image/{format}"


@pytest.mark.parametrize(
    ("array", "mode", "pixel"),
    [
        (np.full((4, 6), 9, np.uint8), "L", 9),
        (np.full((4, 6, 1), 9, np.uint8), "L", 9),
        (np.full((4, 6, 3), (1, 2, 3), np.uint8), "RGB", (1, 2, 3)),
        (np.full((4, 6, 4), (1, 2, 3, 128), np.uint8), "RGBA", (1, 2, 3, 128)),
        (np.full((4, 6, 2), (9, 128), np.uint8), "RGBA", (9, 9, 9, 128)),
        (np.ones((4, 6), bool), "L", 255),
        (np.full((4, 6), 0.5, np.float32), "L", 128),
        (np.full((4, 6, 3), (0.0, 0.5, 1.0), np.float64), "RGB", (0, 128, 255)),
        (np.full((4, 6, 4), (0.0, 0.5, 1.0, 0.5), np.float16), "RGBA", (0, 128, 255, 128)),
        (np.full((4, 6), np.nan), "L", 0),
        (np.full((4, 6), 77), "L", 0),
    ],
)
def test_array_becomes_an_image(recorder: Recorder, array: Any, mode: str, pixel: object) -> None:
    """Channels are grey, grey and alpha, RGB or RGBA. NaN is black."""
    image = shown(recorder, array)
    assert (image.mode, image.size, image.getpixel((0, 0))) == (mode, (6, 4), pixel)


@pytest.mark.parametrize(
    "values",
    [
        [-5.0, 0.0, 5.0],
        [1000, 1500, 2000],
        [np.nan, 0.0, 8.0],
        [-np.inf, 4.0, np.inf],
        [-1e308, 0.0, 1e308],
        [0, 2**62, 2**63 - 1],
    ],
)
def test_array_of_other_numbers_is_scaled_from_minimum_to_maximum(
    recorder: Recorder, values: list[float]
) -> None:
    """The minimum is black and the maximum is white."""
    image = shown(recorder, np.array([values]))
    pixels = [image.getpixel((x, 0)) for x in range(3)]
    assert pixels[0] == 0
    assert pixels[2] in (0, 255) if np.isinf(values[2]) else pixels[2] == 255


@pytest.mark.parametrize(
    "array",
    [
        np.broadcast_to(np.uint8(200), (100_000, 100_000)),
        np.full((3000, 2000, 3), 200, np.uint8),
        np.full((2000, 1500, 4), 200 / 255, np.float64),
        np.full((1700, 1300, 3), 200 / 255, np.float32, order="F"),
        np.full((1100, 900, 3), 200, ">u2")[::-1, ::-1] // 200 * 0 + np.uint8(200),
        np.full((64, 64, 64), 200, np.uint8)[:, :, 3],
    ],
)
def test_array_that_is_large_or_strided_is_thinned(recorder: Recorder, array: Any) -> None:
    """The preview of a large or strided array is small and has the same colours."""
    with progress.operation("warm", total=1) as op:  # the first offer allocates the buffer
        op.preview(array)
        settle(recorder)
    image = shown(recorder, array)
    assert max(image.size) <= 512
    assert {value for pixel in image.convert("RGB").getcolors() or [] for value in pixel[1]} <= {200, 0}


def test_value_changed_after_the_call_is_stored_unchanged(recorder: Recorder) -> None:
    """Arrays and images are copied when they are offered."""
    gate = threading.Event()
    with progress.operation("render", total=1) as op:
        op.level("other").start().preview(lambda: gate.wait(PATIENCE_S) and "first", at="always")
        array = np.zeros((8, 8), np.uint8)
        op.preview(array, at="always")
        picture = Image.new("L", (8, 8))
        below = op.level("picture").start()
        below.preview(picture, at="always")
        array[:] = 255
        picture.paste(255, (0, 0, 8, 8))
        gate.set()
        previews = stored(recorder, op.operation_id)
    assert [image_of(recorder, preview).getpixel((0, 0)) for preview in previews[1:]] == [0, 0]


def test_figure_changed_after_the_call_is_drawn_unchanged(recorder: Recorder) -> None:
    """A matplotlib figure is copied when it is offered, and no window opens."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: it makes the figure")
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4, 2))
    try:
        axes.plot([1, 2, 3])
        before = pyplot.get_fignums()
        with progress.operation("fit", total=1) as op:
            op.preview(figure, at="always")
            figure.set_facecolor("black")
            image = image_of(recorder, stored(recorder, op.operation_id)[0])
        assert pyplot.get_fignums() == before
    finally:
        pyplot.close(figure)
    assert image.size == (400, 200)
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_encoded_image_is_encoded_again_as_png(
    recorder: Recorder, format: str, wrap: Callable[[bytes], object]
) -> None:
    """The bytes may be in any of the usual formats."""
    image = shown(recorder, wrap(encoded(Image.new("RGB", (700, 350), (250, 250, 250)), format)))
    assert (image.format, image.size) == ("PNG", (512, 256))


def test_image_metadata_is_removed_and_its_orientation_applied(recorder: Recorder) -> None:
    """The location and comments of a photograph are not stored."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    exif[0x010E] = "at home"
    content = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif, comment=b"my secret")
    assert b"at home" in content
    preview = store_one(recorder, content)
    stored_content = content_of(recorder, preview)
    assert b"at home" not in stored_content
    assert b"secret" not in stored_content
    assert image_of(recorder, preview).size == (20, 40)
    assert not image_of(recorder, preview).getexif()


def test_animation_is_reduced_to_its_first_frame(recorder: Recorder) -> None:
    """A GIF with several frames becomes a single image."""
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    image = shown(recorder, encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert getattr(image, "n_frames", 1) == 1
    assert image.convert("L").getpixel((0, 0)) == 10


def test_path_is_read_by_its_suffix(recorder: Recorder, tmp_path: Path) -> None:
    """A file is an image, a text or JSON. Links to files are followed."""
    (tmp_path / "step.png").write_bytes(encoded(Image.new("RGB", (5, 4), RED)))
    (tmp_path / "latest.png").symlink_to("step.png")
    (tmp_path / "notes.txt").write_text("héllo", encoding="utf-8")
    (tmp_path / "state.json").write_text('{"loss": 0.5}')
    assert shown(recorder, tmp_path / "latest.png").getpixel((0, 0)) == RED
    text = store_one(recorder, tmp_path / "notes.txt")
    assert (text.media_type, content_of(recorder, text).decode(), text.width) == (
        "text/plain; charset=utf-8",
        "héllo",
        None,
    )
    assert json_of(recorder, store_one(recorder, tmp_path / "state.json")) == {"loss": 0.5}


def test_undecoded_image_is_decoded_off_the_callers_thread(recorder: Recorder, tmp_path: Path) -> None:
    """The caller can close the image at once."""
    (tmp_path / "step.png").write_bytes(encoded(Image.new("RGB", (5, 4), RED)))
    with progress.operation("render", total=1) as op:
        with Image.open(tmp_path / "step.png") as image:
            op.preview(image, at="always")
            assert image.tile
        assert image_of(recorder, stored(recorder, op.operation_id)[0]).getpixel((0, 0)) == RED


def test_string_is_a_text_and_not_a_path(recorder: Recorder) -> None:
    """A file with the same name is not read."""
    preview = store_one(recorder, __file__)
    assert content_of(recorder, preview).decode() == __file__


def test_long_text_is_truncated(recorder: Recorder) -> None:
    """The start of a text of ten million characters is stored as valid UTF-8."""
    content = content_of(recorder, store_one(recorder, "\ud800é" * 5_000_000)).decode()
    assert len(content) == 65_536
    assert content.endswith("…")


def test_json_is_copied_and_redacted(recorder: Recorder) -> None:
    """Numbers that JSON does not support become null."""
    data = {
        "loss": [0.5, float("nan"), np.float32(1.5), np.int64(7), 2**70, True, None],
        3: ("a",),
        "password": "hunter2",
    }
    with progress.operation("fit", total=1) as op:
        op.preview(data, at="always")
        data["loss"] = "changed"
        document = json_of(recorder, stored(recorder, op.operation_id)[0])
    assert document == {
        "loss": [0.5, None, 1.5, 7, float(2**70), True, None],
        "3": ["a"],
        "password": "[redacted]",
    }


def test_text_with_a_secret_is_redacted(recorder: Recorder) -> None:
    """A text has the same rules as a message."""
    assert b"hunter2" not in content_of(
        recorder, store_one(recorder, "connect to postgres://me:hunter2@db/x")
    )


def test_function_is_called_on_another_thread_only_when_due(recorder: Recorder) -> None:
    """The caller's level is current during the call."""
    called: list[tuple[bool, object]] = []

    def draw() -> object:
        called.append((threading.current_thread() is main, progress.current_level()))
        return np.zeros((3000, 3000), np.uint8)

    main = threading.current_thread()
    with progress.operation("render", total=4) as op:
        for _ in range(4):
            op.preview(draw, at=(0.5,))
            op.increment()
            settle(recorder)
        previews = stored(recorder, op.operation_id)
    assert called == [(False, op)]
    assert [(preview.width, preview.ratio) for preview in previews] == [(512, 0.5)]


def test_preview_can_be_offered_by_a_coroutine_and_a_thread(recorder: Recorder) -> None:
    """Both are stored."""

    async def work() -> str:
        async with progress.operation("render", total=1) as op:
            await asyncio.to_thread(op.preview, "from a thread", at="always")
            settle(recorder)
            op.preview("from a task", at="always")
            return op.operation_id

    contents = [content_of(recorder, preview) for preview in stored(recorder, asyncio.run(work()))]
    assert contents == [b"from a thread", b"from a task"]
    assert outcomes(recorder) == {"stored": 2}
