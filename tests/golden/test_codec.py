"""JSON documents of every record, and the three formats of an export."""

from __future__ import annotations

import json

import pytest

from otel_progress import codec
from otel_progress.exports import EXPORTERS
from tests.support.golden.files import Golden
from tests.support.golden.sample_journal import (
    NOW_CLOCK,
    batch_snapshot,
    event_records,
    log_records,
    operation,
    preview,
    resource_use,
    running_levels,
    running_operation,
    sample,
    snapshot,
)


def _document(name: str) -> object:
    if name == "operation":
        return codec.encode_operation(running_operation())
    if name == "operation_min":
        return codec.encode_operation(operation(snapshot(), instance=None), levels=False)
    if name == "levels":
        return [codec.encode_level(level, NOW_CLOCK) for level in running_levels()]
    if name == "events":
        return [codec.encode_event(one) for one in event_records()]
    if name == "logs":
        return [codec.encode_log(one) for one in log_records()]
    if name == "preview":
        return codec.encode_preview(preview())
    if name == "sample":
        return codec.encode_sample(sample(1.5, gpu_ratio=0.5, gpu_memory_bytes=7))
    if name == "resources":
        return codec.encode_resources(resource_use())
    return codec.encode_batch(batch_snapshot())


DOCUMENTS = (
    "operation",
    "operation_min",
    "levels",
    "events",
    "logs",
    "preview",
    "sample",
    "resources",
    "batch",
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_of_record_equals_golden_file(golden: Golden, name: str) -> None:
    """Names, order and values of the fields in compact JSON."""
    golden.json(f"codec/{name}.json", json.loads(codec.dumps(_document(name))))


def test_decoded_document_equals_its_record() -> None:
    """Decoding an encoded record returns an equal record."""
    found = running_operation()
    assert codec.decode_operation(codec.encode_operation(found)) == found
    assert [codec.decode_event(codec.encode_event(one)) for one in event_records()] == event_records()
    assert [codec.decode_log(codec.encode_log(one)) for one in log_records()] == log_records()


@pytest.mark.parametrize("name", ["json", "jsonl", "csv"])
def test_export_equals_golden_file(golden: Golden, name: str) -> None:
    """Every line of an export, byte for byte."""
    golden.text(
        f"export/export.{name}", "\n".join(EXPORTERS[name](running_operation(), event_records())) + "\n"
    )
