"""Output of ``buildx build --progress=rawjson``: JSON objects, one per line.

An object has ``vertexes`` (the steps), ``statuses`` (transfers within a step) and ``logs``. One
line may also be a part of an object, if the tool indents its output. Such lines are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from otel_progress.model import Status
from otel_progress.parsers.readings import LevelKey, Reading

if TYPE_CHECKING:
    from otel_progress.model import Number
    from otel_progress.parsers.lines import Line


MAX_STEPS: Final = 1000
"""Steps of one build. Further steps are ignored."""


MAX_TRANSFERS: Final = 1000
"""Transfers of one step. Further transfers are ignored."""


_UNIT: Final = "byte"
"""Unit of the transfers of a step."""


_DIGEST_CHARACTERS: Final = 12


_PARSE_ERRORS: Final = (ValueError, RecursionError)


class _Step:
    """A step of the build, with the bytes of its transfers as current and total."""

    __slots__ = ("is_ended", "key", "transfers")

    def __init__(self, key: LevelKey) -> None:
        self.key = key
        self.is_ended = False
        self.transfers: dict[str, tuple[Number, Number]] = {}


class BuildxParser:
    """Parser of ``--progress=rawjson``: a level per step, which counts in the build."""

    is_stateless = False

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: dict[str, _Step] = {}

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the progress of the build and of its steps."""
        if line.is_truncated or not line.text.startswith('{"'):
            return ()
        try:
            document = json.loads(line.text)
        except _PARSE_ERRORS:
            return ()
        if not isinstance(document, dict):
            return ()
        readings: list[Reading] = []
        known_steps = len(self._steps)
        for vertex in _list_objects(document, "vertexes"):
            self._read_vertex(vertex, readings)
        for status in _list_objects(document, "statuses"):
            self._read_status(status, readings)
        if len(self._steps) != known_steps:
            # Why first: a child that ends counts as a unit, so the total has to include it.
            readings.insert(0, Reading(total=len(self._steps), unit="step"))
        return readings

    def _read_vertex(self, vertex: Mapping[str, Any], readings: list[Reading]) -> None:
        digest = vertex.get("digest")
        if not isinstance(digest, str) or not digest:
            return
        step = self._steps.get(digest)
        if step is None:
            if len(self._steps) >= MAX_STEPS:
                return
            name = vertex.get("name")
            text = name if isinstance(name, str) and name else digest
            id_ = digest.rpartition(":")[2][:_DIGEST_CHARACTERS] or digest[:_DIGEST_CHARACTERS]
            step = self._steps[digest] = _Step(LevelKey("step", id_, text[:200]))
        if step.is_ended or not vertex.get("started"):
            return
        error = vertex.get("error")
        if isinstance(error, str) and error:
            step.is_ended = True
            readings.append(Reading(step.key, unit=_UNIT, message=error[:1000], status=Status.FAILED))
        elif vertex.get("completed"):
            step.is_ended = True
            message = "cached" if vertex.get("cached") is True else None
            readings.append(Reading(step.key, unit=_UNIT, message=message, status=Status.COMPLETED))
        else:
            readings.append(Reading(step.key, unit=_UNIT))

    def _read_status(self, status: Mapping[str, Any], readings: list[Reading]) -> None:
        step = self._steps.get(status["vertex"]) if isinstance(status.get("vertex"), str) else None
        id_, current, total = status.get("id"), status.get("current", 0), status.get("total", 0)
        if step is None or step.is_ended or not isinstance(id_, str):
            return
        if not _is_amount(current) or not _is_amount(total) or current > total or total <= 0:
            return
        if id_ not in step.transfers and len(step.transfers) >= MAX_TRANSFERS:
            return
        step.transfers[id_] = (current, total)
        readings.append(
            Reading(
                step.key,
                current=sum(part for part, _ in step.transfers.values()),
                total=sum(whole for _, whole in step.transfers.values()),
                unit=_UNIT,
                message=id_[:200],
            )
        )


def _list_objects(document: Mapping[str, Any], key: str) -> Iterable[Mapping[str, Any]]:
    values = document.get(key)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else ()


def _is_amount(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**63 and isfinite(value)  # type: ignore[operator,arg-type]
