"""Dashboards, exporters with simulated history, and a Prometheus for tests."""
