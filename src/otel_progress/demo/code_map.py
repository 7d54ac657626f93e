"""Treemap of source files: area by file size, colour by complexity.

Packages, and the files of each package, are laid out as a squarified treemap (Bruls, Huizing, van
Wijk: Squarified Treemaps, 2000). The map requires PIL.
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
"""Size of the map in pixels, and height of the legend below it."""


BACKGROUND: Final = (24, 26, 33)


UNREAD: Final = (58, 62, 74)
"""Colour of a file that is not examined yet."""


PLAIN: Final = (96, 112, 128)
"""Colour of a file without functions."""


BROKEN: Final = (255, 64, 160)
"""Colour of a file that does not compile."""


SCALE: Final = ((1.0, (38, 110, 190)), (2.5, (46, 170, 150)), (5.0, (240, 200, 70)), (10.0, (225, 75, 50)))
"""Colours by mean complexity of the functions of a file, blended in between."""


class Box(NamedTuple):
    """Rectangle in pixels."""

    left: float
    top: float
    width: float
    height: float


class CodeMap:
    """Map of files, coloured file by file."""

    def __init__(self, image: Image, boxes: dict[str, Box]) -> None:
        from PIL.ImageDraw import Draw

        self.image = image
        self._draw = Draw(image)
        self._boxes = boxes
        for path in boxes:
            self._fill_box(path, UNREAD)
        self._draw_legend()

    def add(self, file: SourceFile, measures: Measures) -> None:
        """Colour an examined file."""
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
        # Boxes are separated by a line on the right and below, if they are large enough.
        right = max(left, round(box.left + box.width) - 2)
        bottom = max(top, round(box.top + box.height) - 2)
        self._draw.rectangle((left, top, right, bottom), fill=colour)

    def _draw_legend(self) -> None:
        entries = [
            (UNREAD, "unread"),
            (PLAIN, "no functions"),
            *((colour, f"{complexity:g}") for complexity, colour in SCALE),
        ]
        entries[-1] = (SCALE[-1][1], f"complexity {SCALE[-1][0]:g} or more")
        entries.append((BROKEN, "does not compile"))
        left, top = 4, HEIGHT + 4
        for colour, label in entries:
            self._draw.rectangle((left, top + 1, left + 8, top + 9), fill=colour)
            self._draw.text((left + 12, top - 1), label, fill=(205, 208, 216))
            left += 12 + round(self._draw.textlength(label)) + 10


def create_map(files: Sequence[SourceFile]) -> CodeMap | None:
    """Return a map of unread files. None without PIL or without files."""
    if not files:
        return None
    try:
        from PIL import Image
    except ImportError:
        return None
    return CodeMap(Image.new("RGB", (WIDTH, HEIGHT + LEGEND), BACKGROUND), dict(layout_files(files)))


def layout_files(files: Sequence[SourceFile]) -> Iterator[tuple[str, Box]]:
    """Yield the path and rectangle of each file, the largest packages first.

    The area is the file's share of the bytes.
    """
    packages: dict[str, list[SourceFile]] = {}
    for file in files:
        packages.setdefault(file.folder[0], []).append(file)
    groups = sorted(packages.values(), key=_weigh_group, reverse=True)
    for group, box in zip(
        groups, squarify(list(map(_weigh_group, groups)), Box(0, 0, WIDTH, HEIGHT)), strict=True
    ):
        # Packages are separated by one pixel more than files.
        inner = box._replace(width=max(1.0, box.width - 1), height=max(1.0, box.height - 1))
        ordered = sorted(group, key=_weigh_file, reverse=True)
        for file, file_box in zip(ordered, squarify(list(map(_weigh_file, ordered)), inner), strict=True):
            yield file.path, file_box


def _weigh_file(file: SourceFile) -> int:
    return max(1, file.size)


def _weigh_group(files: Sequence[SourceFile]) -> int:
    return sum(map(_weigh_file, files))


def squarify(weights: Sequence[float], box: Box) -> Iterator[Box]:
    """Yield a nearly square rectangle for each weight.

    Together they fill ``box``. Weights are positive and descending.
    """
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
    """Return the worst aspect ratio in a row of areas along ``side``."""
    square = total * total
    return max(side * side * largest / square, square / (side * side * smallest))


def _layout_row(areas: Sequence[float], total: float, box: Box) -> Iterator[Box]:
    """Yield the rectangles of a row along the shorter side of the box."""
    offset = 0.0
    side = max(min(box.width, box.height), 1e-9)
    thick = total / side
    for area in areas:
        length = area / thick if thick else 0.0
        if box.width >= box.height:
            yield Box(box.left, box.top + offset, thick, length)
        else:
            yield Box(box.left + offset, box.top, length, thick)
        offset += length


def choose_colour(complexity: float) -> tuple[int, int, int]:
    """Return the colour of a mean complexity, the last one beyond the scale."""
    if complexity <= SCALE[0][0]:
        return SCALE[0][1]
    for (low, low_colour), (high, high_colour) in pairwise(SCALE):
        if complexity <= high:
            share = (complexity - low) / (high - low)
            red, green, blue = (
                round(start + share * (end - start))
                for start, end in zip(low_colour, high_colour, strict=True)
            )
            return red, green, blue
    return SCALE[-1][1]
