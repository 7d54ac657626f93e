"""Endpoints of the REST API, one file per subject."""

from otel_progress.server.api.routes import add_endpoints

__all__ = ["add_endpoints"]
