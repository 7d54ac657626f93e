"""Code map: layout without overlaps, and colours of files."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_progress.demo import code_map
from otel_progress.demo.code_map import HEIGHT, WIDTH, Box, choose_colour, layout_files, squarify
from otel_progress.demo.measure import measure_source
from otel_progress.demo.sources import SourceFile


def file(path: str, size: int, *, package: str = "one") -> SourceFile:
    """Return a file of a package."""
    return SourceFile(path, (package,), path, size)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=60))
def test_squarify_with_any_weights_fills_the_box(weights: list[int]) -> None:
    """Each area is its share of the box, and no rectangles overlap."""
    box = Box(3.0, 5.0, 400.0, 300.0)
    ordered = sorted(weights, reverse=True)
    boxes = list(squarify(ordered, box))
    for weight, part in zip(ordered, boxes, strict=True):
        assert part.width * part.height == pytest.approx(weight / sum(weights) * 400.0 * 300.0)
        assert part.left >= 3.0 - 1e-6
        assert part.top >= 5.0 - 1e-6
        assert part.left + part.width <= 403.0 + 1e-6
        assert part.top + part.height <= 305.0 + 1e-6
    for number, part in enumerate(boxes):
        for other in boxes[number + 1 :]:
            across = min(part.left + part.width, other.left + other.width) - max(part.left, other.left)
            down = min(part.top + part.height, other.top + other.height) - max(part.top, other.top)
            assert min(across, down) < 1e-6


def test_squarify_with_example_of_paper_matches_its_figure() -> None:
    """The example of Bruls, Huizing and van Wijk is their figure 5."""
    weights = [6, 6, 4, 3, 2, 2, 1]
    boxes = [tuple(round(side, 2) for side in box) for box in squarify(weights, Box(0, 0, 6, 4))]
    assert boxes == [
        (0, 0, 3, 2),
        (0, 2, 3, 2),
        (3, 0, 1.71, 2.33),
        (4.71, 0, 1.29, 2.33),
        (3, 2.33, 1.2, 1.67),
        (4.2, 2.33, 1.2, 1.67),
        (5.4, 2.33, 0.6, 1.67),
    ]


def test_layout_groups_files_by_package() -> None:
    """The largest package is first, and an empty file also has a rectangle."""
    files = [file("a", 100, package="small"), file("b", 900, package="large"), file("c", 0, package="large")]
    boxes = dict(layout_files(files))
    assert boxes.keys() == {"a", "b", "c"}
    assert boxes["b"].left == 0.0
    assert boxes["b"].width * boxes["b"].height == pytest.approx(0.9 * WIDTH * HEIGHT, rel=0.02)
    assert boxes["c"].left < boxes["a"].left


def test_colour_of_complexity_is_blended_between_stops() -> None:
    """Beyond the scale the colour is the nearest stop."""
    assert [choose_colour(at) for at, _ in code_map.SCALE] == [colour for _, colour in code_map.SCALE]
    assert choose_colour(0.0) == choose_colour(1.0)
    assert choose_colour(1e9) == code_map.SCALE[-1][1]
    low, high = code_map.SCALE[0], code_map.SCALE[1]
    middle = choose_colour((low[0] + high[0]) / 2)
    assert all(
        min(start, end) <= between <= max(start, end)
        for start, end, between in zip(low[1], high[1], middle, strict=True)
    )


def test_map_colours_examined_files() -> None:
    """The colour shows the complexity, or that the file does not compile."""
    pytest.importorskip("PIL", reason="Pillow is not installed: it draws the map")
    files = [file("calm", 400), file("wild", 300), file("flat", 200), file("broken", 100)]
    drawn = code_map.create_map(files)
    assert drawn is not None
    centres = {
        path: (round(box.left + box.width / 2), round(box.top + box.height / 2))
        for path, box in layout_files(files)
    }
    assert {drawn.image.getpixel(centre) for centre in centres.values()} == {code_map.UNREAD}
    branches = "\n".join(f"    if x == {n}:\n        return {n}" for n in range(30))
    drawn.add(files[0], measure_source(b"def f():\n    return 1\n", "calm"))
    drawn.add(files[1], measure_source(f"def f(x):\n{branches}\n".encode(), "wild"))
    drawn.add(files[2], measure_source(b"x = 1\n", "flat"))
    drawn.add_problem(files[3])
    drawn.add_problem(file("not on the map", 1))
    assert {path: drawn.image.getpixel(centre) for path, centre in centres.items()} == {
        "calm": code_map.SCALE[0][1],
        "wild": code_map.SCALE[-1][1],
        "flat": code_map.PLAIN,
        "broken": code_map.BROKEN,
    }


def test_map_of_ten_thousand_files_has_its_size() -> None:
    """Files smaller than a pixel are included."""
    pytest.importorskip("PIL", reason="Pillow is not installed: it draws the map")
    files = [file(str(number), 1 + number % 7, package=str(number % 300)) for number in range(10_000)]
    drawn = code_map.create_map(files)
    assert drawn is not None
    assert drawn.image.size == (WIDTH, HEIGHT + code_map.LEGEND)


def test_map_without_pil_or_files_is_omitted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_map.create_map([]) is None
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert code_map.create_map([file("a", 1)]) is None
