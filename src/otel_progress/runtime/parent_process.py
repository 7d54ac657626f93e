"""Children of multiprocessing: detection, and settings of their parent process.

A process object of multiprocessing has a dictionary that its children inherit with every start
method. This module stores the settings of the process there. It never imports multiprocessing,
which is slow, because a process that has not imported it has no such children.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_PROCESS_MODULE: Final = "multiprocessing.process"


_CONFIG_KEY: Final = "otel_progress"
"""Key in the inherited dictionary. Other keys are those of multiprocessing, such as ``authkey``."""


class ParentSettings(NamedTuple):
    """Settings of the parent process.

    ``environ`` are environment variables. ``resources`` are the values of the settings of
    resources that exist once per process, such as ports, by the name of the setting.
    """

    environ: Mapping[str, str]
    resources: Mapping[str, object]


_parent_settings: dict[int, ParentSettings | None] = {}
"""Settings of the parent process, by the id of this process."""


def is_multiprocessing_child() -> bool:
    """Return True in a child of multiprocessing.

    Also while it imports the main module.
    """
    module = sys.modules.get(_PROCESS_MODULE)
    return module is not None and (
        getattr(module, "_parent_process", None) is not None or _is_inheriting(module)
    )


def is_pool_child() -> bool:
    """Return True in a child of multiprocessing or billiard.

    billiard runs the pools of Celery.

    Such a child may be killed as soon as its task has returned.
    """
    module = sys.modules.get(_PROCESS_MODULE)
    process = getattr(module, "_current_process", None)
    # Why: billiard stores its process objects in the module of multiprocessing, too.
    return getattr(process, "_parent_pid", None) is not None or is_multiprocessing_child()


def is_importing_main() -> bool:
    """Return True while a new process imports the main module of its parent process.

    The parent process has run the same code. The server process of the start method forkserver
    imports the main module, too.
    """
    module = sys.modules.get(_PROCESS_MODULE)
    return module is not None and _is_inheriting(module)


def _is_inheriting(module: Any) -> bool:
    return bool(getattr(getattr(module, "_current_process", None), "_inheriting", False))


def can_publish() -> bool:
    """Return True if multiprocessing is imported."""
    return _PROCESS_MODULE in sys.modules


def publish_settings(settings: ParentSettings) -> bool:
    """Store the settings of this process for its children of multiprocessing.

    Return False if multiprocessing is not imported.
    """
    config = _get_config()
    if config is None:
        return False
    read_parent_settings()
    config[_CONFIG_KEY] = (os.getpid(), settings.environ, settings.resources)
    return True


def withdraw_settings() -> None:
    """Remove the settings of this process."""
    config = _get_config()
    if config is not None and config.get(_CONFIG_KEY, (0,))[0] == os.getpid():
        del config[_CONFIG_KEY]


def read_parent_settings() -> ParentSettings | None:
    """Return the settings of the parent process, or None.

    They are unknown while the main module is imported.
    """
    pid = os.getpid()
    if pid in _parent_settings:
        return _parent_settings[pid]
    config = _get_config()
    if config is None or not is_multiprocessing_child() or is_importing_main():
        return None
    found = config.get(_CONFIG_KEY)
    if found is None or found[0] == pid:
        return None
    _parent_settings.clear()
    settings = _parent_settings[pid] = ParentSettings(*found[1:])
    return settings


def _get_config() -> dict[str, Any] | None:
    process = getattr(sys.modules.get(_PROCESS_MODULE), "_current_process", None)
    config = getattr(process, "_config", None)
    return config if isinstance(config, dict) else None
