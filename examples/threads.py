"""Threads: pass the handle of the parent level to each thread.

The current level belongs to the context, and a new thread starts with an empty context. Therefore
pass the handle: ``op.level(...)`` works in every thread. Inside ``with`` the new level is the
current level of its thread.

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
    """Compress some blocks as a level of ``op``. Return the compressed size in bytes."""
    with op.level("part", part, f"part {part}", total=BLOCKS, unit="block"):
        return sum(compress_block(part, block) for block in range(BLOCKS))


def compress_block(part: int, block: int) -> int:
    """Compress one block and count it in the current level, without a handle."""
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
        blocks = sum(level.current for level in done.levels)
        print(f"{overall.completed}/{overall.total} parts, {blocks} blocks, {sum(sizes)} bytes")


if __name__ == "__main__":
    main()
