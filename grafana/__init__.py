"""Generator of the Grafana dashboards of otel-progress.

``python -m grafana`` writes ``grafana/dashboards/*.json``, and ``--check`` compares them. Metric
and label names come from :mod:`otel_progress.semconv` only, so a dashboard uses existing names. The
generator needs grafana-foundation-sdk (Python 3.11 and newer), a development dependency. The files
are committed and shipped.
"""

import warnings

with warnings.catch_warnings():
    # At import the SDK warns about a newer schema. Some releases of Grafana reject files of that
    # schema in provisioning.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    from grafana_foundation_sdk.builders import bargauge, dashboard  # noqa: F401 - the import warns only once
