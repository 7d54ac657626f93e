"""Names of environment variables, as options of ``opentelemetry-instrument``.

The command makes an option of each name that starts with ``OTEL_``: ``--progress_store`` sets
``OTEL_PROGRESS_STORE``. Secrets are left out, because other users can read the command line of a
process.
"""

from __future__ import annotations

from otel_progress.settings.fields import PREFIX, SETTINGS

__all__ = [
    name
    for setting in SETTINGS
    if not setting.secret
    for name in setting.variables
    if name.startswith(PREFIX)
]

globals().update({name: name for name in __all__})
