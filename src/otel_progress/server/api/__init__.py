"""The endpoints of the REST API, a file for each subject."""

from otel_progress.server.api.routes import add_endpoints

__all__ = ["add_endpoints"]
