"""Integrations with other libraries. They report to the current level."""
