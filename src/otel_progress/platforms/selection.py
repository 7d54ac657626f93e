"""Selection of the platforms by the setting ``report_to`` and the environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from otel_progress.errors import UnavailableError
from otel_progress.platforms import argo, github, kubeflow, systemd, taskbar
from otel_progress.platforms.health_check import HealthCheckPlatform
from otel_progress.platforms.reporter import Platform

_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "argo": (argo.VARIABLE,),
    "github": (github.VARIABLE,),
    "kubeflow": (kubeflow.URL, kubeflow.CA_CERT, kubeflow.TOKEN),
    "systemd": (systemd.SOCKET,),
}
"""Variables that each platform sets for its processes."""


_AUTOMATIC: Final = (*_VARIABLES, "taskbar")
"""Platforms that ``auto`` selects if they are present."""


def select_platforms(names: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the names and URLs, with the present platforms instead of ``auto``."""
    selected: dict[str, None] = {}
    for name in names:
        found = [each for each in _AUTOMATIC if is_present(each, environ)] if name == "auto" else [name]
        selected.update(dict.fromkeys(found))
    return list(selected)


def is_present(name: str, environ: Mapping[str, str]) -> bool:
    """Return True if a platform runs this process."""
    if name == "taskbar":
        return taskbar.find_terminal() is not None and taskbar.is_supported(environ)
    if name == "kubeflow" and environ.get("RANK", "0").strip() not in ("", "0"):
        # Why: all processes of a distributed training do the same work, and the first one reports.
        return False
    return _find_gap(name, environ) == ""


def check_platform(name: str, environ: Mapping[str, str]) -> None:
    """Raise UnavailableError if the environment does not have a platform."""
    if "://" in name:
        return
    gap = _find_gap(name, environ)
    if gap:
        msg = f"Invalid report_to {name}: expected {gap}. Remove it, or use auto."
        raise UnavailableError(msg)


def build_platform(name: str, environ: Mapping[str, str]) -> Platform:
    """Return a platform. Raises UnavailableError if the environment does not have it."""
    check_platform(name, environ)
    if name == "argo":
        return argo.ArgoPlatform(environ)
    if name == "github":
        return github.GithubPlatform(environ)
    if name == "kubeflow":
        return kubeflow.KubeflowPlatform(environ)
    if name == "systemd":
        return systemd.SystemdPlatform(environ)
    if name == "taskbar" and (terminal := taskbar.find_terminal()) is not None:
        return taskbar.TaskbarPlatform(terminal)
    return HealthCheckPlatform(name)


def _find_gap(name: str, environ: Mapping[str, str]) -> str:
    """Return the missing part of the environment, or an empty text."""
    if name == "taskbar":
        return "" if taskbar.find_terminal() is not None else "a terminal on stderr"
    missing = [variable for variable in _VARIABLES[name] if not environ.get(variable, "").strip()]
    if missing:
        return f"the variables {', '.join(missing)}" if len(missing) > 1 else f"the variable {missing[0]}"
    if name == "systemd" and (sys.platform == "win32" or environ[systemd.SOCKET][0] not in "/@"):
        return f"a Unix socket in {systemd.SOCKET}"
    if name == "kubeflow" and not environ[kubeflow.URL].lower().startswith("https://"):
        return f"an https URL in {kubeflow.URL}"
    return ""
