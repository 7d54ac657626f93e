"""The semantic conventions of semconv.py as a registry of OpenTelemetry Weaver.

``python -m tests.support.semconv_registry`` writes the files of docs/semconv.
"""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path
from typing import Any, Final, get_args

import yaml

from otel_progress import semconv
from otel_progress.model import Outcome, Status
from otel_progress.operations import Condition

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "semconv"
REGISTRY: Final = FOLDER / "progress.yaml"
STANDARD: Final = (
    semconv.ERROR_TYPE,
    semconv.SERVICE_NAME,
    semconv.SERVICE_INSTANCE_ID,
    semconv.EXCEPTION_TYPE,
    semconv.EXCEPTION_MESSAGE,
    semconv.EXCEPTION_STACKTRACE,
)
"""Attributes that OpenTelemetry defines already."""
ENUMS: Final[dict[str, tuple[str, ...]]] = {
    semconv.STATUS: tuple(status.value for status in Status),
    semconv.ITEM_OUTCOME: tuple(outcome.value for outcome in Outcome),
}
_TYPES: Final = {"int or double": "double"}
_STABILITY: Final = "development"
_OPERATION: Final = (semconv.OPERATION_ID, semconv.OPERATION_TYPE, semconv.RUN, semconv.PATH)
_LEVEL: Final = (
    *_OPERATION,
    semconv.OPERATION_NAME,
    semconv.LEVEL_ID,
    semconv.LEVEL_TYPE,
    semconv.LEVEL_NAME,
    semconv.DEPTH,
    semconv.ATTEMPT,
    semconv.CURRENT,
    semconv.TOTAL,
    semconv.UNIT,
    semconv.RATIO,
    semconv.FAILED,
    semconv.SKIPPED,
    semconv.STATUS,
    semconv.MESSAGE,
    semconv.SEQUENCE,
    semconv.BATCH_ID,
    semconv.PARENT,
    semconv.START_TIME,
    semconv.DEADLINE,
    semconv.STALL_AFTER,
    semconv.ESTIMATED,
    semconv.FAILED_BELOW,
    semconv.RESUMED_FROM,
    semconv.LEVEL_WEIGHT,
    semconv.LEVEL_ORDER,
    semconv.LEVEL_DECLARED,
    semconv.CURRENT_STAGE,
    semconv.PAUSE_START_TIME,
    semconv.PAUSE_DURATION,
)
EVENT_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    semconv.EVENT_STARTED: _LEVEL,
    semconv.EVENT_UPDATED: _LEVEL,
    semconv.EVENT_STALLED: _LEVEL,
    semconv.EVENT_FINISHED: (
        *_LEVEL,
        semconv.ENDED_EARLY,
        semconv.ERROR_TYPE,
        semconv.EXCEPTION_MESSAGE,
    ),
    semconv.EVENT_ITEM: (
        *_OPERATION,
        semconv.ITEM_NAME,
        semconv.ITEM_OUTCOME,
        semconv.ERROR_TYPE,
        semconv.EXCEPTION_MESSAGE,
    ),
    semconv.EVENT_PREVIEW: (
        *_OPERATION,
        semconv.RATIO,
        semconv.PREVIEW_NAME,
        semconv.PREVIEW_NUMBER,
        semconv.PREVIEW_MEDIA_TYPE,
        semconv.PREVIEW_URL,
    ),
    semconv.EVENT_HEARTBEAT: (semconv.SERVICE_INSTANCE_ID,),
}
"""Attributes of each event."""
_LABEL_VALUES: Final = {
    "condition": tuple(condition.value for condition in Condition),
    "status": tuple(status.value for status in Status),
    "metric_group": get_args(semconv.SeriesGroup),
    "signal": get_args(semconv.ReceivedSignal),
    "transport": get_args(semconv.Transport),
}


def read_docstrings() -> dict[str, str]:
    """Return the texts below the constants of semconv.py, each on one line."""
    body = ast.parse(inspect.getsource(semconv)).body
    texts = {}
    for node, following in itertools.pairwise(body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            texts[node.target.id] = " ".join(str(following.value.value).split())
    return texts


def build_registry() -> dict[str, Any]:
    """Return the document of the registry."""
    texts = read_docstrings()
    names = {
        getattr(semconv, constant): text
        for constant, text in texts.items()
        if isinstance(getattr(semconv, constant, None), str)
    }
    attributes = [_build_attribute(name, names[name]) for name in semconv.ATTRIBUTES if name not in STANDARD]
    attributes.append(
        {
            "id": semconv.METADATA_PREFIX.rstrip("."),
            "type": "template[string]",
            "brief": "Metadata of the caller, by key.",
            "stability": _STABILITY,
            "examples": ["users"],
        }
    )
    labels = sorted({label for metric in semconv.METRICS for label in metric.labels})
    return {
        "groups": [
            {
                "id": "registry.progress",
                "type": "attribute_group",
                "display_name": "Progress attributes",
                "brief": "Progress of operations and of the levels below them.",
                "attributes": attributes,
            },
            {
                "id": "registry.progress.labels",
                "type": "attribute_group",
                "display_name": "Attributes of progress metrics",
                "brief": "Attributes of the metrics, which are the labels in Prometheus.",
                "attributes": [_build_label(label) for label in labels],
            },
            *(_build_event(name, names[name]) for name in semconv.EVENTS),
            *map(_build_metric, semconv.METRICS),
        ]
    }


def _build_attribute(name: str, text: str) -> dict[str, Any]:
    brief, _, kind = text.rpartition(". ")
    values = ENUMS.get(name)
    if values is not None:
        return {
            "id": name,
            "type": {"members": [_build_member(value) for value in values]},
            "brief": "State of the level." if name == semconv.STATUS else "Outcome of the unit of work.",
            "stability": _STABILITY,
        }
    type_ = _TYPES.get(kind, kind)
    examples = {"string": ["nightly"], "int": [3], "double": [0.5], "boolean": None}[type_]
    attribute = {"id": name, "type": type_, "brief": f"{brief}.", "stability": _STABILITY}
    return attribute if examples is None else {**attribute, "examples": examples}


def _build_label(label: str) -> dict[str, Any]:
    attribute: dict[str, Any] = {"id": label, "brief": f"Label `{label}`.", "stability": _STABILITY}
    values = _LABEL_VALUES.get(label)
    if values is None:
        return {**attribute, "type": "string", "examples": ["nightly"]}
    return {**attribute, "type": {"members": [_build_member(value) for value in values]}}


def _build_member(value: str) -> dict[str, Any]:
    return {"id": value, "value": value, "stability": _STABILITY}


def _build_event(name: str, text: str) -> dict[str, Any]:
    required = {semconv.OPERATION_ID, semconv.SERVICE_INSTANCE_ID}
    references = [
        {"ref": attribute, "requirement_level": "required" if attribute in required else "recommended"}
        for attribute in EVENT_ATTRIBUTES[name]
    ]
    return {
        "id": f"event.{name}",
        "type": "event",
        "name": name,
        "brief": text,
        "stability": _STABILITY,
        "attributes": references,
    }


def _build_metric(metric: semconv.Metric) -> dict[str, Any]:
    return {
        "id": f"metric.{metric.name}",
        "type": "metric",
        "metric_name": metric.name,
        "instrument": metric.kind,
        "unit": metric.unit,
        "brief": metric.help,
        "stability": _STABILITY,
        "attributes": [{"ref": label, "requirement_level": "required"} for label in metric.labels],
    }


def write_registry() -> None:
    """Write the document of the registry."""
    text = yaml.safe_dump(build_registry(), sort_keys=False, allow_unicode=True, width=96)
    REGISTRY.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_registry()
