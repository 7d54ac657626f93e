"""Comparison with golden files, and the sample data that is compared."""
