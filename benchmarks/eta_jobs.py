"""Five real jobs with recorded progress: read, compress, hash, parse, compute.

Each job takes files of the standard library and a size (1.0 is usual). It works within the given
operation. The jobs resemble real ones: steps of different length, work that gets cheaper or more
expensive, stages of unknown weight, and children on a pool with more workers than cores.
"""

from __future__ import annotations

import ast
import bz2
import hashlib
import io
import lzma
import sysconfig
import tokenize
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from otel_progress import Level

T = TypeVar("T")
POOL_WORKERS: Final = 2
_STAGE_WORKERS: Final = 4


@dataclass(frozen=True, slots=True)
class Job:
    """A kind of work: ``run(operation, files, size)``.

    ``declared`` has its stages, ``workers`` the size of its pool.
    """

    name: str
    run: Callable[[Level, Sequence[Path], float], None]
    declared: Mapping[str, float] = field(default_factory=dict)
    workers: int | None = None


def corpus(smallest: int = 2_000, largest: int = 120_000) -> list[Path]:
    """Return the modules of the standard library between two sizes in bytes, by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(
        path for path in root.rglob("*.py") if not {"site-packages", "test", "tests"} & set(path.parts)
    )
    return [path for path in found if smallest <= path.stat().st_size <= largest]


def some(files: Sequence[Path], count: float, seed: str) -> list[Path]:
    """Return about ``count`` of the files in order, another choice per seed."""
    chosen = Random(seed).sample(range(len(files)), min(len(files), max(4, round(count))))
    return [files[index] for index in sorted(chosen)]


def compress(operation: Level, files: Sequence[Path], size: float) -> None:
    """Compress and hash files in sequence. A step is a file, and sizes differ much."""
    chosen = some(files, 340 * size, f"compress {size}")
    operation.set_total(len(chosen))
    for path in chosen:
        data = path.read_bytes()
        hashlib.sha256(bz2.compress(data) + zlib.compress(data, 9)).hexdigest()
        operation.increment()


def parse(operation: Level, files: Sequence[Path], size: float) -> None:
    """Parse modules into trees and walk them."""
    operation.set_total(1)
    for path in operation.track(some(files, 260 * size, f"parse {size}"), "modules"):
        tree = ast.parse(path.read_bytes())
        sum(1 for node in ast.walk(tree) if isinstance(node, ast.Name))


def eliminate(operation: Level, files: Sequence[Path], size: float) -> None:  # noqa: ARG001 - all jobs are called alike
    """Reduce a dense matrix to triangular form.

    The k-th of n columns costs (n - k)², so half of the columns are 7/8 of the work.
    """
    order = round(360 * size ** (1 / 3))
    random = Random(order)
    rows = [[random.uniform(-1.0, 1.0) for _ in range(order)] for _ in range(order)]
    operation.set_total(order)
    for column in range(order):
        pivot = max(range(column, order), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = rows[column][column:]
        for row in rows[column + 1 :]:
            factor = row[column] / head[0]
            row[column:] = [value - factor * above for value, above in zip(row[column:], head, strict=True)]
        operation.update(current=column + 1)


def pipeline(operation: Level, files: Sequence[Path], size: float) -> None:
    """Run four stages with equal declared weights and different durations.

    They read, tokenise and pack on a pool. The last stage reports nothing until its end.
    """
    chosen = some(files, 150 * size, f"pipeline {size}")
    with operation.stage("read") as stage:
        stage.set_total(len(chosen))
        texts = [_counted(stage, path.read_bytes()) for path in chosen]
    with operation.stage("tokenise") as stage:
        sampled = texts[::3]
        stage.set_total(len(sampled))
        for text in sampled:
            _counted(stage, sum(1 for _ in tokenize.tokenize(io.BytesIO(text).readline)))
    with operation.stage("pack") as stage, ThreadPoolExecutor(_STAGE_WORKERS) as pool:
        stage.set_total(len(texts))
        packed = list(
            pool.map(lambda text: _counted(stage, lzma.compress(text, preset=6 | lzma.PRESET_EXTREME)), texts)
        )
    with operation.stage("verify"):
        whole = bz2.compress(b"".join(texts))
        if [lzma.decompress(small) for small in packed] != texts or len(bz2.decompress(whole)) != sum(
            map(len, texts)
        ):
            msg = "the unpacked data differ from the packed data"
            raise AssertionError(msg)


def _counted(level: Level, value: T) -> T:
    level.increment()
    return value


def pool(operation: Level, files: Sequence[Path], size: float) -> None:
    """Pack bundles of files on a few workers, each as a child.

    The sizes of the bundles differ by a factor of ten.
    """
    chosen = some(files, 400 * size, f"pool {size}")
    random = Random("bundles")  # The pattern is the same in every run, the content is not.
    bundles: list[list[Path]] = []
    while chosen:
        count = random.choice((5, 7, 10, 15, 20, 50))
        bundles.append(chosen[:count])
        del chosen[:count]
    operation.set_total(len(bundles))

    def pack(number: int) -> int:
        with operation.level("bundle", number):
            return len(lzma.compress(b"".join(path.read_bytes() for path in bundles[number]), preset=6))

    with ThreadPoolExecutor(POOL_WORKERS) as executor:
        list(executor.map(pack, range(len(bundles))))


JOBS: Final[tuple[Job, ...]] = (
    Job("compress", compress),
    Job("parse", parse),
    Job("eliminate", eliminate),
    Job("pipeline", pipeline, declared={"read": 1, "tokenise": 1, "pack": 1, "verify": 1}),
    Job("pool", pool, workers=POOL_WORKERS),
)
"""Recorded jobs in the order of each round."""
