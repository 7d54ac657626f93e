"""Dashboards, exporters with simulated history, and a Prometheus for the tests of the dashboards."""
