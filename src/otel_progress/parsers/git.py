"""Output of ``git --progress``: one level per phase.

Examples are ``Receiving objects:  45% (270/604), 1.00 MiB | 2.70 MiB/s`` and
``remote: Enumerating objects: 604, done.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from otel_progress.model import Status
from otel_progress.parsers.readings import LevelKey, Reading

if TYPE_CHECKING:
    from otel_progress.parsers.lines import Line


MAX_PHASES: Final = 100
"""Phases of one command. Further phases are ignored."""


_PHASE: Final = re.compile(
    r"(?:remote: )?([A-Z][A-Za-z ,'-]{2,60}): +"
    r"(?:(\d{1,3})% \((\d{1,15})/(\d{1,15})\)|(\d{1,15}))(?:, ([^,]{1,60}))??(, done\.)?"
)


_UNITS: Final = {"objects": "object", "deltas": "delta", "files": "file", "commits": "commit"}


class GitParser:
    """Parser of the phases that git counts.

    A phase with a total is recognised by its percentage, which has to agree with its count.
    """

    is_stateless = False

    __slots__ = ("_phases",)

    def __init__(self) -> None:
        self._phases: set[str] = set()

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the progress of a phase, and its end."""
        match = _PHASE.fullmatch(line.text)
        if match is None:
            return ()
        title, percentage, count, count_total, lone_count, rate, done = match.groups()
        if count is None:
            # Why: without a total only known phases are safe to recognise.
            if title != "Enumerating objects":
                return ()
            current, total = int(lone_count), None
        else:
            current, total = int(count), int(count_total)
            if total <= 0 or current > total or int(percentage) != current * 100 // total:
                return ()
        if title not in self._phases:
            if len(self._phases) >= MAX_PHASES:
                return ()
            self._phases.add(title)
        key = LevelKey("phase", title.lower().replace(" ", "-"), title)
        reading = Reading(
            level=key,
            current=current,
            total=total,
            unit=_UNITS.get(title.rpartition(" ")[2]),
            message=rate,
            status=Status.COMPLETED if done else None,
        )
        return (reading,)
