"""Settings of a recording that starts without a call of ``configure()``.

This module imports little, because every process under ``opentelemetry-instrument`` imports it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from otel_progress.runtime.parent_process import read_parent_settings
from otel_progress.settings.fields import PREFIX, Settings

AUTOMATIC_DEFAULTS: Final[Mapping[str, str]] = {
    "OTEL_PROGRESS_CONSOLE": "false",
    "OTEL_PROGRESS_STORE": "memory:",
}
"""Variables of a start without code, unless the environment has others. Why: the package may be
installed only because another package requires it. Then nothing is printed and no file is written.
"""


automatic_options: Final[dict[str, Any]] = {}
"""Options of the instrumentor, such as those of a file. Arguments of ``configure()`` override them.
"""


def read_automatic_settings(options: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a start without code.

    ``options`` override the environment. ``environ`` has defaults of variables that the environment
    does not set, in addition to ``AUTOMATIC_DEFAULTS``. A child of multiprocessing uses the
    settings of its parent process. Raises ConfigurationError for an invalid value.
    """
    parent = read_parent_settings()
    inherited = {} if parent is None else parent.environ
    variables = {name: value for name, value in os.environ.items() if value.strip()}
    settings = Settings.from_environ({**AUTOMATIC_DEFAULTS, **environ, **variables, **inherited})
    own = {name: value for name, value in options.items() if PREFIX + name.upper() not in inherited}
    return settings.with_arguments(**own)
