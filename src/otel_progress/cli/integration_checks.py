"""Check of ``doctor``: the integrations with other libraries.

It reads the metadata of installed packages and imports no library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Final

from otel_progress.cli.findings import Finding
from otel_progress.integrations.catalog import INTEGRATIONS, Integration
from otel_progress.integrations.switches import ALL, find_switch
from otel_progress.text import escape_controls

_CHECK: Final = "integration"


_GROUP: Final = "opentelemetry_instrumentor"


_BASE: Final = "opentelemetry-instrumentation"
"""Package of ``opentelemetry-instrument``."""


def check_integrations(
    environ: Mapping[str, str], integrations: Sequence[Integration] = INTEGRATIONS
) -> Iterator[Finding]:
    """Yield a finding per installed library, and one for all that are missing."""
    registered = {entry.name: entry for entry in entry_points(group=_GROUP)}
    has_command = _find_version(_BASE) is not None
    yield _check_command(has_command, registered, environ)
    missing = []
    for integration in integrations:
        found = [(name, _find_version(name)) for name in integration.distributions]
        installed = [f"{name} {number}" for name, number in found if number is not None]
        if integration.distributions and not installed:
            missing.append(integration.name)
            continue
        library = f" ({escape_controls(', '.join(installed))})" if installed else ""
        label = f"{integration.name}{library}"
        reason = _find_reason(integration, has_command, registered, environ)
        if not integration.instrumentor:
            yield Finding(_CHECK, "ok", f"{label} is available. {integration.usage}")
        elif reason:
            yield Finding(_CHECK, "note", f"{label} is inactive: {reason}. {integration.usage}")
        else:
            usage = integration.usage[:1].lower() + integration.usage[1:]
            text = f"{label} is active with opentelemetry-instrument. Without it, {usage}"
            yield Finding(_CHECK, "ok", text)
    if missing:
        yield Finding(_CHECK, "note", f"libraries that are not installed: {', '.join(missing)}")


def _check_command(
    has_command: bool, registered: Mapping[str, EntryPoint], environ: Mapping[str, str]
) -> Finding:
    """Check the start of the recording by ``opentelemetry-instrument``."""
    if not has_command:
        text = "opentelemetry-instrument is not installed (optional): pip install opentelemetry-distro"
        return Finding(_CHECK, "note", text)
    reason = _find_switch_or_gap(ALL, registered, environ)
    if reason:
        return Finding(_CHECK, "note", f"opentelemetry-instrument does not record progress: {reason}")
    return Finding(_CHECK, "ok", "opentelemetry-instrument records progress without a call of configure()")


def _find_reason(
    integration: Integration,
    has_command: bool,
    registered: Mapping[str, EntryPoint],
    environ: Mapping[str, str],
) -> str:
    """Return the reason why an instrumentor is inactive, or an empty text."""
    name = integration.instrumentor
    if not name:
        return ""
    if not has_command:
        return f"{_BASE} is not installed"
    return _find_switch_or_gap(name, registered, environ) or _find_conflict(registered[name])


def _find_switch_or_gap(name: str, registered: Mapping[str, EntryPoint], environ: Mapping[str, str]) -> str:
    switch = find_switch(name, environ)
    if switch:
        return switch
    if name not in registered:
        return (
            f"the entry point {name} is missing, because an older version of otel-progress was installed. "
            "Install otel-progress again"
        )
    return ""


def _find_conflict(entry_point: EntryPoint) -> str:
    """Return the requirement that the library does not meet, or an empty text.

    The instrumentor is a class of this package. It imports its library only when it is activated.
    """
    from opentelemetry.instrumentation.dependencies import get_dependency_conflicts

    requirements = entry_point.load()().instrumentation_dependencies()
    conflict = get_dependency_conflicts(requirements)
    if conflict is None:
        return ""
    found = getattr(conflict, "found", None)
    return f"it requires {' or '.join(requirements)}" + (f", found {found}" if found else "")


def _find_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
