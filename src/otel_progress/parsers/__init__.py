"""Parsers of the progress that commands print. Pure: no input, output or clock."""
