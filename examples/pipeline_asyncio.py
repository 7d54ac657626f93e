"""A pipeline of asyncio tasks with stages and a level per document.

python examples/pipeline_asyncio.py
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import otel_progress as progress

STAGES = progress.Stages(find=0.1, read=0.8, merge=0.1)


async def lines(path: Path) -> AsyncIterator[str]:
    """Yield the lines of a file. Other tasks run in between."""
    for line in (await asyncio.to_thread(path.read_text, encoding="utf-8")).splitlines():
        await asyncio.sleep(0)
        yield line


async def count_words(parent: progress.Level, path: Path, limit: asyncio.Semaphore) -> Counter[str]:
    """Count the words of one file as a level below ``parent``."""
    words: Counter[str] = Counter()
    async with limit, parent.level("document", path.name, path.name, unit="line") as level:
        async for line in level.track(lines(path), "lines", unit="line"):
            words.update(line.split())
        level.update(words=sum(words.values()))
    return words


async def main() -> None:
    """Count the words of the examples in this folder."""
    progress.configure(service_name="pipeline-example")
    async with progress.operation("word_count", "Words of the examples", id="pipeline", stages=STAGES) as op:
        async with op.stage("find") as stage:
            paths = sorted(Path(__file__).parent.glob("*.py"))
            stage.update(message=f"{len(paths)} files")
        async with op.stage("read") as stage:
            stage.set_total(len(paths))
            limit = asyncio.Semaphore(2)
            counted = await asyncio.gather(*(count_words(stage, path, limit) for path in paths))
        async with op.stage("merge") as stage:
            words = sum(counted, Counter[str]())
            stage.update(message=f"{len(words)} different words")
    print(", ".join(f"{word} ({count})" for word, count in words.most_common(3)))


if __name__ == "__main__":
    asyncio.run(main())
