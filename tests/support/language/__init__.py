"""Checker of the writing rules and its list of banned phrases."""
