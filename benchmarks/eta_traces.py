"""Trace files of recorded runs: format, writing, reading and validation.

A file is JSON lines, with gzip if its name ends in ``.gz``. There are two formats. Own files have a
header line, then a run per line with ``points`` as (elapsed seconds, ratio). Published files have a
run per line with ``checkpoints_s``, the times of equal units of work.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

from otel_progress.records import Trajectory

Points: TypeAlias = "tuple[tuple[float, float], ...]"
FORMAT: Final = "otel-progress-traces/1"
FOLDER: Final = Path(__file__).resolve().with_name("traces")
SHARED: Final = Path(__file__).resolve().parents[1] / "../shared/data/eta"
MOST_POINTS: Final = 64
"""Maximum number of points of a run in the history."""
_LONGEST_LINE: Final = 4_000_000


class TraceError(Exception):
    """Invalid trace file. The message has the place, the value and the expectation."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of an own file: system, time and load of the recording."""

    machine: str
    recorded: str
    shape: str
    burners: int
    load_before: float
    load_after: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run that succeeded.

    ``points`` are (elapsed seconds, ratio 0 to 1), ascending in both, from (0, 0). ``stages`` has
    durations by id. ``children`` are (start, duration) in seconds of work on ``workers`` workers,
    in
    order of their start.
    """

    workload: str
    system: str
    number: int
    duration_s: float
    points: Points
    stages: Mapping[str, float] = field(default_factory=dict)
    children: Points = ()
    workers: int | None = None

    @property
    def trajectory(self) -> Trajectory:
        """The run as history, with at most the points that the journal stores."""
        last = len(self.points) - 1
        most = min(last, MOST_POINTS - 1)
        kept = (
            self.points
            if most == last
            else tuple(self.points[round(place * last / most)] for place in range(most + 1))
        )
        return Trajectory(self.duration_s, kept, self.stages)


Groups: TypeAlias = "dict[tuple[str, str], list[Run]]"
"""Runs of the same job on the same system in order, by (workload, system)."""


def write(path: Path, header: Header, runs: Iterable[Run]) -> None:
    """Write an own file. Equal runs have equal bytes."""
    lines = [{"format": FORMAT, **asdict(header)}]
    lines += [
        {name: value for name, value in asdict(run).items() if value} | {"number": run.number} for run in runs
    ]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def load(path: Path) -> Groups:
    """Return the runs of a file or of all trace files of a folder. Raises TraceError."""
    groups: Groups = {}
    for file in _files(path):
        for number, line in enumerate(_lines(file), 1):
            where = f"{file.name}, line {number}"
            document = _document(line, where)
            if document.get("format") == FORMAT:
                continue
            if "format" in document:
                msg = f"{where}: Invalid format {document['format']!r}: expected {FORMAT!r}"
                raise TraceError(msg)
            run = _run(document, where)
            groups.setdefault((run.workload, run.system), []).append(run)
    if not groups:
        msg = (
            f"Invalid trace file {path}: expected at least one run. "
            "A run is a line of JSON with workload, system, duration_s and points or checkpoints_s."
        )
        raise TraceError(msg)
    return {key: sorted(groups[key], key=lambda run: run.number) for key in sorted(groups)}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
        if not found:
            msg = f"Invalid folder {path}: expected at least one .jsonl or .jsonl.gz file"
            raise TraceError(msg)
        return found
    if not path.is_file():
        msg = f"Invalid path {path}: expected an existing .jsonl or .jsonl.gz file, or a folder"
        raise TraceError(msg)
    return [path]


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:
                    msg = f"Invalid trace file {path.name}: expected lines of at most {_LONGEST_LINE:,} bytes"
                    raise TraceError(msg)
                yield line.decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        msg = (
            f"Invalid trace file {path.name}: expected JSON lines in UTF-8, "
            f"with gzip if the name ends in .gz ({error})"
        )
        raise TraceError(msg) from error


def _document(line: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        msg = f"{where}: Invalid JSON: expected one object per line ({error})"
        raise TraceError(msg) from error
    if not isinstance(document, dict):
        msg = f"{where}: Invalid {type(document).__name__}: expected an object"
        raise TraceError(msg)
    return document


def _run(document: Mapping[str, Any], where: str) -> Run:
    names = [document.get(name) for name in ("workload", "system")]
    if not all(isinstance(name, str) and name for name in names):
        msg = f"{where}: Invalid workload {names[0]!r} or system {names[1]!r}: expected non-empty texts"
        raise TraceError(msg)
    number = document.get("number", document.get("run"))
    if type(number) is not int:
        msg = f"{where}: Invalid number {number!r}: expected an integer"
        raise TraceError(msg)
    duration = _seconds(document.get("duration_s"), "duration_s", where)
    if duration <= 0.0:
        msg = f"{where}: Invalid duration_s {duration!r}: expected more than 0"
        raise TraceError(msg)
    stages, workers = document.get("stages", {}), document.get("workers")
    if not isinstance(stages, dict) or not (workers is None or (type(workers) is int and workers > 0)):
        msg = (
            f"{where}: Invalid stages {stages!r} or workers {workers!r}: "
            "expected an object of seconds and an integer above 0"
        )
        raise TraceError(msg)
    return Run(
        workload=names[0],  # type: ignore[arg-type] # both were checked above
        system=names[1],  # type: ignore[arg-type]
        number=number,
        duration_s=duration,
        points=_points(document, duration, where),
        stages={str(name): _seconds(value, "a stage", where) for name, value in stages.items()},
        children=_pairs(document.get("children", []), "children", where),
        workers=workers,
    )


def _points(document: Mapping[str, Any], duration: float, where: str) -> Points:
    if "checkpoints_s" in document:
        times = document["checkpoints_s"]
        if not isinstance(times, list) or not times:
            msg = f"{where}: Invalid checkpoints_s: expected a non-empty list of seconds"
            raise TraceError(msg)
        points = (
            (0.0, 0.0),
            *((_seconds(at, "checkpoints_s", where), (i + 1) / len(times)) for i, at in enumerate(times)),
        )
    else:
        points = _pairs(document.get("points"), "points", where)
    if not points or points[0][0] != 0.0:
        msg = f"{where}: Invalid points: expected [0, ratio] as the first one"
        raise TraceError(msg)
    if any(after[0] < before[0] or after[1] < before[1] for before, after in pairwise(points)):
        msg = f"{where}: Invalid points: expected ascending times and ratios"
        raise TraceError(msg)
    if points[-1][0] > duration * (1 + 1e-9) or points[-1][1] > 1.0:
        msg = f"{where}: Invalid point {list(points[-1])}: expected at most duration_s ({duration}) and 1"
        raise TraceError(msg)
    return points


def _pairs(value: object, name: str, where: str) -> Points:
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        msg = f"{where}: Invalid {name}: expected a list of pairs of numbers"
        raise TraceError(msg)
    return tuple((_seconds(first, name, where), _seconds(second, name, where)) for first, second in value)


def _seconds(value: object, name: str, where: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        msg = f"{where}: Invalid {name} {value!r}: expected a number of at least 0"
        raise TraceError(msg)
    return float(value)


def merged(groups: Sequence[Groups]) -> Groups:
    """Return several sets of runs as one."""
    return {key: runs for one in groups for key, runs in one.items()}
