"""Prometheus metrics: the series, the counters, the collector and its HTTP server."""
