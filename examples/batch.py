"""Verify 500 files in a thread pool as a batch of operations.

Each file is an operation with its own status and error. The batch counts them, estimates its own
progress and end, and lists the failed operations. Other processes can join the batch by its ID.

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
    """Checksum mismatch of a file."""


def write_files(folder: Path) -> list[Path]:
    """Write files that end with their checksum. Every twentieth file is damaged."""
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
            msg = f"{path.name} has the checksum {zlib.crc32(data):08x}, expected {expected:08x}"
            raise DamagedError(msg)


def main() -> None:
    """Verify 500 files in eight threads."""
    runtime = progress.configure(service_name="batch-example")
    with (
        tempfile.TemporaryDirectory() as folder,
        progress.batch("Checksums of the archive", id="checksums", total=FILES) as batch,
        ThreadPoolExecutor(max_workers=8) as pool,
    ):
        for path in write_files(Path(folder)):
            pool.submit(verify, batch, path)
    runtime.force_flush()
    result = batch.snapshot()
    damaged = result.counts[progress.Status.FAILED]
    print(f"{result.finished_count} of {result.total} files, {damaged} damaged, batch {result.status}")


if __name__ == "__main__":
    main()
