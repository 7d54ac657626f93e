"""Generates the Grafana dashboards of otel-progress: ``python -m grafana`` writes ``grafana/dashboards/*.json``, ``--check`` compares.

Metric and label names come from :mod:`otel_progress.semconv` alone, so that a dashboard cannot ask for what is not exported. Needs
grafana-foundation-sdk (Python 3.11 and up), which only development has: the files themselves are committed and shipped.
"""

import warnings

with warnings.catch_warnings():
    # At import it warns that there is a newer schema. Files of that are refused by the provisioning of some releases of Grafana.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    from grafana_foundation_sdk.builders import bargauge, dashboard  # noqa: F401 - all that warns; whoever comes later is not warned
