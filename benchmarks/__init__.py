"""Benchmarks of the overhead, compared with tqdm, rich and the plain SDK.

``python -m benchmarks`` prints a table.
"""
