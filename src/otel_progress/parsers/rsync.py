"""Output of ``rsync --info=progress2``: bytes, percentage, rate and files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from otel_progress.parsers.numbers import PERCENT
from otel_progress.parsers.readings import Reading

if TYPE_CHECKING:
    from otel_progress.parsers.lines import Line


_PROGRESS: Final = re.compile(
    r"([\d,.']{1,30}[KMGTP]?) +(\d{1,3})% +([\d.,]{1,20}[kKMGTP]?B/s) +(\d{1,6}:\d\d:\d\d)"
    r"(?: \((?:xfr|xfer)#(\d{1,12}), (?:to-chk|ir-chk|to-check)=(\d{1,12})/(\d{1,12})\))?"
)


class RsyncParser:
    """Parser of ``rsync --info=progress2``: the percentage of all files."""

    is_stateless = True

    def parse_line(self, line: Line) -> Iterable[Reading]:
        """Return the progress of a line."""
        match = _PROGRESS.fullmatch(line.text)
        if match is None or int(match[2]) > 100:
            return ()
        files = "" if match[5] is None else f", {match[5]} files"
        message = f"{match[1]} bytes{files}, {match[3]}"
        return (Reading(current=int(match[2]), total=100, unit=PERCENT, message=message),)
