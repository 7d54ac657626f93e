"""Transfers of boto3 and s3transfer with a server that speaks S3."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_progress as progress
from otel_progress import LevelSnapshot, Status, diagnostics
from otel_progress.testing import Recorder
from tests.support.s3_server import S3Server, serving_s3

boto3 = pytest.importorskip("boto3", reason="these tests run the real library")

from boto3.s3.transfer import TransferConfig  # noqa: E402
from botocore.config import Config  # noqa: E402
from botocore.exceptions import ClientError  # noqa: E402
from s3transfer.manager import TransferConfig as ManagerConfig  # noqa: E402
from s3transfer.manager import TransferManager  # noqa: E402

from otel_progress.integrations.s3 import ProgressCallback, ProgressSubscriber  # noqa: E402

SIZE = 20 * 1024 * 1024
BODY = random.Random(3).randbytes(1024) * (SIZE // 1024)
PART = 5 * 1024 * 1024
CONFIG = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
MANAGER = ManagerConfig(multipart_threshold=PART, multipart_chunksize=PART, max_request_concurrency=4)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with serving_s3() as running:
        running.objects["bucket/video.mp4"] = BODY
        yield running


@pytest.fixture(scope="module")
def client(server: S3Server) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(
            s3={"addressing_style": "path"},
            retries={"max_attempts": 3, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    yield client
    client.close()


@pytest.fixture
def op(recorder: Recorder) -> Iterator[progress.Level]:
    """A running operation. Invalid values raise."""
    assert recorder.runtime is not None
    with progress.operation("backup", id="backup-1") as operation:
        yield operation
    assert sum(diagnostics.internal_error_counts.values()) == 0


def get_levels() -> list[LevelSnapshot]:
    operation = progress.get_operation("backup-1")
    assert operation is not None
    return sorted(operation.levels, key=lambda level: level.info.order)


def get_only_level() -> LevelSnapshot:
    (level,) = get_levels()
    return level


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "upload.bin"
    path.write_bytes(BODY)
    return path


@pytest.mark.parametrize("threads", [True, False])
def test_callback_of_download_counts_each_byte(
    threads: bool, client: Any, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    config = TransferConfig(
        multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4, use_threads=threads
    )
    size = client.head_object(Bucket="bucket", Key="video.mp4")["ContentLength"]
    with ProgressCallback("folder/video.mp4", total=size, bucket="bucket") as callback:
        client.download_file(
            "bucket", "video.mp4", str(tmp_path / "target"), Callback=callback, Config=config
        )
    level = get_only_level()
    assert (level.status, level.current, level.total) == (Status.COMPLETED, SIZE, SIZE)
    assert (level.info.name, level.info.type, level.info.unit) == ("video.mp4", "transfer", "B")
    assert dict(level.metadata) == {"bucket": "bucket"}
    assert (tmp_path / "target").read_bytes() == BODY


def test_callback_of_upload_in_parts_counts_each_byte(
    client: Any, server: S3Server, path: Path, op: progress.Level
) -> None:
    assert op.recording
    with ProgressCallback("upload.bin", total=SIZE) as callback:
        client.upload_file(str(path), "bucket", "upload.bin", Callback=callback, Config=CONFIG)
    level = get_only_level()
    assert (level.status, level.current, level.total) == (Status.COMPLETED, SIZE, SIZE)
    assert server.objects["bucket/upload.bin"] == BODY


@pytest.mark.parametrize("fault", ["broken_reads", "failing_writes"])
def test_callback_of_retried_part_counts_each_byte_once(
    fault: str, client: Any, server: S3Server, path: Path, op: progress.Level
) -> None:
    assert op.recording
    faults: set[str] = getattr(server, fault)
    faults.add("bucket/video.mp4" if fault == "broken_reads" else "bucket/upload.bin")
    counts: list[int] = []
    with ProgressCallback("video.mp4", total=SIZE) as callback:

        def count(size: int) -> None:
            counts.append(size)
            callback(size)

        if fault == "broken_reads":
            client.download_file("bucket", "video.mp4", str(path), Callback=count, Config=CONFIG)
        else:
            client.upload_file(str(path), "bucket", "upload.bin", Callback=count, Config=CONFIG)
        assert get_only_level().current == SIZE
    assert faults == set()  # they occurred
    assert fault == "failing_writes" or min(counts) < 0  # a part was announced to be repeated


def test_callback_of_missing_object_fails(client: Any, tmp_path: Path, op: progress.Level) -> None:
    assert op.recording
    with pytest.raises(ClientError), ProgressCallback("missing") as callback:
        client.download_file("bucket", "missing", str(tmp_path / "target"), Callback=callback)
    assert get_only_level().status is Status.FAILED


def test_callback_from_threads_is_exact(op: progress.Level) -> None:
    assert op.recording
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        callback = ProgressCallback("video.mp4", total=4 * 500 * 7 + 100)

        def count() -> None:
            for _ in range(500):
                callback(10)
                callback(-3)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        callback(100)
    finally:
        sys.setswitchinterval(interval)
    callback.close()
    level = get_only_level()
    assert (level.status, level.current) == (Status.COMPLETED, 4 * 500 * 7 + 100)


def test_callback_with_unusual_values_never_raises(op: progress.Level) -> None:
    assert op.recording
    with ProgressCallback(total=10) as callback:
        callback(0)
        callback(-5)
        callback("x")  # type: ignore[arg-type]
        callback(20)
    callback(5)
    callback.close()
    level = get_only_level()
    assert (level.status, level.current, level.total) == (Status.COMPLETED, 15, None)


def test_subscriber_records_a_level_per_transfer(
    client: Any, server: S3Server, path: Path, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    subscriber = ProgressSubscriber(bucket="bucket")
    with TransferManager(client, MANAGER) as manager:
        futures = [
            manager.download("bucket", "video.mp4", str(tmp_path / "target"), subscribers=[subscriber]),
            manager.upload(str(path), "bucket", "two/upload.bin", subscribers=[subscriber]),
            manager.copy({"Bucket": "bucket", "Key": "missing"}, "bucket", "three", subscribers=[subscriber]),
        ]
        for future in futures[:2]:
            future.result()
        with pytest.raises(ClientError):
            futures[2].result()
    levels = {level.info.name: level for level in get_levels()}
    for name in ("video.mp4", "upload.bin"):
        level = levels[name]
        assert (level.status, level.current, level.total) == (Status.COMPLETED, SIZE, SIZE)
        assert dict(level.metadata) == {"bucket": "bucket"}
    assert levels["three"].status is Status.FAILED
    assert levels["three"].error is not None
    assert "ClientError" in (levels["three"].error.type or "")
    assert subscriber._active == {}
    assert server.objects["bucket/two/upload.bin"] == BODY


def test_subscriber_of_cancelled_transfer_cancels_its_level(
    client: Any, tmp_path: Path, op: progress.Level
) -> None:
    assert op.recording
    with TransferManager(client, MANAGER) as manager:
        future = manager.download(
            "bucket", "video.mp4", str(tmp_path / "target"), subscribers=[ProgressSubscriber()]
        )
        future.cancel()
    assert get_only_level().status in (Status.CANCELLED, Status.COMPLETED)
    manager = TransferManager(client, MANAGER)
    manager.download("bucket", "video.mp4", str(tmp_path / "two"), subscribers=[ProgressSubscriber()])
    manager.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert {level.status for level in get_levels()} <= {Status.CANCELLED, Status.COMPLETED}


def test_subscriber_without_operation_has_an_operation_per_transfer(
    client: Any, tmp_path: Path, recorder: Recorder
) -> None:
    assert recorder.runtime is not None
    with TransferManager(client, MANAGER) as manager:
        manager.download("bucket", "video.mp4", str(tmp_path / "x"), subscribers=[ProgressSubscriber()])
    (operation,) = progress.get_history()
    assert (operation.operation_type, operation.root.current) == ("transfer", SIZE)


def test_callback_and_subscriber_without_configuration_do_nothing(client: Any, tmp_path: Path) -> None:
    with ProgressCallback("video.mp4") as callback:
        client.download_file("bucket", "video.mp4", str(tmp_path / "target"), Callback=callback)
    with TransferManager(client, MANAGER) as manager:
        manager.download("bucket", "video.mp4", str(tmp_path / "x"), subscribers=[ProgressSubscriber()])
    assert (tmp_path / "x").stat().st_size == SIZE
