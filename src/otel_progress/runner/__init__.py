"""Execution of a command as an operation, with unchanged streams and signals."""
