"""Execution of a command as an operation, with unchanged input, output and signals."""
