"""Check of ``doctor``: the platforms that receive progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from otel_progress.cli.findings import Finding
from otel_progress.errors import UnavailableError
from otel_progress.platforms.selection import check_platform, select_platforms

_CHECK: Final = "platform"


def check_platforms(report_to: Sequence[str], environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding per platform of the setting ``report_to``.

    Without the setting, yield one for the platforms that are present. URLs are not shown.
    """
    if not report_to:
        # Why without the taskbar: each terminal would get a note.
        present = [name for name in select_platforms(["auto"], environ) if name != "taskbar"]
        if present:
            text = f"does not receive progress. Set OTEL_PROGRESS_REPORT_TO={present[0]} or auto"
            yield Finding(_CHECK, "note", f"{', '.join(present)} {text}")
        else:
            yield Finding(_CHECK, "ok", "no platform is present")
        return
    names = select_platforms(report_to, environ)
    for name in names:
        label = "a health check" if "://" in name else name
        try:
            check_platform(name, environ)
        except UnavailableError as error:
            yield Finding(_CHECK, "problem", str(error))
        else:
            yield Finding(_CHECK, "ok", f"{label} receives progress")
    if not names:
        yield Finding(_CHECK, "note", "report_to is auto, and no platform is present")
