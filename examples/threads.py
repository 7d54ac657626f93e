"""Threads: a child made from a handle belongs to that handle, in every thread.

The current level is part of the context, and a new thread starts with an empty one. So pass the handle: ``op.level(...)`` works
anywhere. Inside of ``with`` the child is the current level of its own thread.

    python examples/threads.py
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor

import otel_progress as progress

BLOCKS = 200
BLOCK = bytes(range(256)) * 256


def compress(op: progress.Level, part: int) -> int:
    """Compress some blocks as a level of ``op``; return the compressed size in bytes."""
    with op.level("part", part, f"part {part}", total=BLOCKS, unit="block"):
        return sum(one_block(part, block) for block in range(BLOCKS))


def one_block(part: int, block: int) -> int:
    """Compress one block. Needs no handle: it counts on the current level."""
    size = len(zlib.compress(BLOCK, 1 + (part + block) % 9))
    progress.current_level().increment()
    return size


def main() -> None:
    """Compress eight parts in four threads."""
    progress.configure(service_name="threads-example")
    with (
        progress.operation("compression", "Eight parts", id="threads", total=8, unit="part") as op,
        ThreadPoolExecutor(max_workers=4) as pool,
    ):
        sizes = list(pool.map(lambda part: compress(op, part), range(8)))
    done = progress.get_operation("threads")
    if done is not None:
        overall = done.get_overall_progress()
        print(
            f"{overall.completed}/{overall.total} parts, {sum(level.current for level in done.levels)} blocks, {sum(sizes)} bytes"
        )


if __name__ == "__main__":
    main()
