"""A map of the code: a rectangle for each file, as large as the file, coloured by how branched it is once it has been read.

Packages are laid out as a squarified treemap (Bruls, Huizing, van Wijk: Squarified Treemaps, 2000), the files of each within its
rectangle. PIL draws it where it is installed; without it there is no map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_progress.demo.measure import Measures
from otel_progress.demo.sources import SourceFile

if TYPE_CHECKING:
    from PIL.Image import Image


WIDTH, HEIGHT, LEGEND = 512, 320, 18
"""Pixels of the map; the legend is below it."""


BACKGROUND: Final = (24, 26, 33)


UNREAD: Final = (58, 62, 74)


PLAIN: Final = (96, 112, 128)
"""The colour of a file without functions."""


BROKEN: Final = (255, 64, 160)
"""The colour of a file that does not compile."""


SCALE: Final = ((1.0, (38, 110, 190)), (2.5, (46, 170, 150)), (5.0, (240, 200, 70)), (10.0, (225, 75, 50)))
"""Colours by the mean complexity of a file's functions, with those between them blended; beyond the last it is the last."""


class Box(NamedTuple):
    """A rectangle: left, top, width, height, in pixels."""

    left: float
    top: float
    width: float
    height: float


class CodeMap:
    """The map of some files, drawn file by file."""

    def __init__(self, image: Image, boxes: dict[str, Box]) -> None:
        from PIL.ImageDraw import Draw

        self.image = image
        self._draw = Draw(image)
        self._boxes = boxes
        for path in boxes:
            self._fill_box(path, UNREAD)
        self._draw_legend()

    def add(self, file: SourceFile, measures: Measures) -> None:
        """Colour a file that has been examined."""
        functions = measures.functions
        mean = sum(function.complexity for function in functions) / len(functions) if functions else None
        self._fill_box(file.path, PLAIN if mean is None else choose_colour(mean))

    def add_problem(self, file: SourceFile) -> None:
        """Colour a file that could not be examined."""
        self._fill_box(file.path, BROKEN)

    def _fill_box(self, path: str, colour: tuple[int, int, int]) -> None:
        box = self._boxes.get(path)
        if box is None:
            return
        left, top = round(box.left), round(box.top)
        # A line is left free to the right and below, where there is room for one.
        right = max(left, round(box.left + box.width) - 2)
        bottom = max(top, round(box.top + box.height) - 2)
        self._draw.rectangle((left, top, right, bottom), fill=colour)

    def _draw_legend(self) -> None:
        entries = [
            (UNREAD, "not read yet"),
            (PLAIN, "no functions"),
            *((colour, f"{at:g}") for at, colour in SCALE),
        ]
        entries[-1] = (SCALE[-1][1], f"{SCALE[-1][0]:g} branches and more")
        entries.append((BROKEN, "does not compile"))
        left, top = 4, HEIGHT + 4
        for colour, words in entries:
            self._draw.rectangle((left, top + 1, left + 8, top + 9), fill=colour)
            self._draw.text((left + 12, top - 1), words, fill=(205, 208, 216))
            left += 12 + round(self._draw.textlength(words)) + 10


def create_map(files: Sequence[SourceFile]) -> CodeMap | None:
    """Return the map of files that are still to be read; None without PIL, or without files."""
    if not files:
        return None
    try:
        from PIL import Image
    except ImportError:
        return None
    return CodeMap(Image.new("RGB", (WIDTH, HEIGHT + LEGEND), BACKGROUND), dict(layout_files(files)))


def layout_files(files: Sequence[SourceFile]) -> Iterator[tuple[str, Box]]:
    """Yield the path of each file with its rectangle, whose area is its share of the bytes; the largest packages come first."""
    packages: dict[str, list[SourceFile]] = {}
    for file in files:
        packages.setdefault(file.folder[0], []).append(file)
    groups = sorted(packages.values(), key=_weigh_group, reverse=True)
    for group, box in zip(
        groups, squarify(list(map(_weigh_group, groups)), Box(0, 0, WIDTH, HEIGHT)), strict=True
    ):
        # A pixel more between packages than between files.
        inner = box._replace(width=max(1.0, box.width - 1), height=max(1.0, box.height - 1))
        ordered = sorted(group, key=_weigh_file, reverse=True)
        for file, place in zip(ordered, squarify(list(map(_weigh_file, ordered)), inner), strict=True):
            yield file.path, place


def _weigh_file(file: SourceFile) -> int:
    return max(1, file.size)


def _weigh_group(files: Sequence[SourceFile]) -> int:
    return sum(map(_weigh_file, files))


def squarify(weights: Sequence[float], box: Box) -> Iterator[Box]:
    """Yield a rectangle for each weight (above 0, descending) that together fill ``box``, as near to squares as they come."""
    scale = box.width * box.height / sum(weights) if weights else 0.0
    areas = [weight * scale for weight in weights]
    start = 0
    while start < len(areas):
        side = max(min(box.width, box.height), 1e-9)
        end, total = start + 1, areas[start]
        while end < len(areas) and _worst_ratio(
            areas[start], areas[end], total + areas[end], side
        ) <= _worst_ratio(areas[start], areas[end - 1], total, side):
            total += areas[end]
            end += 1
        yield from _layout_row(areas[start:end], total, box)
        thick = total / side
        if box.width >= box.height:
            box = Box(box.left + thick, box.top, max(0.0, box.width - thick), box.height)
        else:
            box = Box(box.left, box.top + thick, box.width, max(0.0, box.height - thick))
        start = end


def _worst_ratio(largest: float, smallest: float, total: float, side: float) -> float:
    """Return the worst ratio of sides in a row of areas that is laid along ``side``."""
    square = total * total
    return max(side * side * largest / square, square / (side * side * smallest))


def _layout_row(areas: Sequence[float], total: float, box: Box) -> Iterator[Box]:
    """Yield the rectangles of one row, along the shorter side of the box."""
    along = 0.0
    side = max(min(box.width, box.height), 1e-9)
    thick = total / side
    for area in areas:
        length = area / thick if thick else 0.0
        if box.width >= box.height:
            yield Box(box.left, box.top + along, thick, length)
        else:
            yield Box(box.left + along, box.top, length, thick)
        along += length


def choose_colour(complexity: float) -> tuple[int, int, int]:
    """Return the colour of a mean complexity."""
    if complexity <= SCALE[0][0]:
        return SCALE[0][1]
    for (low, before), (high, after) in pairwise(SCALE):
        if complexity <= high:
            share = (complexity - low) / (high - low)
            red, green, blue = (
                round(one + share * (other - one)) for one, other in zip(before, after, strict=True)
            )
            return red, green, blue
    return SCALE[-1][1]
