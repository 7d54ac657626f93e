"""The map of the code: rectangles that fill it without overlapping, and colours that say what was read."""

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
def test_rectangles_fill_the_box_by_weight(weights: list[int]) -> None:
    """Each area is the weight's share of the box, within its edges; no two overlap."""
    box = Box(3.0, 5.0, 400.0, 300.0)
    ordered = sorted(weights, reverse=True)
    made = list(squarify(ordered, box))
    for weight, one in zip(ordered, made, strict=True):
        assert one.width * one.height == pytest.approx(weight / sum(weights) * 400.0 * 300.0)
        assert one.left >= 3.0 - 1e-6
        assert one.top >= 5.0 - 1e-6
        assert one.left + one.width <= 403.0 + 1e-6
        assert one.top + one.height <= 305.0 + 1e-6
    for number, one in enumerate(made):
        for other in made[number + 1 :]:
            across = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
            down = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
            assert min(across, down) < 1e-6


def test_rectangles_are_as_the_paper_has_them() -> None:
    """The example of Bruls, Huizing and van Wijk (6, 6, 4, 3, 2, 2, 1 in 6 by 4) comes out as in its figure 5."""
    made = [tuple(round(side, 2) for side in one) for one in squarify([6, 6, 4, 3, 2, 2, 1], Box(0, 0, 6, 4))]
    assert made == [
        (0, 0, 3, 2),
        (0, 2, 3, 2),
        (3, 0, 1.71, 2.33),
        (4.71, 0, 1.29, 2.33),
        (3, 2.33, 1.2, 1.67),
        (4.2, 2.33, 1.2, 1.67),
        (5.4, 2.33, 0.6, 1.67),
    ]


def test_files_lie_in_their_packages() -> None:
    """The files of a package lie side by side in one rectangle, the largest package first; empty files have a place too."""
    files = [file("a", 100, package="small"), file("b", 900, package="large"), file("c", 0, package="large")]
    places = dict(layout_files(files))
    assert places.keys() == {"a", "b", "c"}
    assert places["b"].left == 0.0
    assert places["b"].width * places["b"].height == pytest.approx(0.9 * WIDTH * HEIGHT, rel=0.02)
    assert places["c"].left < places["a"].left


def test_colours_go_from_plain_to_branched() -> None:
    """Stops of the scale have their own colours, what lies between is blended, and beyond the last it is the last."""
    assert [choose_colour(at) for at, _ in code_map.SCALE] == [colour for _, colour in code_map.SCALE]
    assert choose_colour(0.0) == choose_colour(1.0)
    assert choose_colour(1e9) == code_map.SCALE[-1][1]
    low, high = code_map.SCALE[0], code_map.SCALE[1]
    middle = choose_colour((low[0] + high[0]) / 2)
    assert all(
        min(one, two) <= between <= max(one, two)
        for one, two, between in zip(low[1], high[1], middle, strict=True)
    )


def test_what_is_read_is_coloured() -> None:
    """A file is grey until it has been read; then its colour says how branched it is, or that it does not compile."""
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


def test_ten_thousand_files_have_a_place() -> None:
    """Files too small for a pixel of their own are on the map all the same, within its edges."""
    pytest.importorskip("PIL", reason="Pillow is not installed: it draws the map")
    files = [file(str(number), 1 + number % 7, package=str(number % 300)) for number in range(10_000)]
    drawn = code_map.create_map(files)
    assert drawn is not None
    assert drawn.image.size == (WIDTH, HEIGHT + code_map.LEGEND)


def test_without_pil_or_files_there_is_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn then, and nothing is said."""
    assert code_map.create_map([]) is None
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert code_map.create_map([file("a", 1)]) is None
