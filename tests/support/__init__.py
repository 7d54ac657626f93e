"""Helpers that tests share. Only modules here may be imported by tests."""
