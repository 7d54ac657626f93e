"""Group five hundred small operations of a thread pool, some of which fail, in a batch.

Each file is an operation with its own status and error. The batch counts them, has a ratio and a remaining time, and lists
the failed ones. Other processes join it by its id.

    python examples/batch.py
    otel-progress show checksums --errors
"""

# ruff: noqa: T201 - an example prints its result

from __future__ import annotations

import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import otel_progress as progress

FILES = 500
SIZE = 64 * 1024


class DamagedError(Exception):
    """A file does not match its checksum."""


def write_files(folder: Path) -> list[Path]:
    """Write files that end with their checksum; every twentieth file has a wrong byte."""
    paths = []
    for number in range(FILES):
        data = bytearray((number + index) % 251 for index in range(256)) * (SIZE // 256)
        trailer = zlib.crc32(data).to_bytes(4, "big")
        if number % 20 == 0:
            data[100] ^= 1
        paths.append(folder / f"file-{number:03}.bin")
        paths[-1].write_bytes(data + trailer)
    return paths


def verify(batch: progress.OperationBatch, path: Path) -> None:
    """Compare one file with its checksum, as an operation of the batch."""
    with (
        suppress(DamagedError),
        batch.operation("verify", path.name, id=path.stem, total=SIZE, unit="byte") as op,
    ):
        content = path.read_bytes()
        data, expected = content[:-4], int.from_bytes(content[-4:], "big")
        op.increment(len(data))
        if zlib.crc32(data) != expected:
            msg = f"{path.name} has the checksum {zlib.crc32(data):08x} and should have {expected:08x}"
            raise DamagedError(msg)


def main() -> None:
    """Verify five hundred files in eight threads."""
    runtime = progress.configure(service_name="batch-example")
    with (
        tempfile.TemporaryDirectory() as folder,
        progress.batch("Checksums of the archive", id="checksums", total=FILES) as batch,
        ThreadPoolExecutor(max_workers=8) as pool,
    ):
        for path in write_files(Path(folder)):
            pool.submit(verify, batch, path)
    runtime.force_flush()
    found = batch.snapshot()
    print(
        f"{found.finished_count} of {found.total} files, {found.counts[progress.Status.FAILED]} damaged, batch {found.status}"
    )


if __name__ == "__main__":
    main()
