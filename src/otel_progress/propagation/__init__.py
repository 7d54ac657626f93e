"""Propagation of levels to other processes, by environment and headers."""
